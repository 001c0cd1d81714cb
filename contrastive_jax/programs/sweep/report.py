"""The files of a record: its JSON, its page with paired differences, its plot."""

import json
import pathlib
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from contrastive_jax.programs import command_line, reporting
from contrastive_jax.programs.sweep.record import Record, grid
from contrastive_jax.programs.sweep.types import Arm, Sweep


def save(record: Record) -> dict[str, Any]:
  """Writes NAME.json alone; its content."""
  sweep, versions = record.sweep, reporting.versions()
  if record.path.exists():
    earlier = json.loads(record.path.read_text(encoding="utf-8"))
    if earlier["runs"] == record.runs:  # A page may be written again later.
      versions = earlier["versions"]
  values = {**grid(sweep), "versions": versions, "runs": record.runs}
  if record.things:
    values["things"] = record.things
  reporting.write_json(record.path, values)
  return values


def write(record: Record) -> None:
  """Writes NAME.json, .md and .png."""
  sweep, out, values = record.sweep, record.out, save(record)
  reading = reporting.reading(out, sweep.name, record.runs)
  text = page(record, values["versions"], reading)
  (out / f"{sweep.name}.md").write_text(text, encoding="utf-8")
  if any(r["seed"] in sweep.seeds for r in record.runs.values()):
    plot(record, out / f"{sweep.name}.png")


def page(record: Record, versions: dict[str, str], reading: str = "") -> str:
  """The record as Markdown; only a whole one's page has what was read in it."""
  sweep, runs = record.sweep, record.runs
  seeds = sorted({r["seed"] for r in runs.values()} & set(sweep.seeds))
  lines = [f"# {sweep.title}", "", sweep.text, ""]
  there, tested = record.finished(), _p_values(record)
  # Intervals over items take a bootstrap each: a page after every run has no time.
  whole = there == sweep.total_runs
  known = _Known(record, _shown(tested), items=whole)
  if there < sweep.total_runs:
    lines += [
      f"**Not finished**: {there} of {sweep.total_runs} runs. A number of one seed"
      " has no interval, and shows little.",
      "",
    ]
  elif reading:
    lines += [reading, ""]
  lines += [
    "```sh",
    f"{command_line.command('sweep')} {shlex.quote(f'--sweep={sweep.source}')}",
    "```",
    "",
    f"Mean ± half of the 95 % interval over seeds {seeds}, and in brackets the"
    f" paired difference from {sweep.baseline} at the same {sweep.setting} with"
    " its own interval (bold where p < 0.05 after Holm's correction for all"
    f" {len(tested)} differences of this page)"
    f"{', then its 95 % interval over test items' if known.items and record.things else ''}.",
    "",
  ]
  if len(sweep.settings) == 1:
    (setting,) = sweep.settings
    names = [f"{label} (`{metric}`)" for metric, label in sweep.metrics.items()]
    lines += [f"{sweep.setting} {setting:g}:", ""]
    lines += _table(
      sweep.methods,
      names,
      lambda method: [_cell(known, method, setting, m) for m in sweep.metrics],
    )
  else:
    for metric, label in sweep.metrics.items():
      lines += [f"## {label}", "", f"`{metric}`", ""]
      lines += _over_settings(known, metric)
  lines += [f"![{sweep.title}]({sweep.name}.png)", "", *_tunings(record)]
  minutes = sum(r["seconds"] for r in runs.values()) / 60
  made = reporting.listed(versions)
  lines += [f"{len(runs)} runs, {minutes:.0f} minutes, with {made}.", ""]
  return "\n".join(lines)


def _table(
  methods: Iterable[str], head: Sequence[str], row: Callable[[str], list[str]]
) -> list[str]:
  rows = ([method, *row(method)] for method in methods)
  return [*reporting.table(["method", *head], rows), ""]


def _over_settings(known: "_Known", metric: str) -> list[str]:
  """Scores at each setting, and against the baseline at the next larger one."""
  sweep = known.record.sweep
  pairs = _pairs(sweep)
  return [
    *_table(
      sweep.methods,
      _heads(sweep),
      lambda method: [
        _cell(known, method, setting, metric) for setting in sweep.settings
      ],
    ),
    f"Paired difference from {sweep.baseline} at the next larger {sweep.setting}:",
    "",
    *_table(
      sweep.methods,
      [f"{small:g} against {large:g}" for small, large in pairs],
      lambda method: [
        _gain(known, (method, small, metric, large)) for small, large in pairs
      ],
    ),
  ]


def _tunings(record: Record) -> list[str]:
  """Lines on the values that were chosen for each arm, field by field."""
  sweep, lines = record.sweep, []
  by_field: dict[tuple[str, tuple[float, ...]], list[Arm]] = {}
  for arm in sweep.arms:
    if arm.tuned:
      key = arm.tuned, tuple(arm.candidates)
      by_field.setdefault(key, []).append(arm)
  for (field, candidates), arms in by_field.items():
    fields = " = ".join(f"`{name}`" for name in field.split(","))
    seeds = sweep.tune_seeds
    of = (
      f"seed {seeds[0]}"
      if len(seeds) == 1
      else f"seeds {list(seeds)} on average"
    )
    lines += [
      f"{fields} was chosen for each arm among"
      f" {', '.join(f'{v:g}' for v in candidates)} by"
      f" `{sweep.tune_metric}` of {of}:",
      "",
      *_table(
        dict.fromkeys(arm.method for arm in arms),
        [f"{sweep.setting} {s:g}" for s in _settings(arms)],
        lambda method, arms=arms: [
          _tuning(record, arms, method, s) for s in _settings(arms)
        ],
      ),
    ]
  return lines


def _settings(arms: Sequence[Arm]) -> list[float]:
  return sorted({arm.setting for arm in arms})


def _tuning(
  record: Record, arms: Sequence[Arm], method: str, setting: float
) -> str:
  """The scores of all values, the best one bold."""
  own = [a for a in arms if (a.method, a.setting) == (method, setting)]
  found = record.choosing(own[0]) if own else {}
  best = max(found, key=lambda v: found[v], default=None)
  cells = (
    f"**{v:g}: {found[v]:.3f}**" if v == best else f"{v:g}: {found[v]:.3f}"
    for v in sorted(found)
  )
  return ", ".join(cells) or "–"


# A difference of a page: method, setting, metric, and the baseline's setting.
_Difference = tuple[str, float, str, float]


def _pairs(sweep: Sweep) -> list[tuple[float, float]]:
  """Each setting and the next larger one."""
  return list(zip(sweep.settings, sweep.settings[1:]))


def _p_values(record: Record) -> dict[_Difference, float]:
  """The p of every difference of the page that two seeds or more have."""
  sweep, found = record.sweep, {}
  equal = [(setting, setting) for setting in sweep.settings]
  for metric in sweep.metrics:
    for method in sweep.methods:
      for setting, base in equal + _pairs(sweep):
        if method == sweep.baseline and setting == base:
          continue
        gains = record.gains(method, setting, metric, against=base)
        if len(gains) > 1:
          key = method, setting, metric, base
          found[key] = reporting.p_value(gains)
  return found


def _shown(found: Mapping[_Difference, float]) -> set[_Difference]:
  """The differences of p < 0.05 after Holm's correction for all of them."""
  corrected = reporting.holm(list(found.values()))
  return {key for key, p in zip(found, corrected) if p < 0.05}


class _Known(NamedTuple):
  """A record, its shown differences, and whether intervals over items are told."""

  record: Record
  shown: set[_Difference]
  items: bool


def _cell(known: _Known, method: str, setting: float, metric: str) -> str:
  record = known.record
  ours = record.scores(method, setting, metric)
  if not ours:
    return "–"
  text = reporting.interval(list(ours.values()), 3)
  if method == record.sweep.baseline or not record.gains(
    method, setting, metric
  ):
    return text
  return f"{text} ({_gain(known, (method, setting, metric, setting))})"


def _gain(known: _Known, key: _Difference) -> str:
  """Mean and intervals of paired differences, bold where one is shown."""
  method, setting, metric, base = key
  found = known.record.gains(method, setting, metric, against=base)
  if not found:
    return "–"
  text = reporting.interval(found, 3, sign="+")
  text = f"**{text}**" if key in known.shown else text
  items = known.items and known.record.over_items(
    method, setting, metric, against=base
  )
  return f"{text} [{items[0]:+.3f}, {items[1]:+.3f}]" if items else text


def _heads(sweep: Sweep) -> list[str]:
  return [f"{sweep.setting} {setting:g}" for setting in sweep.settings]


def plot(record: Record, path: pathlib.Path) -> None:
  """Each metric over the settings, a line a method, with intervals.

  With one setting alone, each method's paired difference from the baseline.
  """
  from matplotlib import figure

  canvas = figure.Figure(layout="constrained")
  if len(record.sweep.settings) > 1:
    _draw_scores(record, canvas)
  elif record.comparable(*record.sweep.settings):
    _draw_gains(record, canvas)
  else:
    return  # The baseline has no run yet.
  canvas.savefig(path, dpi=110)


def _draw_scores(record: Record, canvas: Any) -> None:
  sweep = record.sweep
  metrics, settings = sweep.metrics, sweep.settings
  canvas.set_size_inches(4.2 * len(metrics), 3.8)
  axes = canvas.subplots(1, len(metrics), squeeze=False)[0]
  for ax, (metric, label) in zip(axes, metrics.items()):
    for number, method in enumerate(sweep.methods):
      found = [record.scores(method, s, metric) for s in settings]
      kept = [i for i, f in enumerate(found) if f]
      spreads = [reporting.spread([*found[i].values()]) for i in kept]
      # Side by side, or intervals would hide each other.
      shift = 2 ** (0.08 * (number - (len(sweep.methods) - 1) / 2))
      ax.errorbar(
        [settings[i] * shift for i in kept],
        [mean for mean, _ in spreads],
        yerr=[half for _, half in spreads],
        marker="o",
        markersize=4,
        linewidth=1.2,
        capsize=2,
        label=method,
      )
    ax.set_xscale("log", base=2)
    ax.set_xticks(settings, [f"{s:g}" for s in settings])
    ax.set_xlabel(sweep.setting)
    ax.set_title(label, fontsize=9)
    ax.grid(alpha=0.3)
  canvas.legend(
    *axes[0].get_legend_handles_labels(),
    loc="outside lower center",
    ncols=4,
    fontsize=7,
  )


def _draw_gains(record: Record, canvas: Any) -> None:
  sweep, shown = record.sweep, _shown(_p_values(record))
  (setting,) = sweep.settings
  methods = [m for m in sweep.methods if m != sweep.baseline]
  metrics = record.comparable(setting)
  canvas.set_size_inches(2.2 + 2.4 * len(metrics), 1.2 + 0.28 * len(methods))
  axes = canvas.subplots(1, len(metrics), squeeze=False, sharey=True)[0]
  for ax, (metric, label) in zip(axes, metrics):
    for place, method in enumerate(methods):
      found = record.gains(method, setting, metric)
      if found:
        mean, half = reporting.spread(found)
        key = method, setting, metric, setting
        colour = "C0" if key in shown else "grey"
        ax.errorbar(mean, place, xerr=half, marker="o", capsize=3, color=colour)
    ax.axvline(0.0, color="black", linewidth=0.8)
    ax.set_title(label, fontsize=8)
    ax.tick_params(labelsize=7)
    ax.locator_params(axis="x", nbins=4)
    ax.grid(alpha=0.3, axis="x")
  axes[0].set_yticks(range(len(methods)), methods, fontsize=8)
  axes[0].set_ylim(len(methods) - 0.5, -0.5)
  canvas.supxlabel(f"paired difference from {sweep.baseline}", fontsize=8)
