"""The peers that benchmarks compare with: extra packages, absent or broken."""

import functools
import importlib
import os
import sys
from typing import Any

from experiments import studies

_PACKAGES = (
  *("jax", "jaxlib", "flax", "optax", "numpy"),
  *("torch", "open_clip_torch"),
)


@functools.cache
def open_clip() -> tuple[Any, Any] | None:
  """(open_clip, torch), torch on all cores; None, with a word, without them."""
  try:
    torch = importlib.import_module("torch")
    package = importlib.import_module("open_clip")
  except ImportError as error:
    reason = f"it cannot be imported: {error}"
  except RuntimeError as error:  # Builds of torch and torchvision that differ.
    reason = f"it cannot be imported: {str(error).splitlines()[0]}"
  else:
    torch.set_num_threads(os.cpu_count() or 1)
    return package, torch
  print(
    f'open_clip is left out ({reason}); pip install ".[peers]".',
    file=sys.stderr,
  )
  return None


def machine() -> dict[str, Any]:
  """Cores, and versions of Python and of the packages that take part."""
  return studies.machine(*_PACKAGES)
