"""Opens `config.data.name=official`."""

import os
import pathlib
from collections.abc import Callable
from typing import Any

from contrastive_jax.data import folder
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
  from contrastive_jax.data import official

  settings = config.data
  for name in ("path", "format"):
    if not getattr(settings, name):
      raise config_lib.ConfigError(
        f"config.data=official needs config.data.{name}: see"
        " contrastive_jax.data.official for what is read."
      )
  path = os.path.expanduser(settings.path)
  try:
    return official.load(
      task,
      settings.format,
      path,
      os.path.expanduser(settings.image_root) or path,
      image_size=config.model.image_size,
      report_path=workdir / "skipped.jsonl",
      max_bad_share=settings.max_bad_share,
      report=report,
    )
  except folder.DataError:
    raise
  except ValueError as error:
    raise config_lib.ConfigError(f"config.data: {error}") from error
