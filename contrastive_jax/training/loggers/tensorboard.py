"""The log of a run for TensorBoard."""

import contextlib
import json
import math
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


class Log:
  """Events under `workdir/tensorboard`; see `choices.Log`.

  What does not fit a full disk is left out: all of it is in files of the workdir.
  """

  def __init__(self, workdir: pathlib.Path, config: Mapping[str, Any]):
    """Writes nothing yet."""
    self._folder, self._config = workdir / "tensorboard", config

  def begin(self, step: int) -> None:
    """Opens a file of events, in which those of later steps do not count."""
    writer = _summary_writer()
    self._board = writer(str(self._folder), purge_step=step + 1)

  def write(self, step: int, numbers: Mapping[str, float]) -> None:
    """A scalar each; what is not finite is left out."""
    for name, value in numbers.items():
      if math.isfinite(value):
        self._board.add_scalar(name, value, step)

  def finish(
    self,
    step: int,
    results: Mapping[str, float],
    pictures: Sequence[pathlib.Path],
  ) -> None:
    """Scores as scalars, the configuration as a text, pictures as such."""
    from PIL import Image

    # Scores of training are there already.
    scores = {k: v for k, v in results.items() if not k.startswith("train/")}
    # Four spaces are Markdown's for what stands as it is.
    lines = json.dumps(self._config, indent=2).splitlines()
    with contextlib.suppress(OSError):
      self.write(step, scores)
      text = "\n".join(f"    {line}" for line in lines)
      self._board.add_text("config", text, step)
      for path in pictures:
        with Image.open(path) as image:
          pixels = np.asarray(image.convert("RGB"))
        name = f"plots/{path.stem}"
        self._board.add_image(name, pixels, step, dataformats="HWC")

  def close(self) -> None:
    """Writes what is left."""
    with contextlib.suppress(OSError):
      self._board.close()


def _summary_writer() -> Any:
  """`tensorboardX.SummaryWriter`, without the torch that it would import."""
  hidden = "torch" not in sys.modules
  if hidden:
    # tensorboardX imports torch where it is installed, only to recognise tensors;
    # that takes seconds and hundreds of megabytes.
    sys.modules["torch"] = None  # pyrefly: ignore[unsupported-operation]
  try:
    import tensorboardX

    return tensorboardX.SummaryWriter
  finally:
    if hidden:
      del sys.modules["torch"]
