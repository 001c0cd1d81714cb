"""Variables of one model where another one's fit: what a run begins with."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from contrastive_jax.models import layers

# The image tower of models that embed images alone, and of all others.
_ALONE, _IMAGE = "tower", "image"


@dataclasses.dataclass(frozen=True)
class Fit:
  """The variables that were taken of another model, and those that were not.

  Attributes:
    taken: paths of variables that are the other model's.
    initial: those that stay as they were initialised.
    unused: of the other model those that have no place.
    resized: positions that were resampled to another size of image.
  """

  taken: tuple[str, ...]
  initial: tuple[str, ...]
  unused: tuple[str, ...]
  resized: tuple[str, ...] = ()


def begin(
  source: Mapping[str, Any], target: Mapping[str, Any]
) -> tuple[dict[str, Any], Fit]:
  """A model's variables with another model's where path and shape are the same.

  The image tower of SimCLR, MoCo v3 and SuperClass is that of a two-tower model.
  Learned positions of patches are resized to another size of image, bicubically.

  Args:
    source: `params` and collections of the model to begin with.
    target: those of this one, as initialised.

  Returns:
    Variables of the target's form, and what was taken.

  Raises:
    ValueError: if nothing fits.
  """
  theirs = {_common(path): x for path, x in layers.by_path(source).items()}
  ours = {_common(path): x for path, x in layers.by_path(target).items()}
  found, resized = {}, []
  for path, x in ours.items():
    other = theirs.get(path)
    if other is not None and other.shape != x.shape:
      other = _resized(path, other, len(x)) if x.ndim == 2 else None
      if other is not None and other.shape == x.shape:
        resized.append(path)
      else:
        other = None
    if other is not None:
      found[path] = other
  if not found:
    raise ValueError(
      "The model to begin with has no array of a name and shape of this one's; it"
      f" has {', '.join(list(theirs)[:3])} and so on."
    )
  return _filled(target, found), Fit(
    tuple(found),
    tuple(path for path in ours if path not in found),
    tuple(path for path in theirs if path not in found),
    tuple(resized),
  )


def _common(path: str) -> str:
  """A variable's path with the image tower's usual name."""
  collection, _, rest = path.partition("/")
  root, slash, inner = rest.partition("/")
  return f"{collection}/{_IMAGE if root == _ALONE else root}{slash}{inner}"


def _resized(path: str, positions: Any, count: int) -> Any:
  """Learned positions for another number of patches, or None."""
  if not path.endswith("/position_embedding") or f"/{_IMAGE}/" not in path:
    return None
  for extra in (1, 0):
    try:
      return layers.resize_positions(positions, count, extra)
    except ValueError:
      continue
  return None


def _filled(target: Any, values: Mapping[str, Any], path: str = "") -> Any:
  """The target with the values at their common paths."""
  if isinstance(target, Mapping):
    return {
      name: _filled(inner, values, f"{path}/{name}" if path else name)
      for name, inner in target.items()
    }
  return values.get(_common(path), target)
