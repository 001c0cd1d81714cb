"""The record of a sweep: its JSON, its page with paired differences, its plot."""

import json
import pathlib
import shlex
import statistics
from typing import Any

from contrastive_jax.programs import command_line, reporting
from contrastive_jax.programs.sweep.types import Arm, Runs, Sweep
from contrastive_jax.training import config as config_lib


def read(sweep: Sweep, out: pathlib.Path) -> Runs:
  """The finished runs of a record; none if there is no record yet.

  Args:
    sweep: the grid.
    out: folder of the record.

  Returns:
    Runs by key.

  Raises:
    UserError: if the record is of other configurations, or no record.
  """
  path = out / f"{sweep.name}.json"
  if not path.exists():
    return {}
  advice = "move it away, or choose another --out"
  ours = _grid(sweep)
  try:
    record = json.loads(path.read_text(encoding="utf-8"))
    if not record["runs"]:
      return {}
    # Fields that are newer than the record have the default there.
    config, others = _parsed(record["config"], record["others"])
    theirs = _plain({"config": config, "others": others})
    for part in ("arms", "tuned"):
      both = ours[part].keys() & record[part].keys()
      theirs[part] = {name: record[part][name] for name in both}
      ours[part] = {name: ours[part][name] for name in both}
  except config_lib.ConfigError as error:
    raise config_lib.UserError(
      f"{path} holds runs of another version ({error}): {advice}."
    ) from error
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise config_lib.UserError(
      f"{path} is no record of a sweep ({type(error).__name__}: {error}): {advice}."
    ) from error
  difference = config_lib.first_difference(theirs, ours)
  if difference:
    field, then, now = difference
    raise config_lib.UserError(
      f"{path} holds runs of another sweep ({field} was {then!r}, and is {now!r}"
      f" now): {advice}."
    )
  return record["runs"]


def write(sweep: Sweep, runs: Runs, out: pathlib.Path) -> None:
  """Writes NAME.json, .md and .png.

  Args:
    sweep: the grid.
    runs: what is finished.
    out: the folder.
  """
  versions, path = reporting.versions(), out / f"{sweep.name}.json"
  if path.exists():
    earlier = json.loads(path.read_text(encoding="utf-8"))
    if earlier["runs"] == runs:  # A page may be written again later.
      versions = earlier["versions"]
  record = {**_grid(sweep), "versions": versions, "runs": runs}
  reading = reporting.reading(out, sweep.name)
  text = page(sweep, runs, versions, reading)
  reporting.write(out, sweep.name, record, text)
  if any(r["seed"] in sweep.seeds for r in runs.values()):
    plot(sweep, runs, out / f"{sweep.name}.png")


def chosen(sweep: Sweep, arm: Arm, runs: Runs) -> float | None:
  """The tuned field's best value of an arm; None if nothing is tuned.

  Raises:
    KeyError: if a run that chooses it is missing.
  """
  found = _choosing(sweep, arm, runs)
  return max(arm.candidates, key=lambda value: found[value], default=None)


def scores(
  sweep: Sweep, runs: Runs, method: str, setting: float, metric: str
) -> dict[int, float]:
  """An arm's numbers by seed, at the value that is chosen for it."""
  arm = _arm(sweep, method, setting)
  try:
    value = chosen(sweep, arm, runs)
  except KeyError:  # Not all that choose it are there.
    return {}
  return {
    r["seed"]: r["results"][metric]
    for r in runs.values()
    if r["arm"] == arm.name
    and r["seed"] in sweep.seeds
    and r["value"] == value
    and metric in r["results"]
  }


def finished(sweep: Sweep, runs: Runs) -> int:
  """How many of the sweep's runs there are; the record may have others."""
  metric = next(iter(sweep.metrics))
  return sum(
    len(_choosing(sweep, arm, runs).keys() & set(arm.candidates))
    + len(scores(sweep, runs, arm.method, arm.setting, metric))
    for arm in sweep.arms
  )


def difference(ours: dict[int, float], theirs: dict[int, float]) -> list[float]:
  """Paired differences, over the seeds that both have.

  >>> difference({0: 1.0, 1: 3.0}, {1: 2.0, 2: 5.0})
  [1.0]
  """
  return [ours[s] - theirs[s] for s in ours if s in theirs]


def page(
  sweep: Sweep, runs: Runs, versions: dict[str, str], reading: str = ""
) -> str:
  """The record as Markdown.

  Args:
    sweep: the grid.
    runs: what is finished.
    versions: that made them.
    reading: what the record shows, for the page of a record that is whole.
  """
  methods, settings = _methods(sweep), _settings(sweep)
  seeds = sorted({r["seed"] for r in runs.values()} & set(sweep.seeds))
  lines = [f"# {sweep.title}", "", sweep.text, ""]
  there = finished(sweep, runs)
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
    " its own interval (bold where it does not hold 0).",
    "",
  ]
  if len(settings) == 1:
    (setting,) = settings
    names = [f"{label} (`{metric}`)" for metric, label in sweep.metrics.items()]
    rows = (
      [m, *(_cell(sweep, runs, m, setting, metric) for metric in sweep.metrics)]
      for m in methods
    )
    lines += [f"{sweep.setting} {setting:g}:", ""]
    lines += [*reporting.table(["method", *names], rows), ""]
  for metric, label in sweep.metrics.items() if len(settings) > 1 else ():
    rows = (
      [m, *(_cell(sweep, runs, m, s, metric) for s in settings)]
      for m in methods
    )
    lines += [f"## {label}", "", f"`{metric}`", ""]
    lines += [*reporting.table(_head(sweep), rows), ""]
    lines += _next_larger(sweep, runs, metric)
  lines += [f"![{sweep.title}]({sweep.name}.png)", "", *_tunings(sweep, runs)]
  minutes = sum(r["seconds"] for r in runs.values()) / 60
  made = reporting.listed(versions)
  lines += [f"{len(runs)} runs, {minutes:.0f} minutes, with {made}.", ""]
  return "\n".join(lines)


def plot(sweep: Sweep, runs: Runs, path: pathlib.Path) -> None:
  """Each metric over the settings, a line a method, with intervals.

  With one setting alone, each method's paired difference from the baseline.
  """
  from matplotlib import figure

  if len(_settings(sweep)) == 1:
    return _plot_differences(sweep, runs, path)
  metrics = list(sweep.metrics.items())
  canvas = figure.Figure(
    figsize=(4.2 * len(metrics), 3.8), layout="constrained"
  )
  axes = canvas.subplots(1, len(metrics), squeeze=False)[0]
  methods, settings = _methods(sweep), _settings(sweep)
  for ax, (metric, label) in zip(axes, metrics):
    for number, method in enumerate(methods):
      found = [scores(sweep, runs, method, s, metric) for s in settings]
      kept = [i for i, f in enumerate(found) if f]
      values = [list(found[i].values()) for i in kept]
      # Side by side, or intervals would hide each other.
      shift = 2 ** (0.08 * (number - (len(methods) - 1) / 2))
      ax.errorbar(
        [settings[i] * shift for i in kept],
        [statistics.fmean(v) for v in values],
        yerr=[reporting.half_width(v) if len(v) > 1 else 0.0 for v in values],
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
  canvas.savefig(path, dpi=110)


def comparable(
  sweep: Sweep, runs: Runs, setting: float
) -> list[tuple[str, str]]:
  """The metrics that the baseline has: from others there is no difference."""
  return [
    (metric, label)
    for metric, label in sweep.metrics.items()
    if scores(sweep, runs, sweep.baseline, setting, metric)
  ]


def _plot_differences(sweep, runs, path) -> None:
  from matplotlib import figure

  (setting,) = _settings(sweep)
  methods = [m for m in _methods(sweep) if m != sweep.baseline]
  metrics = comparable(sweep, runs, setting)
  if not metrics:
    return  # The baseline has no run yet.
  canvas = figure.Figure(
    figsize=(2.2 + 2.4 * len(metrics), 1.2 + 0.28 * len(methods)),
    layout="constrained",
  )
  axes = canvas.subplots(1, len(metrics), squeeze=False, sharey=True)[0]
  for ax, (metric, label) in zip(axes, metrics):
    theirs = scores(sweep, runs, sweep.baseline, setting, metric)
    for place, method in enumerate(methods):
      ours = scores(sweep, runs, method, setting, metric)
      gains = difference(ours, theirs)
      if gains:
        half = reporting.half_width(gains) if len(gains) > 1 else 0.0
        mean = statistics.fmean(gains)
        colour = "grey" if abs(mean) <= half else "C0"
        ax.errorbar(mean, place, xerr=half, marker="o", capsize=3, color=colour)
    ax.axvline(0.0, color="black", linewidth=0.8)
    ax.set_title(label, fontsize=8)
    ax.tick_params(labelsize=7)
    ax.locator_params(axis="x", nbins=4)
    ax.grid(alpha=0.3, axis="x")
  axes[0].set_yticks(range(len(methods)), methods, fontsize=8)
  axes[0].set_ylim(len(methods) - 0.5, -0.5)
  canvas.supxlabel(f"paired difference from {sweep.baseline}", fontsize=8)
  canvas.savefig(path, dpi=110)


def _tunings(sweep: Sweep, runs: Runs) -> list[str]:
  """What was chosen for each arm, field by field."""
  lines = []
  by_field: dict[tuple[str, tuple[float, ...]], list[str]] = {}
  for arm in sweep.arms:
    if arm.tuned:
      key = arm.tuned, tuple(arm.candidates)
      by_field.setdefault(key, []).append(arm.method)
  for (field, candidates), methods in by_field.items():
    fields = " = ".join(f"`{name}`" for name in field.split(","))
    rows = (
      [m, *(_tuning(sweep, runs, m, s) for s in _settings(sweep))]
      for m in dict.fromkeys(methods)
    )
    lines += [
      f"{fields} was chosen for each arm among"
      f" {', '.join(f'{v:g}' for v in candidates)} by"
      f" `{sweep.tune_metric}` of seed {sweep.tune_seed}:",
      "",
      *reporting.table(_head(sweep), rows),
      "",
    ]
  return lines


def _tuning(sweep: Sweep, runs: Runs, method: str, setting: float) -> str:
  """The scores of all values, the best one bold."""
  found = _choosing(sweep, _arm(sweep, method, setting), runs)
  if not found:
    return "–"
  best = max(found, key=lambda v: found[v])
  return ", ".join(
    f"**{v:g}: {found[v]:.3f}**" if v == best else f"{v:g}: {found[v]:.3f}"
    for v in sorted(found)
  )


def _next_larger(sweep: Sweep, runs: Runs, metric: str) -> list[str]:
  """Every method against the baseline at the next larger setting."""
  settings = _settings(sweep)
  pairs = list(zip(settings, settings[1:]))

  def cell(method: str, small: float, large: float) -> str:
    ours = scores(sweep, runs, method, small, metric)
    theirs = scores(sweep, runs, sweep.baseline, large, metric)
    return _gain(difference(ours, theirs))

  return [
    f"Paired difference from {sweep.baseline} at the next larger"
    f" {sweep.setting}:",
    "",
    *reporting.table(
      ["method", *(f"{a:g} against {b:g}" for a, b in pairs)],
      ([m, *(cell(m, a, b) for a, b in pairs)] for m in _methods(sweep)),
    ),
    "",
  ]


def _gain(gains: list[float]) -> str:
  """Mean and interval of paired differences, bold where it does not hold 0."""
  if not gains:
    return "–"
  mean = statistics.fmean(gains)
  if len(gains) == 1:
    return f"{mean:+.3f}"
  half = reporting.half_width(gains)
  gain = f"{mean:+.3f} ± {half:.3f}"
  return f"**{gain}**" if abs(mean) > half else gain


def _cell(
  sweep: Sweep, runs: Runs, method: str, setting: float, metric: str
) -> str:
  ours = scores(sweep, runs, method, setting, metric)
  if not ours:
    return "–"
  text = reporting.interval(list(ours.values()), 3)
  theirs = scores(sweep, runs, sweep.baseline, setting, metric)
  gains = difference(ours, theirs)
  if method == sweep.baseline or not gains:
    return text
  return f"{text} ({_gain(gains)})"


def _choosing(sweep: Sweep, arm: Arm, runs: Runs) -> dict[float, float]:
  """The scores of the runs that choose an arm's value, by value."""
  return {
    r["value"]: r["results"][sweep.tune_metric]
    for r in runs.values()
    if r["arm"] == arm.name and r["seed"] == sweep.tune_seed
  }


def _arm(sweep: Sweep, method: str, setting: float) -> Arm:
  (arm,) = (
    a for a in sweep.arms if a.method == method and a.setting == setting
  )
  return arm


def _head(sweep: Sweep) -> list[str]:
  return ["method", *(f"{sweep.setting} {s:g}" for s in _settings(sweep))]


def _methods(sweep: Sweep) -> list[str]:
  return list(dict.fromkeys(arm.method for arm in sweep.arms))


def _settings(sweep: Sweep) -> list[float]:
  return sorted({arm.setting for arm in sweep.arms})


def _grid(sweep: Sweep) -> dict[str, Any]:
  """What two records must have in common for their runs to be one record's."""
  config, others = _parsed(sweep.config, sweep.others)
  return _plain(
    {
      "config": config,
      "arms": {arm.name: dict(arm.fields) for arm in sweep.arms},
      # The values to choose from may become more.
      "tuned": {arm.name: arm.tuned for arm in sweep.arms},
      "others": others,
    }
  )


def _plain(values: dict[str, Any]) -> dict[str, Any]:
  """As JSON gives them back."""
  return json.loads(json.dumps(values))


def _parsed(config, others) -> tuple[dict[str, Any], dict[str, Any]]:
  """Configurations with all fields."""
  return config_lib.parse(config).to_dict(), {
    name: config_lib.parse(values).to_dict() for name, values in others.items()
  }
