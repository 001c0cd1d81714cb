"""Variants of a user's own, some of which are refused."""

import dataclasses
from typing import ClassVar

from contrastive_jax.choices import field


@dataclasses.dataclass(frozen=True)
class Pairs:
  """A data set whose fields have no help and no bounds."""

  path: str = ""
  sides: tuple[int, ...] = (3,)
  share: float = 0.5

  tasks: ClassVar = ("captions",)


@dataclasses.dataclass(frozen=True)
class Measured:
  """An evaluator."""

  every: int = field(10, "Steps between two validations.", low=0)
  final: bool = True


@dataclasses.dataclass
class Mutable:
  """A dataclass that is not frozen."""


@dataclasses.dataclass(frozen=True)
class Named:
  """A dataclass whose field hides the variant's name."""

  name: str = ""


NUMBER = 3
