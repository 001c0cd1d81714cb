"""Files of a workdir, and mistakes in what a user gave."""

import contextlib
import json
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

from contrastive_jax.data.files import links
from contrastive_jax.data.text import tokenizer
from contrastive_jax.training import config as config_lib

# Into which a run writes all the time.
_FOLDERS = ("checkpoints", "checksums", "model", "tensorboard", "plots")


class WorkdirError(config_lib.UserError):
  """The workdir belongs to another run, or to none."""


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """Parses a file of the workdir.

  Raises:
    WorkdirError: if it is not a JSON object.
  """
  try:
    value = json.loads(path.read_text(encoding="utf-8"))
  except (ValueError, RecursionError) as error:  # No JSON, or no UTF-8.
    raise WorkdirError(
      f"{path} is not valid JSON ({error}): restore it, or choose another"
      " --workdir."
    ) from error
  if not isinstance(value, dict):
    raise WorkdirError(
      f"{path} is not a JSON object: restore it, or choose another --workdir."
    )
  return value


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes a file of the workdir, all of it or nothing."""
  # Written aside and moved: a killed run leaves no half file.
  temporary = path.with_suffix(".tmp")
  temporary.unlink(missing_ok=True)  # A link would be written through.
  temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
  temporary.replace(path)


def check_links(workdir: pathlib.Path) -> None:
  """Raises WorkdirError on a link that leads out of a workdir: writing goes there.

  The workdir, which exists, may be one itself.
  """
  link = links.leading_out(workdir)
  if link is not None:
    raise WorkdirError(
      f"{link} is a link that leads out of the workdir: put in its place what it"
      " leads to, or link the workdir as a whole."
    )


def unwritable(workdir: pathlib.Path) -> str:
  """A sentence about a folder of a run that takes no new file, or ""."""
  for folder in (workdir, *(workdir / name for name in _FOLDERS)):
    # Tried, as what a server says of rights need not be so.
    try:
      with tempfile.TemporaryFile(dir=folder):
        pass
    except FileNotFoundError:
      continue  # It is made later.
    except OSError as error:
      return cannot_write(folder, error)
  return ""


def cannot_write(path: pathlib.Path, error: OSError) -> str:
  """A sentence about something in a workdir that cannot be written."""
  return (
    f"{path} cannot be written ({error.strerror}): make it writable, or choose"
    " another --workdir."
  )


@contextlib.contextmanager
def mistakes_of_config() -> Iterator[None]:
  """Turns a `ValueError` into a `ConfigError`.

  For what only the configuration decides, such as the form of the model. What
  runs later must not be here: there a `ValueError` is a bug.
  """
  try:
    yield
  except config_lib.UserError:
    raise
  except ValueError as error:
    raise config_lib.ConfigError(str(error)) from error


def read_tokenizer(path: pathlib.Path) -> tokenizer.Tokenizer | None:
  """The vocabulary in a file; None if there is no such file."""
  if not path.exists():
    return None
  try:
    return tokenizer.Tokenizer.load(path)
  except ImportError as error:
    raise WorkdirError(f"{path}: {error}.") from error
  except ValueError as error:
    raise WorkdirError(
      f"{' '.join(str(error).split())}: restore it, or choose another"
      " --workdir."
    ) from error
