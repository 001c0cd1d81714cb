"""Writes a run's model as safetensors, under the names of open_clip or ALBEF.

  python -m experiments.export_weights --workdir=runs/clip --out=clip.safetensors

The parameters are those that evaluation uses (averaged, if the run averages them).
"""

import pathlib

from absl import flags

from contrastive_jax.programs import command_line
from contrastive_jax.training import config as config_lib

_FLAGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_string(
  "workdir",
  "runs/clip",
  "Folder of an earlier run, of a preset with published names (vit_b32, vit_b16,"
  " vit_l14, vit_s16, vit_ti16, rn50, siglip_b16, ...).",
  flag_values=_FLAGS,
)
_STEP = flags.DEFINE_integer(
  "step",
  None,
  "Step of the checkpoint; the newest if absent.",
  flag_values=_FLAGS,
)
_OUT = flags.DEFINE_string(
  "out",
  "",
  "File that is written; model.safetensors in the workdir if empty.",
  flag_values=_FLAGS,
)


def main() -> None:
  """Runs the program."""
  from contrastive_jax.models import pretrained
  from contrastive_jax.training.config import workdirs
  from contrastive_jax.training.runs import runner

  workdir = pathlib.Path(_WORKDIR.value).expanduser()
  run, state = runner.restore(workdir, step=_STEP.value)
  path = pathlib.Path(_OUT.value or workdir / "model.safetensors").expanduser()
  variables = {
    "params": state.eval_params,
    **state.objective_state.get("model", {}),
  }
  tokenizer = workdirs.read_tokenizer(workdir / "tokenizer.json")
  try:
    pretrained.save(
      run.objective.model,
      variables,
      path,
      logit_bias=getattr(run.config.loss, "takes_bias", False),
      mask=tokenizer.mask_id if tokenizer else None,
    )
  except (pretrained.PretrainedError, pretrained.WeightFileError) as error:
    raise config_lib.UserError(str(error)) from error
  print(f"Wrote {path}.")


def start() -> None:
  """Parses the command line and runs the program."""
  command_line.run(main, flag_values=_FLAGS, usage=__doc__)


if __name__ == "__main__":
  start()
