"""Flags that several programs of a trained model have."""

from absl import flags

from contrastive_jax.training.config import errors


def model(flag_values: flags.FlagValues) -> flags.FlagHolder[str]:
  """--model."""
  return flags.DEFINE_string(
    "model",
    "runs/clip_emoji",
    "Folder of a model, of open_clip or of transformers, or workdir of a finished run.",
    flag_values=flag_values,
  )


def inputs(flag_values: flags.FlagValues) -> flags.FlagHolder[list[str]]:
  """--inputs; see `given`."""
  return flags.DEFINE_list(
    "inputs",
    [],
    "Folders of pictures, .txt files with a path a line, tar shards, parquet files and"
    " lists as convert_pairs takes them, sets that TFDS has prepared (FOLDER:SPLIT), or"
    " patterns (in quotes), separated by commas.",
    flag_values=flag_values,
  )


def given(*holders: flags.FlagHolder) -> None:
  """Raises UserError on a flag that has no value."""
  for flag in holders:
    if not flag.value:
      raise errors.UserError(f"--{flag.name} must be given; see --help.")
