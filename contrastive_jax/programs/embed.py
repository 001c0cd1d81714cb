r"""Embeds many pictures with a trained model, into parquet files.

  python -m experiments.embed --model=runs/clip_emoji --inputs=photos --out=embedded
  python -m experiments.search --embeddings=embedded --model=runs/clip_emoji \
      --query="a red cup"

The same command goes on where it was stopped, and embeds what is new or has changed.
The files have the columns key and embedding (float32, unit norm).
"""

import pathlib

from absl import flags

from contrastive_jax.data.files import stores
from contrastive_jax.programs import command_line, model_flags
from contrastive_jax.training.config import errors

_FLAGS = flags.FlagValues()
_MODEL = model_flags.model(_FLAGS)
_INPUTS = model_flags.inputs(_FLAGS)
_OUT = flags.DEFINE_string(
  "out", "", "Folder that receives the files.", flag_values=_FLAGS
)
_NPZ = flags.DEFINE_string(
  "npz",
  "",
  "File that receives all keys and embeddings as numpy.savez; none if empty.",
  flag_values=_FLAGS,
)
_HEAD = flags.DEFINE_enum(
  "head",
  "shared",
  ("shared", "independent", "both"),
  "Head of the model; those of second heads need a model that has them.",
  flag_values=_FLAGS,
)
_BATCH_SIZE = flags.DEFINE_integer(
  "batch_size",
  64,
  "Pictures that are embedded at once.",
  lower_bound=1,
  flag_values=_FLAGS,
)
_DTYPE = flags.DEFINE_enum(
  "dtype",
  "float32",
  ("float32", "bfloat16"),
  "Type of the computation.",
  flag_values=_FLAGS,
)
_MAX_BAD_SHARE = flags.DEFINE_float(
  "max_bad_share",
  0.05,
  "Largest allowed share of pictures that cannot be read.",
  lower_bound=0.0,
  upper_bound=1.0,
  flag_values=_FLAGS,
)
_PROCESS_ID = flags.DEFINE_integer(
  "process_id",
  0,
  "Number of this process, from 0, of several that share the inputs.",
  lower_bound=0,
  flag_values=_FLAGS,
)
_PROCESS_COUNT = flags.DEFINE_integer(
  "process_count",
  1,
  "Processes that share the inputs, on one host or on several.",
  lower_bound=1,
  flag_values=_FLAGS,
)


def main() -> None:
  """Runs the program."""
  model_flags.given(_INPUTS, _OUT)
  if _PROCESS_ID.value >= _PROCESS_COUNT.value:
    raise errors.UserError(
      f"--process_id must be below --process_count={_PROCESS_COUNT.value}; got"
      f" {_PROCESS_ID.value}."
    )
  from contrastive_jax import inference
  from contrastive_jax.inference import embedding_files

  try:
    model = inference.load(
      _MODEL.value, dtype=_DTYPE.value, batch_size=_BATCH_SIZE.value
    )
    with stores.writable(_OUT.value) as place:
      counts = embedding_files.embed(
        model,
        _INPUTS.value,
        place.local,
        head=_HEAD.value,
        max_bad_share=_MAX_BAD_SHARE.value,
        process_index=_PROCESS_ID.value,
        process_count=_PROCESS_COUNT.value,
      )
  except ValueError as error:
    raise errors.UserError(str(error)) from error
  print(
    f"{counts['pictures']:,} pictures are embedded in {_OUT.value},"
    f" {counts['skipped']:,} could not be read."
  )
  if _NPZ.value:
    path = pathlib.Path(_NPZ.value).expanduser()
    count = embedding_files.to_npz(place.local, path)
    print(f"{count:,} embeddings are in {path} as well.")


def start() -> None:
  """Parses the command line and runs the program."""
  command_line.run(
    main,
    flag_values=_FLAGS,
    usage=__doc__,
    interrupted="the same command goes on where it was",
    addresses=("model", "inputs", "out"),
  )


if __name__ == "__main__":
  start()
