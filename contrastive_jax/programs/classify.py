r"""Classifies pictures by the names of classes, without training (zero-shot).

  python -m experiments.classify --model=runs/clip_emoji --inputs=photos \
      --labels="cup,dog,red heart" --out=classes.csv

Each picture gets the likeliest label and its probability: a softmax over the labels, or,
of a model that was trained by sigmoids, a probability of its own.
"""

import contextlib
import csv
import itertools
import pathlib
import sys
from typing import IO, Any

from absl import flags

from contrastive_jax.programs import command_line, model_flags
from contrastive_jax.training.config import errors

_FLAGS = flags.FlagValues()
_MODEL = model_flags.model(_FLAGS)
_INPUTS = model_flags.inputs(_FLAGS)
_LABELS = flags.DEFINE_list(
  "labels", [], "Names of the classes, separated by commas.", flag_values=_FLAGS
)
_LABELS_FILE = flags.DEFINE_string(
  "labels_file",
  "",
  "Text file with the name of a class in each line, instead of --labels.",
  flag_values=_FLAGS,
)
_TEMPLATE = flags.DEFINE_multi_string(
  "template",
  [],
  "Text around a name, with {} in its place; may be given several times; the model's"
  " own if absent.",
  flag_values=_FLAGS,
)
_OUT = flags.DEFINE_string(
  "out",
  "",
  "CSV file that receives key, label and probability; the terminal if empty.",
  flag_values=_FLAGS,
)
_BATCH_SIZE = flags.DEFINE_integer(
  "batch_size",
  64,
  "Pictures that are embedded at once.",
  lower_bound=1,
  flag_values=_FLAGS,
)


def main() -> None:
  """Runs the program."""
  model_flags.given(_INPUTS)
  labels = _labels()
  from contrastive_jax import inference
  from contrastive_jax.inference import embedding_files, inputs

  skipped: list[Any] = []
  try:
    model = inference.load(_MODEL.value, batch_size=_BATCH_SIZE.value)
    classes = model.class_weights(labels, _TEMPLATE.value or None)
    pictures = itertools.chain.from_iterable(
      part.read() for part in inputs.parts(_INPUTS.value)
    )
    count = 0
    with _opened() as file:
      writer = csv.writer(file)
      writer.writerow(["key", "label", "probability"])
      for keys, embeddings in embedding_files.stream(
        model, pictures, skipped.append
      ):
        found = model.probabilities(embeddings, classes)
        for key, row, best in zip(keys, found, found.argmax(axis=1)):
          writer.writerow([key, labels[best], f"{row[best]:.4f}"])
        count += len(keys)
  except ValueError as error:
    raise errors.UserError(str(error)) from error
  # Beside the table, which may go on to another program.
  for problem in skipped:
    print(f"Left out: {problem.key}: {problem.problem}", file=sys.stderr)
  if not count:
    raise errors.UserError("No picture could be read; see --inputs.")
  where = f" in {_OUT.value}" if _OUT.value else ""
  print(
    f"{count:,} pictures are classified{where}, {len(skipped):,} could not be read.",
    file=sys.stderr,
  )


def _labels() -> list[str]:
  """The names of the classes."""
  if bool(_LABELS.value) == bool(_LABELS_FILE.value):
    raise errors.UserError(
      "--labels or --labels_file must name the classes; give one of them."
    )
  labels = _LABELS.value
  if _LABELS_FILE.value:
    path = pathlib.Path(_LABELS_FILE.value).expanduser()
    try:
      labels = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
      raise errors.UserError(
        f"--labels_file={path} cannot be read: {error}."
      ) from error
  labels = [label.strip() for label in labels if label.strip()]
  if not labels:
    raise errors.UserError("--labels_file must hold a name; it is empty.")
  return labels


def _opened() -> contextlib.AbstractContextManager[IO[str]]:
  """The file of --out, or the terminal."""
  if not _OUT.value:
    return contextlib.nullcontext(sys.stdout)
  path = pathlib.Path(_OUT.value).expanduser()
  try:
    return open(path, "w", newline="", encoding="utf-8")
  except OSError as error:
    raise errors.UserError(
      f"{path} cannot be written: {error.strerror}."
    ) from error


def start() -> None:
  """Parses the command line and runs the program."""
  command_line.run(
    main, flag_values=_FLAGS, usage=__doc__, addresses=("model", "inputs")
  )


if __name__ == "__main__":
  start()
