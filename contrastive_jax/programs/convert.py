"""Converts image-text pairs into records with random access.

python -m experiments.convert_pairs --inputs=shards --out=pairs
"""

from absl import flags

from contrastive_jax.data.sets.records import conversion, tables
from contrastive_jax.programs import command_line as flags_lib
from contrastive_jax.training import config as config_lib

_FLAGS = flags.FlagValues()
_INPUTS = flags.DEFINE_string(
  "inputs", "", "Files, folders or patterns.", flag_values=_FLAGS
)
_OUT = flags.DEFINE_string("out", "", "Receives them.", flag_values=_FLAGS)
_FORMAT = flags.DEFINE_string("format", "auto", "Of all.", flag_values=_FLAGS)
_IMAGE_ROOT = flags.DEFINE_string(
  "image_root", "", "Of lists.", flag_values=_FLAGS
)
_COLUMNS = {
  name: flags.DEFINE_string(
    f"{name}_column", "", "Its name.", flag_values=_FLAGS
  )
  for name in ("image", "caption", "label", "key")
}
_SHORTER_SIDE = flags.DEFINE_integer(
  "shorter_side", 0, "Pixels.", flag_values=_FLAGS
)
_SHARES = {
  name: flags.DEFINE_float(name, 0.0, "Share.", flag_values=_FLAGS)
  for name in ("validation", "test")
}
_MAX_BAD_SHARE = flags.DEFINE_float(
  "max_bad_share", 0.05, "Share.", flag_values=_FLAGS
)
_RETRY = flags.DEFINE_bool("retry", False, "Bad parts.", flag_values=_FLAGS)
_WORKERS = flags.DEFINE_integer(
  "workers", 0, "Processes.", lower_bound=0, flag_values=_FLAGS
)

_USAGE = """Converts image-text pairs into records with random access.

  python -m experiments.convert_pairs --inputs=shards --out=pairs
  python -m experiments.train --config.data=records --config.data.path=pairs

Flags:
  --inputs=A,B       files, folders or patterns (in quotes), separated by commas:
                     .tar (.gz, .bz2, .xz)  WebDataset's and img2dataset's shards
                     .parquet               images in a column
                     .tsv, .csv, .jsonl     captions and paths of image files; without
                                            a first line that names the columns, a
                                            caption and a path, as CC3M has them
  --out=DIR          receives the records; the same command goes on where it was
                     stopped. Bad examples are listed in DIR/skipped.jsonl
  --validation=.01   share of the captions whose images become the validation split, by
                     a hash of the caption; --test=.01 of the test split
  --shorter_side=N   makes larger images JPEGs of N pixels; default all as they are
  --image_root=DIR   below which a list's images are; default where the list is
  --image_column=X   and --caption_column, --label_column, --key_column: columns with
                     names that are not known
  --format=X         tar, parquet or list, if the names of the files do not tell
  --max_bad_share=X  of the examples may be bad, and of the shards broken; default 0.05
  --retry            converts parts with problems again, as when images that were
                     missing are there now (changed files are, without it)
  --workers=N        processes; default one a processor
"""


def main() -> None:
  """Runs the program."""
  inputs = tuple(p.strip() for p in _INPUTS.value.split(",") if p.strip())
  for flag, value in (("inputs", inputs), ("out", _OUT.value)):
    if not value:
      raise config_lib.UserError(f"--{flag} must be given; see --help.")
  if not 0.0 <= _MAX_BAD_SHARE.value <= 1.0:
    raise config_lib.UserError(
      f"--max_bad_share must be within 0..1; got {_MAX_BAD_SHARE.value:g}."
    )
  try:
    settings = conversion.Settings(
      inputs=inputs,
      format=_FORMAT.value,
      columns=tables.Columns(**{k: v.value for k, v in _COLUMNS.items()}),
      image_root=_IMAGE_ROOT.value,
      shorter_side=_SHORTER_SIDE.value,
      **{name: share.value for name, share in _SHARES.items()},
    )
  except ValueError as error:
    raise config_lib.UserError(f"--{error}") from error
  made = conversion.convert(
    settings,
    _OUT.value,
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
  flags_lib.run(
    main,
    flag_values=_FLAGS,
    usage=_USAGE,
    interrupted="the same command goes on where it was",
  )
