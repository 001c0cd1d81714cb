"""Opens `config.data.name=official`."""

import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

from contrastive_jax.data import sources
from contrastive_jax.data.sets.folder import reading
from contrastive_jax.training import config as config_lib

Report = Callable[[str], None]


def load(
  config: config_lib.Config, task: str, workdir: pathlib.Path, report: Report
) -> Any:
  """The data of `config.data.name=official` for a task or "captions".

  Raises:
    ConfigError: if the fields that it needs are missing or wrong.
    DataError: if the data cannot be used.
  """
  from contrastive_jax.data.sets import official

  settings = config.data
  options = _options(settings.official_options)
  for name in ("path", "format"):
    if not getattr(settings, name):
      raise config_lib.ConfigError(
        f"config.data=official needs config.data.{name}: see"
        " contrastive_jax.data.sets.official for what is read."
      )
  path = os.path.expanduser(settings.path)
  arguments: dict[str, Any] = {
    "path": path,
    "image_root": os.path.expanduser(settings.image_root) or path,
    "report_path": workdir / "skipped.jsonl",
    "max_bad_share": settings.max_bad_share,
    **options,
  }
  try:
    found: Any = official.load(
      task,
      settings.format,
      arguments.pop("path"),
      arguments.pop("image_root"),
      image_size=config.model.image_size,
      fit=settings.fit,
      report=report,
      **arguments,
    )
  except reading.DataError:
    raise
  except (TypeError, ValueError) as error:
    raise config_lib.ConfigError(f"config.data: {error}") from error
  splits = found if task == "captions" else found.splits
  # A run of no steps, as of a published CLIP, has nothing to train on.
  needed = config.steps or task != "captions"
  if needed and not len(splits.get(sources.TRAIN, ())):
    raise config_lib.ConfigError(
      f"config.data.path={settings.path!r} has no training examples; it has the"
      f" splits {', '.join(splits)}: name the files with"
      ' config.data.official_options=\'{"path": {"train": FILE}}\'.'
    )
  return found


def _options(text: str) -> dict[str, Any]:
  """`config.data.official_options`, parsed."""
  try:
    options = json.loads(text or "{}")
  except (ValueError, RecursionError) as error:
    raise config_lib.ConfigError(
      f"config.data.official_options must be JSON; got {text!r} ({error})."
    ) from error
  if not isinstance(options, dict):
    raise config_lib.ConfigError(
      f"config.data.official_options must be a JSON object; got {text!r}."
    )
  return options
