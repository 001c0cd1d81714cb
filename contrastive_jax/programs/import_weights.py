r"""Makes a workdir of published weights, and evaluates it.

  python -m experiments.import_weights --preset=vit_b32 --weights=FILE
  python -m experiments.import_weights --preset=siglip_b16 --weights=FILE \
      --tokenizer=tokenizer.json --config.augment.normalization=symmetric

OpenAI's models have quick GELU, as the presets; open_clip's without it need
--config.model.overrides='{"image": {"activation": "gelu"},
"text": {"activation": "gelu"}}'. Weights that do not fit exactly need
--config.initial=weights --config.initial.allow=missing,unexpected.
Training that begins with weights needs no import: --config.initial=weights.
"""

from typing import Any

from absl import flags

from contrastive_jax.data.files import stores
from contrastive_jax.programs import command_line
from contrastive_jax.training import config as config_lib

_FLAGS = flags.FlagValues()
_CONFIG = command_line.define_config(flag_values=_FLAGS)
_WEIGHTS = flags.DEFINE_string(
  "weights",
  "",
  "Published checkpoint of the whole model: a safetensors, npz or torch file, or a"
  " folder that has one. Nothing in it is executed.",
  flag_values=_FLAGS,
)
_PRESET = flags.DEFINE_string(
  "preset",
  "vit_b32",
  "Model that the weights are of: vit_b32, vit_b16, vit_l14, rn50, siglip_b16, ...",
  flag_values=_FLAGS,
)
_TOKENIZER = flags.DEFINE_string(
  "tokenizer",
  "clip",
  "Vocabulary: clip (in the package), or a vocab.txt, tokenizer.json or SentencePiece"
  " .model file.",
  flag_values=_FLAGS,
)
_FIT = flags.DEFINE_enum(
  "fit",
  None,
  ("pad", "crop", "stretch"),
  "How pictures become squares; by default crop (CLIP's), stretch for SigLIP.",
  flag_values=_FLAGS,
)
_WORKDIR = flags.DEFINE_string(
  "workdir",
  "runs/imported",
  "Folder that becomes a finished run of no steps, for evaluate and export.",
  flag_values=_FLAGS,
)


def configure(
  values: Any, *, preset: str, weights: str, tokenizer: str, fit: str = ""
) -> config_lib.Config:
  """The configuration of a run of no steps, from a recipe's.

  Pictures become squares by `fit`; "" is as the model was evaluated, cropped, or
  stretched for SigLIP.

  Raises:
    UserError: if something is missing or wrong.
  """
  if not weights:
    raise config_lib.UserError(
      "--weights=FILE must name the weights to import; see --help."
    )
  from contrastive_jax import models

  if preset not in models.PRESETS:
    raise config_lib.UserError(
      f"--preset must be one of {', '.join(models.PRESETS)}; got {preset!r}."
    )
  begins_with_weights = values.initial.variant() == "weights"
  if values.tokenizer or (begins_with_weights and values.initial.weights):
    raise config_lib.UserError(
      "--weights and --tokenizer say what --config.initial.weights and"
      " --config.tokenizer would: leave these out."
    )
  values.steps = 0
  values.model.preset = preset
  values.tokenizer = tokenizer
  if not begins_with_weights:
    values.initial = "weights"
  values.initial.weights = weights
  fit = fit or ("stretch" if preset.startswith("siglip") else "crop")
  if "fit" in dir(values.data):
    values.data.fit = fit
  # It says how the model sees published sets, whichever are scored later.
  evaluators = dict(values.evaluation.evaluators)
  evaluators.setdefault("benchmarks", {})
  values.evaluation = evaluators
  values.evaluation.benchmarks.fit = fit  # pyrefly: ignore[missing-attribute]
  return config_lib.parse(values)


def main() -> None:
  """Runs the program."""
  from contrastive_jax.training.runs import results_file, runner

  config = configure(
    _CONFIG.value,
    preset=_PRESET.value,
    weights=_WEIGHTS.value,
    tokenizer=_TOKENIZER.value,
    fit=_FIT.value or "",
  )
  workdir = _WORKDIR.value
  with stores.writable(workdir) as place:
    results = runner.train(config, place.local)
  print("\n" + results_file.table(results))
  print(
    f"\nThe model is in {workdir}; score it with"
    f" {command_line.command('evaluate')} --workdir={workdir}"
  )


def start() -> None:
  """Parses the command line and runs the program."""
  command_line.run(
    main, flag_values=_FLAGS, usage=__doc__, addresses=("workdir",)
  )


if __name__ == "__main__":
  start()
