"""A recipe's compiled step with other losses and with regularisers."""

import contextlib
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

from contrastive_jax.training import config as config_lib
from contrastive_jax.training.distributed import sharding
from contrastive_jax.training.runs import runner
from experiments.benchmarks import timing

_MOVING = {"loss": {"name": "augmented", "e_step": "moving_average"}}
# Nearly nothing but the passes of the encoders over other views.
_VIEWS = {"bridge": 1.0, "bridge_side": "both"}
# What is compared, the first of each with the others, as nested fields.
GROUPS: dict[str, dict[str, dict[str, Any]]] = {
  "loss": {
    "InfoNCE": {"loss": {"name": "clip"}},
    "augmented, moving average": _MOVING,
    "augmented, moving average, gamma 1": {
      "loss": {**_MOVING["loss"], "concentration": 1.0}
    },
    "augmented, conjugate": {
      "loss": {"name": "augmented", "e_step": "conjugate"}
    },
    "augmented, amortized": {
      "loss": {"name": "augmented", "e_step": "amortized"}
    },
  },
  "structure": {
    "other views encoded, bridge on both": {"structure": _VIEWS},
    "no regulariser, no other views": {},
    "separation, bridge and consistency": {
      "structure": {**_VIEWS, "separation": 1.0, "consistency": 0.25}
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

  Args:
    config: the recipe; its label smoothing is left out, which one loss alone has.
    seconds: of measuring, a variant.

  Returns:
    By group, by variant: median, quartiles and runs.
  """
  return {
    group: timing.interleaved(
      {name: _step_of(config, fields) for name, fields in variants.items()},
      seconds,
    )
    for group, variants in GROUPS.items()
  }


def changed(
  config: config_lib.Config, fields: Mapping[str, Mapping[str, Any]]
) -> config_lib.Config:
  """The recipe with a variant's fields."""
  values = config.to_dict()
  values["loss"]["label_smoothing"] = 0.0
  for group, own in fields.items():
    values[group] |= own
  return config_lib.parse(values)


def _step_of(config, fields):
  config = changed(config, fields)
  with tempfile.TemporaryDirectory() as folder:
    run = runner.open_run(
      config, pathlib.Path(folder), report=lambda line: None
    )
    with contextlib.closing(run.batches()) as batches:
      batch = sharding.put_batch(next(batches), run.mesh)
  return timing.step_call(config, run.objective, batch)


def tables(record: Mapping[str, Mapping[str, Any]]) -> list[str]:
  """Markdown: each group's medians, over its first variant's."""
  lines = []
  for group, times in record.items():
    names = list(times)
    base = times[names[0]]["seconds"]
    lines += [
      _TITLES[group],
      "",
      f"| {group} | ms | over that of the first row |",
      "|---|---|---|",
      *(
        f"| {name} | {1e3 * times[name]['seconds']:.1f} |"
        f" {times[name]['seconds'] / base:.3f} |"
        for name in names
      ),
      "",
    ]
  return lines
