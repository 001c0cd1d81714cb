"""Other views of a batch, which some losses and structure terms take, as choices."""

import dataclasses
import os
from typing import Any

from contrastive_jax.choices import Kind, choice, field

_HERE = "contrastive_jax.training.objectives.views"
TEXT_VIEWS = Kind(
  "text view", {"eda": f"{_HERE}:Eda", "caption": f"{_HERE}:AnotherCaption"}
)
OTHER_VIEWS = Kind(
  "other view",
  {"augmented": f"{_HERE}:Augmented", "momentum": f"{_HERE}:Momentum"},
)


@dataclasses.dataclass(frozen=True)
class Eda:
  """The caption edited by swaps, deletions, insertions and synonyms (EDA)."""

  edited_share: float = field(
    0.1, "Share of a caption's words that is edited.", low=1e-3, high=1
  )
  synonyms: str = field(
    "",
    'JSON file {"word": ["synonym"]} of synonyms in addition to those that the'
    " data set has.",
  )

  def own_synonyms(self) -> dict[str, tuple[str, ...]]:
    """Synonyms of the user's file; empty if there is none.

    Raises:
      ValueError: if the file cannot be used.
    """
    if not self.synonyms:
      return {}
    from contrastive_jax.data.text import eda

    try:
      return eda.load_synonyms(os.path.expanduser(self.synonyms))
    except OSError as error:
      raise ValueError(str(error)) from error


@dataclasses.dataclass(frozen=True)
class AnotherCaption:
  """Another caption of the same example."""


@dataclasses.dataclass(frozen=True)
class Augmented:
  """Features of changed inputs: another augmentation, another text."""

  text: Any = choice(TEXT_VIEWS, "eda", "How a caption's other view is made.")


@dataclasses.dataclass(frozen=True)
class Momentum:
  """Features of the same inputs by a momentum encoder."""

  momentum: float = field(
    0.995, "EMA decay of the momentum encoder.", low=0, high=1
  )
