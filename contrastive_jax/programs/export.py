r"""Writes a run's model as a folder that stands by itself.

  python -m experiments.export --workdir=runs/clip_emoji --out=clip_emoji
  python -m experiments.export --workdir=runs/clip_emoji --out=clip_emoji \
      --format=stablehlo

The folder has model.safetensors, config.json, tokenizer.json and README.md, and
`contrastive_jax.load(FOLDER)` opens it. A finished run has one, WORKDIR/model, so that
this is for other checkpoints and other places. The training data are not needed. The
parameters are those that evaluation uses (averaged, if the run averages them). What
--format adds:

  stablehlo     the encoders as programs, which run without this package, on CPUs, GPUs
                and TPUs
  open_clip     what open_clip opens, of CLIP's ViTs and ResNets
  transformers  a folder that Hugging Face's transformers opens, of CLIP's and SigLIP's
                ViTs
  weights       one file under published names: open_clip's, ALBEF's, timm's,
                torchvision's
"""

import importlib
import pathlib

from absl import flags

from contrastive_jax.data.files import stores
from contrastive_jax.programs import command_line
from contrastive_jax.training import config as config_lib

_FLAGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_string(
  "workdir", "runs/clip_emoji", "Folder of the run.", flag_values=_FLAGS
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
  "Folder that is written; WORKDIR/model if empty.",
  flag_values=_FLAGS,
)
_FORMAT = flags.DEFINE_enum(
  "format",
  "contrastive_jax",
  ("contrastive_jax", "stablehlo", "open_clip", "transformers", "weights"),
  "Form of the folder: what contrastive_jax.load opens, alone or with more beside it.",
  flag_values=_FLAGS,
)


def main() -> None:
  """Runs the program."""
  from contrastive_jax import inference
  from contrastive_jax.inference import folder
  from contrastive_jax.training.runs import model_folder

  workdir = pathlib.Path(stores.local(_WORKDIR.value)).expanduser()
  given = _OUT.value or f"{_WORKDIR.value.rstrip('/')}/{folder.IN_WORKDIR}"
  with stores.writable(given) as place:
    out = place.local
    try:
      step = model_folder.export(workdir, out, step=_STEP.value)
      if _FORMAT.value != "contrastive_jax":
        form = importlib.import_module(
          f"contrastive_jax.inference.{_FORMAT.value}"
        )
        for path in form.save(out):
          print(f"Wrote {path.relative_to(out)}.")
    except inference.ModelError as error:
      raise config_lib.UserError(str(error)) from error
  print(f"Wrote the model of step {step:,} to {given}.")


def start() -> None:
  """Parses the command line and runs the program."""
  command_line.run(
    main, flag_values=_FLAGS, usage=__doc__, addresses=("workdir", "out")
  )


if __name__ == "__main__":
  start()
