"""The page and the figure of the study of structure."""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from contrastive_jax.programs import differences, reporting
from experiments import studies
from experiments.synthetic import structure_pairs

NONE = "none"
# Outcomes of the summary and the figure.
_MAIN = structure_pairs.OUTCOMES[:4]
_TITLES = {
  "retrieval": "R@1 of new pairs",
  "zero-shot": "zero-shot accuracy (16 clusters)",
  "4-shot": "4-shot accuracy",
  "private, both heads": "private attribute, both heads",
  "private, first head": "private attribute, first head alone",
}
_STYLES = {
  # Colours that the colour-blind tell apart (Okabe, Ito).
  "separation": ("#009E73", "s"),
  "bridge": ("#E69F00", "o"),
  "consistency": ("#D55E00", "^"),
  "CyCLIP": ("#CC79A7", "v"),
  "CUA": ("#56B4E9", "D"),
  "ModGap": ("#0072B2", "x"),
}

_Key = tuple[str, str, int, float, str]


def rows_by_key(record: Mapping[str, Any]) -> dict[_Key, Mapping[str, Any]]:
  """Rows by base, arm, pairs, nuisance and view."""
  return {
    (r["base"], r["arm"], r["pairs"], r["nuisance"], r["view"]): r
    for r in record["rows"]
  }


def compared(
  record: Mapping[str, Any],
) -> dict[tuple[_Key, str], dict[str, Any]]:
  """Every arm minus its base in the same world, by key and outcome; one family.

  The base of the two batches, and of the four terms alone, is the two terms.
  """
  rows, found = rows_by_key(record), {}
  for key, row in rows.items():
    base, arm, pairs, nuisance, view = key
    if arm == NONE:
      if base == structure_pairs.TWO_TERMS:
        continue
      base = structure_pairs.TWO_TERMS
    other = rows.get((base, NONE, pairs, nuisance, view))
    if other is None:
      continue
    for outcome in structure_pairs.OUTCOMES:
      found[key, outcome] = differences.paired(
        row["numbers"][outcome], other["numbers"][outcome]
      )
  corrected = reporting.holm([own["p"] for own in found.values()])
  for own, p in zip(found.values(), corrected):
    own["holm"] = p
  return found


def page(record: Mapping[str, Any], reading: str = "") -> str:
  """The record as Markdown, with the hand-written text on it."""
  rows, found = rows_by_key(record), compared(record)
  settings = record["settings"]
  arms = list(dict.fromkeys(row["arm"] for row in record["rows"]))
  nuisances = sorted({row["nuisance"] for row in record["rows"]})
  return studies.page(
    "# When each regulariser of latent structure pays",
    studies.shell("python -m experiments.synthetic.structure_world"),
    "Fixed pairs of two modalities: a shared latent around one of 16 clusters, a"
    " private attribute that the image alone shows, and nuisance in both. The other"
    f" view draws {settings['changed']:.0%} of the nuisance's variance anew; the first"
    " one is plain, as in the paper's code, or changed likewise. Two-layer encoders,"
    f" {settings['steps']} steps of {settings['batch']} pairs; scores are of new"
    " pairs, seen plainly. CLIP's loss has two terms (plain) or four (with the other"
    " view's). In every arm the private attribute is read from both heads of the"
    " image's encoder; without separation nothing trains the second head, so it is a"
    " random map of the hidden layer. Two batches a step encode as many inputs as two"
    " views do.",
    f"{len(settings['seeds'])} seeds; weight and learning rate of every arm in every"
    " world are the best ones for R@1 of validation pairs of"
    f" {len(settings['tuning_seeds'])} other seeds, and a grid grows where they are at"
    " an end of it (towards greater weights alone: a weight of 0 is the base). CUA is"
    " cross-modal uniformity, both uniformities and the distance of pairs; ModGap the"
    " uniformity of pairs' centroids and that distance.",
    "![Differences from the base over the number of pairs](structure_world.png)",
    "## When it pays",
    "Four terms, nuisance of scale"
    f" {nuisances[-1]:g}: numbers of pairs at which an arm is above (+) or below (-)"
    f" the four terms alone after Holm's correction for all {len(found):,} differences"
    " of this page.",
    _summary(found, arms, nuisances[-1]),
    reading,
    *_details(rows, found, arms),
    "## Settings",
    "Learning rate and weight of every arm (of two regularisers: the share of the"
    " weights that each has alone); * marks what is at an end of a grid that had grown"
    " twice.",
    *_settings(rows, arms),
    f"Made with {reporting.listed(record['versions'])} in"
    f" {record['seconds'] / 60:.0f} minutes on {record['cores']} cores.",
  )


def _summary(found, arms, nuisance) -> list[str]:
  def verdicts(arm, outcome):
    texts = []
    for view in _views(found):
      signs: dict[str, list[str]] = {"+": [], "-": []}
      for (key, name), own in found.items():
        base, one, pairs, scale, shown = key
        which = (base, one, scale, shown, name)
        if which == (
          structure_pairs.FOUR_TERMS,
          arm,
          nuisance,
          view,
          outcome,
        ) and (own["holm"] < 0.05):
          signs["+" if own["mean"] > 0 else "-"].append(f"{pairs:,}")
      told = [f"{sign} at {', '.join(at)}" for sign, at in signs.items() if at]
      texts.append(f"{view}: {'; '.join(told) or 'none'}")
    return "<br>".join(texts)

  return reporting.table(
    ["first view and arm", *(_TITLES[o] for o in _MAIN)],
    ([arm, *(verdicts(arm, o) for o in _MAIN)] for arm in arms if arm != NONE),
  )


def _views(found) -> list[str]:
  return list(dict.fromkeys(key[4] for key, _ in found))


def _details(rows, found, arms) -> Iterator[str | list[str]]:
  """Sections by world: a table an outcome."""
  worlds = dict.fromkeys((key[3], key[4]) for key in rows)
  for nuisance, view in sorted(worlds, key=lambda w: (-w[0], w[1] != "plain")):
    pairs = sorted({k[2] for k in rows if k[3:] == (nuisance, view)})
    yield f"## First view {view}, nuisance {nuisance:g}"
    for outcome in structure_pairs.OUTCOMES:
      yield f"**{_TITLES[outcome]}**: mean of a base; an arm minus its base."
      lines = []
      for base in structure_pairs.BASES:
        for arm in arms:
          keys = [(base, arm, n, nuisance, view) for n in pairs]
          if not all(key in rows for key in keys):
            continue
          texts = []
          for key in keys:
            text = ""
            if arm == NONE:
              values = rows[key]["numbers"][outcome]
              text = reporting.interval(values, 3)
            if own := found.get((key, outcome)):
              change = f"{own['mean']:+.3f} ± {own['half_width']:.3f}"
              change = f"**{change}**" if own["holm"] < 0.05 else change
              text = f"{text} ({change})" if text else change
            texts.append(text)
          name = base if arm == NONE else f"{base} + {arm}"
          lines.append([name, *texts])
      yield reporting.table(["", *(f"{n:,} pairs" for n in pairs)], lines)


def _settings(rows, arms) -> Iterator[str | list[str]]:
  def chosen(row):
    weight = "" if row["weight"] is None else f", {row['weight']:.3g}"
    return f"{row['rate']:.2g}{weight}{'*' if row['at_end'] else ''}"

  worlds = list(dict.fromkeys(key[2:] for key in rows))
  for base in structure_pairs.BASES:
    own = [arm for arm in arms if any(k[:2] == (base, arm) for k in rows)]
    if own:
      yield f"**{base}**"
      yield reporting.table(
        ["pairs, nuisance, first view", *own],
        (
          [
            f"{n:,}, {scale:g}, {view}",
            *(
              chosen(rows[base, arm, n, scale, view])
              if (base, arm, n, scale, view) in rows
              else ""
              for arm in own
            ),
          ]
          for n, scale, view in worlds
        ),
      )


def plot(record: Mapping[str, Any], path: pathlib.Path) -> None:
  """A row a first view, a column an outcome: differences over pairs."""
  from matplotlib import figure

  found = compared(record)
  nuisance = max(row["nuisance"] for row in record["rows"])
  pairs = sorted({row["pairs"] for row in record["rows"]})
  views = _views(found)
  canvas = figure.Figure(figsize=(10.0, 4.8), layout="constrained")
  axes = canvas.subplots(
    len(views), len(_MAIN), sharex=True, sharey="col", squeeze=False
  )
  for row, view in zip(axes, views):
    for ax, outcome in zip(row, _MAIN):
      for place, (arm, (colour, marker)) in enumerate(_STYLES.items()):
        keys = [
          ((structure_pairs.FOUR_TERMS, arm, n, nuisance, view), outcome)
          for n in pairs
        ]
        known = [(i, found[key]) for i, key in enumerate(keys) if key in found]
        if not known:
          continue
        at = np.array([i for i, _ in known])
        ax.errorbar(
          at + (place - 2.5) * 0.06,
          [own["mean"] for _, own in known],
          yerr=[own["half_width"] for _, own in known],
          color=colour,
          marker=marker,
          ms=3.5,
          lw=1.2,
          label=arm,
        )
      ax.axhline(0.0, color="#555555", lw=0.8)
      ax.set_xticks(range(len(pairs)), [f"{n:,}" for n in pairs])
      ax.tick_params(labelsize=7)
      ax.spines[["top", "right"]].set_visible(False)
    row[0].set_ylabel(f"{view} first view\nminus four terms (95 %)", fontsize=8)
  for ax, outcome in zip(axes[0], _MAIN):
    ax.set_title(_TITLES[outcome], fontsize=8)
  for ax in axes[-1]:
    ax.set_xlabel("training pairs", fontsize=8)
  handles, labels = axes[0, 0].get_legend_handles_labels()
  canvas.legend(
    handles,
    labels,
    loc="outside lower center",
    ncol=len(labels),
    fontsize=8,
    frameon=False,
  )
  canvas.savefig(path, dpi=160)
