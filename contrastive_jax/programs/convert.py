"""Converts image-text pairs into records with random access.

python -m experiments.convert_pairs --inputs=shards --out=pairs
"""

import re

from absl import flags

from contrastive_jax.data.files import stores
from contrastive_jax.programs import command_line
from contrastive_jax.training import config as config_lib

_FLAGS = flags.FlagValues()
_INPUTS = flags.DEFINE_string(
  "inputs",
  "",
  "Files, folders or patterns (in quotes), separated by commas; ** is any folders,"
  " {000..127} numbers.",
  flag_values=_FLAGS,
)
_OUT = flags.DEFINE_string(
  "out",
  "",
  "Output folder; the same command resumes there, and bad examples are listed in its"
  " skipped.jsonl.",
  flag_values=_FLAGS,
)
_FORMAT = flags.DEFINE_enum(
  "format",
  "auto",
  ("auto", "tar", "parquet", "arrow", "list"),
  "Input format of all inputs; auto detects it by the files' names.",
  flag_values=_FLAGS,
)
_IMAGE_ROOT = flags.DEFINE_string(
  "image_root",
  "",
  "Folder against which image paths in list files are resolved; the list's own folder"
  " if empty.",
  flag_values=_FLAGS,
)
_COLUMNS = {
  name: flags.DEFINE_string(
    f"{name}_column",
    "",
    f"Name of the column that holds the {name}, if it is not a usual one.",
    flag_values=_FLAGS,
  )
  for name in ("image", "caption", "label", "key")
}
_IMAGES_ALONE = flags.DEFINE_bool(
  "images_alone",
  False,
  "Convert images without captions, with their classes where there are any (.cls), for"
  " objectives of images alone.",
  flag_values=_FLAGS,
)
_CAPTION_LINES = flags.DEFINE_bool(
  "caption_lines",
  False,
  "Take each line of a text for a caption.",
  flag_values=_FLAGS,
)
_MEMBERS = {
  name: flags.DEFINE_string(
    f"{name}_member",
    "",
    f"Extension of the members of tar archives that hold the {name}, such as {usual};"
    " any usual one if empty.",
    flag_values=_FLAGS,
  )
  for name, usual in (("image", "rgb.png"), ("caption", "short.txt"))
}
_SHORTER_SIDE = flags.DEFINE_integer(
  "shorter_side",
  0,
  "Pixels of the shorter side to which larger images are shrunk, as JPEGs; 0 keeps"
  " images as they are.",
  flag_values=_FLAGS,
)
_SHARES = {
  name: flags.DEFINE_float(
    name,
    0.0,
    f"Share of the captions whose images are held out as the {name} split, by a hash"
    " of the caption.",
    flag_values=_FLAGS,
  )
  for name in ("validation", "test")
}
_MAX_BAD_SHARE = flags.DEFINE_float(
  "max_bad_share",
  0.05,
  "Largest allowed share of bad examples, and of broken inputs.",
  flag_values=_FLAGS,
)
_RETRY = flags.DEFINE_bool(
  "retry",
  False,
  "Retry inputs that had problems before, such as missing images.",
  flag_values=_FLAGS,
)
_WORKERS = flags.DEFINE_integer(
  "workers",
  0,
  "Number of processes; 0 starts one a processor.",
  lower_bound=0,
  flag_values=_FLAGS,
)

_USAGE = """Converts image-text pairs into records with random access.

  python -m experiments.convert_pairs --inputs=shards --out=pairs
  python -m experiments.train --config.data=records --config.data.path=pairs

Inputs are
  .tar (.gz, .bz2, .xz)  shards of WebDataset and img2dataset
  .parquet, .arrow       tables with images in a column (Hugging Face's datasets)
  .tsv, .csv, .jsonl     lists of captions and paths of image files; without a first
                         line that names the columns, a caption and a path, as CC3M"""


def main() -> None:
  """Runs the program."""
  from contrastive_jax.data.sets.records import (
    caption_tables,
    conversion,
    items,
  )

  # A comma in braces separates no inputs.
  inputs = tuple(
    stores.local(p.strip())
    for p in re.split(r",(?![^{}]*\})", _INPUTS.value)
    if p.strip()
  )
  for flag, value in (("inputs", inputs), ("out", _OUT.value)):
    if not value:
      raise config_lib.UserError(f"--{flag} must be given; see --help.")
  if not 0.0 <= _MAX_BAD_SHARE.value <= 1.0:
    raise config_lib.UserError(
      f"--max_bad_share must be within 0..1; got {_MAX_BAD_SHARE.value:g}."
    )
  try:
    settings = conversion.ConversionSettings(
      inputs=inputs,
      format=_FORMAT.value,
      columns=caption_tables.Columns(
        **{k: v.value for k, v in _COLUMNS.items()}
      ),
      how=items.Reading(
        images_alone=_IMAGES_ALONE.value,
        caption_lines=_CAPTION_LINES.value,
        **{f"{name}_member": flag.value for name, flag in _MEMBERS.items()},
      ),
      image_root=_IMAGE_ROOT.value,
      shorter_side=_SHORTER_SIDE.value,
      **{name: share.value for name, share in _SHARES.items()},
    )
  except ValueError as error:
    raise config_lib.UserError(f"--{error}") from error
  with stores.writable(_OUT.value) as place:
    made = conversion.convert(
      settings,
      str(place.local),
      workers=_WORKERS.value,
      max_bad_share=_MAX_BAD_SHARE.value,
      retry=_RETRY.value,
    )
  counts = ", ".join(
    f"{n:,} {split}" for split, n in made.examples.items() if n
  )
  print(
    f"{counts} examples in {_OUT.value}; train with"
    f" --config.data=records --config.data.path={_OUT.value}"
  )


def start() -> None:
  """Parses the command line and runs the program."""
  command_line.run(
    main,
    flag_values=_FLAGS,
    usage=_USAGE,
    interrupted="the same command goes on where it was",
    addresses=("inputs", "out"),
  )


if __name__ == "__main__":
  start()
