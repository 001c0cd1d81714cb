"""Study: what exact alignment of two modalities loses.

python -m experiments.synthetic.information_gap

The theorem: representations that are equal in both modalities have an excess
cross-entropy of at least the gap |I(X_V; Y) - I(X_T; Y)|. First exactly, for the
best aligned representation of random discrete worlds (`discrete`); then for
encoders that were trained with each loss (`worlds`). On two CPU cores it takes
two to five minutes.
"""

import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from contrastive_jax.programs import command_line as flags_lib
from contrastive_jax.programs import reporting
from experiments import studies
from experiments.synthetic import discrete, worlds

_FLAGS = flags.FlagValues()
_integer = functools.partial(flags.DEFINE_integer, flag_values=_FLAGS)
_OUT = studies.define_out("information_gap", _FLAGS)
_SEEDS = _integer("seeds", 5, "Encoders of each loss.", lower_bound=2)
_STEPS = _integer(
  "steps",
  0,
  "Steps of every training; 0 is the study's own 800.",
  lower_bound=0,
)

# Bits of the image alone, of the text alone, and how often the former are erased.
_WORLDS = ((1, 0, 0.0), (2, 0, 0.0), (3, 0, 0.0), (3, 0, 0.5), (3, 1, 0.0))
_RANDOM_WORLDS = 300


def exact_part() -> list[dict[str, float]]:
  """Bound and excess of the best aligned representation of random worlds."""
  rng = np.random.default_rng(0)
  return [
    discrete.gap(discrete.random_world(rng)) for _ in range(_RANDOM_WORLDS)
  ]


def learned_part(
  settings: worlds.WorldSizes, seeds: int, report: Callable[[str], None] = print
) -> list[dict[str, Any]]:
  """Excess cross-entropy of trained encoders, a row a world and loss."""
  exact = [
    discrete.gap(discrete.bits(worlds.SHARED, *known)) for known in _WORLDS
  ]
  # H(Y | X_V, X_T): what the best classifier of both inputs has.
  least = [
    (worlds.SHARED + image + text) * np.log(2) - gap["both"]
    for (image, text, _), gap in zip(_WORLDS, exact)
  ]
  which = worlds.World(*(jnp.asarray(column) for column in zip(*_WORLDS)))
  keys = jax.random.split(jax.random.key(0), seeds)
  rows = []
  for number, (name, weights) in enumerate(worlds.METHODS.items()):
    began = time.monotonic()

    def one(world, key, weights=weights, two=name in worlds.TWO_HEADS):
      return worlds.train(weights, world, key, settings, two_heads=two)

    # All worlds and seeds at once: a step is too small to keep a core busy.
    over_seeds = jax.vmap(one, (None, 0))
    found = jax.jit(jax.vmap(over_seeds, (0, None)))(which, keys)
    rows += [
      {
        "world": known,
        "method": name,
        "bound": exact[i]["bound"],
        "best_aligned": exact[i]["excess"],
        "excess": _list(found["cross_entropy"][i] - least[i]),
        "misalignment": _list(found["misalignment"][i]),
      }
      for i, known in enumerate(_WORLDS)
    ]
    seconds = time.monotonic() - began
    left = seconds * (len(worlds.METHODS) - number - 1) / 60
    largest = int(np.argmax([gap["bound"] for gap in exact]))
    shown = np.mean(found["cross_entropy"][largest]) - least[largest]
    report(
      f"{number + 1}/{len(worlds.METHODS)}  {name}: excess {shown:.3f} at a gap"
      f" of {exact[largest]['bound']:.3f}  {seconds:.0f} s  ETA {left:.0f} min"
    )
  return rows


def page(record: Mapping[str, Any]) -> str:
  """The record as Markdown."""
  settings = record["settings"]
  exact = record["exact"]
  slack = min(r["excess"] - r["bound"] for r in exact)
  equal = sum(r["excess"] - r["bound"] < 1e-9 for r in exact)
  worlds_shown = [_named(w) for w in _WORLDS]
  learned = {
    method: [r for r in record["learned"] if r["method"] == method]
    for method in worlds.METHODS
  }
  first = record["learned"][: len(_WORLDS)]
  return studies.page(
    "# The information gap: what exact alignment loses",
    studies.shell("python -m experiments.synthetic.information_gap"),
    "Theorem 3.1 of Jiang et al. 2023: if the representations of both modalities"
    " are equal, the best classifier on them has a cross-entropy of at least"
    " |I(X_V; Y) - I(X_T; Y)| above that of the best one on both inputs.",
    "## Exactly",
    f"{len(exact)} random discrete worlds; the best aligned representation is"
    " the part that both modalities know alike. Its excess above the bound is at"
    f" least {max(slack, 0.0):.1g} nats; {equal} of them have none.",
    "![Excess over the gap, exact and of trained encoders](information_gap.png)",
    "## Trained encoders",
    f"{worlds.SHARED} bits that both modalities see, and more that one alone"
    f" does. Two-layer encoders, d = {settings['dim']}, {settings['steps']}"
    f" batches of {settings['batch']} pairs, frozen; a classifier of all bits"
    f" reads both modalities' features (where a second head is named, and of"
    " separation, both heads') through"
    f" noise of {settings['precision']:g}. Excess cross-entropy in nats on new"
    f" things; mean ± half of the 95 % interval over {record['seeds']} seeds.",
    reporting.table(
      ["bits of the image, of the text, erased", *worlds_shown],
      [
        ["gap, the bound", *(f"{r['bound']:.3f}" for r in first)],
        [
          "best aligned representation, exact",
          *(f"{r['best_aligned']:.3f}" for r in first),
        ],
        *(
          [method, *(reporting.interval(r["excess"], 3) for r in rows)]
          for method, rows in learned.items()
        ),
      ],
    ),
    "Mean squared distance of paired features:",
    reporting.table(
      ["loss", *worlds_shown],
      (
        [method, *(f"{np.mean(r['misalignment']):.3f}" for r in rows)]
        for method, rows in learned.items()
      ),
    ),
    "The classifier reads through noise because trained encoders are equal only"
    " nearly: without any, it could read what is left of their difference, and the"
    " theorem is of representations that are equal. The noise, and a classifier that"
    " is not the best one, can only add to an excess: what single losses have beside"
    " none shows how much (image alone, in the worlds whose text knows no more)."
    " Of separation the classifier reads twice as many features: compare it with"
    " CLIP through a second head that nothing has trained, a random map of the same"
    " hidden layer.",
    '"aligned" is CLIP with 30 times the squared distance of pairs; the weights of'
    " separation, bridge and alignment loss are 1, that of consistency .1. The"
    " paper's alignment loss 1 / cos^2 (here + .001) does not align: features that"
    " point in opposite directions minimise it too, and many pairs end there"
    " (squared distance 4).",
    f"Made with {reporting.listed(record['versions'])} in"
    f" {record['seconds']:.0f} s.",
  )


def plot(record: Mapping[str, Any], path: pathlib.Path) -> None:
  """Excess over gap: exact worlds left, trained encoders right."""
  from matplotlib import figure

  canvas = figure.Figure(figsize=(10.5, 4.6), layout="constrained")
  left, right = canvas.subplots(1, 2)
  exact = record["exact"]
  left.scatter(
    [r["bound"] for r in exact], [r["excess"] for r in exact], s=8, color="C0"
  )
  left.set_title(f"best aligned representation, {len(exact)} random worlds")
  names = list(worlds.METHODS)
  width = 0.8 / len(names)
  for k, name in enumerate(names):
    own = [r for r in record["learned"] if r["method"] == name]
    right.bar(
      np.arange(len(own)) + (k - (len(names) - 1) / 2) * width,
      [np.mean(r["excess"]) for r in own],
      width,
      yerr=[reporting.half_width(r["excess"]) for r in own],
      color=f"C{k}",
      label=name,
    )
  first = record["learned"][: len(_WORLDS)]
  places = np.arange(len(first))
  right.hlines(
    [r["bound"] for r in first],
    places - 0.45,
    places + 0.45,
    color="black",
    linestyle=":",
    label="gap",
  )
  right.set_xticks(range(len(_WORLDS)), [_named(w) for w in _WORLDS])
  right.set_xlabel("bits of the image, of the text, erased")
  right.set_title("trained encoders")
  right.legend(fontsize=7, ncols=2)
  most = max(max(r["excess"] for r in exact), 1e-3)
  left.plot([0, most], [0, most], color="black", linestyle=":")
  left.set_xlabel("gap |I(X_V; Y) - I(X_T; Y)|, nats")
  for ax in (left, right):
    ax.set_ylabel("excess cross-entropy, nats")
    ax.set_ylim(bottom=0)
  canvas.savefig(path, dpi=110)


def _named(world) -> str:
  image, text, erased = world
  return f"{image}, {text}, {erased:g}"


def _list(values) -> list[float]:
  return np.asarray(values, np.float64).round(5).tolist()


def main() -> None:
  """Runs the program."""
  out, settings = studies.folder(_OUT.value), worlds.WorldSizes()
  settings = dataclasses.replace(settings, steps=_STEPS.value or settings.steps)
  began = time.monotonic()
  record: dict[str, Any] = {
    "settings": dataclasses.asdict(settings),
    "seeds": _SEEDS.value,
    **studies.machine("jax", "jaxlib", "numpy", "optax"),
    "exact": exact_part(),
    "learned": learned_part(
      settings, _SEEDS.value, functools.partial(print, flush=True)
    ),
    "seconds": time.monotonic() - began,
  }
  # Tuples become lists: a page from a record on disk is the same.
  record = json.loads(json.dumps(record))
  studies.publish(
    out, "information_gap", record, page(record), plot, indent=None
  )


if __name__ == "__main__":
  flags_lib.run(main, flag_values=_FLAGS, usage=__doc__)
