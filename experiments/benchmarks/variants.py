"""A recipe's compiled step with other losses and with regularisers."""

import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from contrastive_jax.programs import reporting
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.runs import runner
from experiments.benchmarks import timing

# Nearly nothing but the passes of the encoders over other views.
_VIEWS = {"structure": ("bridge",), "structure.bridge.side": "both"}
# The fields by which variants differ, compared with the first one of each group.
GROUPS: dict[str, dict[str, dict[str, Any]]] = {
  "loss": {
    "InfoNCE": {"loss": "clip"},
    "augmented, the default": {
      "loss": "augmented",
      "loss.e_step": "moving_average",
    },
    "augmented, the default, gamma 1": {
      "loss": "augmented",
      "loss.e_step": "moving_average",
      "loss.concentration": 1.0,
    },
    "augmented, conjugate": {"loss": "augmented", "loss.e_step": "conjugate"},
    "augmented, amortized": {"loss": "augmented", "loss.e_step": "amortized"},
  },
  "structure": {
    "other views encoded, bridge on both": _VIEWS,
    "no regulariser, no other views": {},
    "separation, bridge and consistency": {
      **_VIEWS,
      "structure": ("separation", "bridge", "consistency"),
    },
  },
}
_TITLES = {
  "loss": (
    "The emoji recipe's compiled step by loss, the augmented one with tables or"
    " prototypes of all training images:"
  ),
  "structure": "The same with the regularisers of latent structure:",
}


def measure(
  config: config_lib.Config, *, seconds: float
) -> dict[str, dict[str, Any]]:
  """Seconds of a recipe's compiled step, of each group's variants in turn.

  Its label smoothing is left out, which one loss alone has.
  """
  return {
    group: timing.interleaved(
      {name: _step_of(config, fields) for name, fields in variants.items()},
      seconds,
    )
    for group, variants in GROUPS.items()
  }


def changed(
  config: config_lib.Config, fields: Mapping[str, Any]
) -> config_lib.Config:
  """The recipe with a variant's fields, by their dotted names."""
  values = config.to_dict()
  values["loss"].pop("label_smoothing", None)
  draft = config_lib.default_config()
  draft.override(values)
  draft.override(fields)
  return config_lib.parse(draft)


def _step_of(config, fields):
  config = changed(config, fields)
  with tempfile.TemporaryDirectory() as folder:
    run = runner.open_run(
      config, pathlib.Path(folder), report=lambda line: None
    )
    batch = timing.first_batch(run)
  return timing.step_call(config, run.objective, batch)


def tables(
  record: Mapping[str, Mapping[str, Any]],
) -> Iterator[str | list[str]]:
  """Blocks of Markdown: each group's medians, and ratios to its first variant."""
  for group, times in record.items():
    yield _TITLES[group]
    yield reporting.table(
      [group, "ms", "over the first row's of the same round, median [95 %]"],
      (
        [name, f"{1e3 * t['seconds']:.1f}", _ratio(*t["ratio"])]
        for name, t in times.items()
      ),
    )


def _ratio(median: float, low: float, high: float) -> str:
  return f"{median:.3f} [{low:.3f}, {high:.3f}]"
