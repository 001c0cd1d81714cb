"""The record of a sweep: its JSON, its page with paired differences, its plot."""

import json
import pathlib
import statistics
from typing import TYPE_CHECKING, Any

from contrastive_jax.training import config as config_lib
from experiments import reporting

if TYPE_CHECKING:
  from experiments import sweep as sweep_lib

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "grain")


def read(sweep: "sweep_lib.Sweep", path: pathlib.Path) -> dict[str, Any]:
  """The finished runs of a record; none if there is no record yet.

  Args:
    sweep: the grid.
    path: of the JSON file.

  Returns:
    Runs by key.

  Raises:
    UserError: if the record is of other configurations, or no record.
  """
  if not path.exists():
    return {}
  try:
    record = json.loads(path.read_text(encoding="utf-8"))
    runs, theirs = record["runs"], record["arms"]
    # Records of before have none.
    tuned = record.get("tuned", {})
  except (ValueError, KeyError, TypeError) as error:
    raise config_lib.UserError(
      f"{path} is no record of a sweep ({type(error).__name__}: {error}):"
      " move it away, or choose another --out."
    ) from error
  ours = _arms(sweep)
  for name in theirs if runs else ():
    if name in ours and theirs[name] != ours[name]:
      raise config_lib.UserError(
        f"{path} holds runs of {name!r} with other fields ({theirs[name]}, now"
        f" {ours[name]}): move it away, or choose another --out."
      )
  for name, field in _tuned(sweep).items() if runs else ():
    if tuned.get(name, field) != field:
      raise config_lib.UserError(
        f"{path} holds runs of {name!r} that choose {tuned[name]!r}, now it is"
        f" {field!r}: move it away, or choose another --out."
      )
  try:
    # Fields that are newer than the record have the default there.
    config = config_lib.parse(record["config"]).to_dict()
    others = {
      name: config_lib.parse(values).to_dict()
      for name, values in record.get("others", {}).items()
    }
  except (KeyError, config_lib.ConfigError) as error:
    raise config_lib.UserError(
      f"{path} holds runs of another version ({error}): move it away, or choose"
      " another --out."
    ) from error
  if runs and config != _config(sweep):
    difference = config_lib.first_difference(_config(sweep), config)
    raise config_lib.UserError(
      f"{path} holds runs of another configuration ({difference}): move it"
      " away, or choose another --out."
    )
  if runs and others != _others(sweep):
    raise config_lib.UserError(
      f"{path} holds runs whose other stages are configured otherwise: move it"
      " away, or choose another --out."
    )
  return runs


def write(
  sweep: "sweep_lib.Sweep", runs: dict[str, Any], out: pathlib.Path
) -> None:
  """Writes NAME.json, .md and .png.

  Args:
    sweep: the grid.
    runs: what is finished.
    out: the folder.
  """
  record = {
    "config": _config(sweep),
    "arms": _arms(sweep),
    "tuned": _tuned(sweep),
    **({"others": _others(sweep)} if sweep.others else {}),
    "versions": reporting.versions(*_PACKAGES),
    "runs": runs,
  }
  path = out / f"{sweep.name}.json"
  temporary = path.with_suffix(".tmp")
  temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
  temporary.replace(path)
  text = page(sweep, runs, record["versions"])
  (out / f"{sweep.name}.md").write_text(text, encoding="utf-8")
  if any(r["seed"] in sweep.seeds for r in runs.values()):
    plot(sweep, runs, out / f"{sweep.name}.png")


def scores(
  sweep: "sweep_lib.Sweep",
  runs: dict[str, Any],
  method: str,
  setting: float,
  metric: str,
) -> dict[int, float]:
  """An arm's numbers by seed, at the value that is chosen for it."""
  (arm,) = (
    a for a in sweep.arms if a.method == method and a.setting == setting
  )
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


def chosen(
  sweep: "sweep_lib.Sweep", arm: "sweep_lib.Arm", runs: dict[str, Any]
) -> float | None:
  """The tuned field's best value of an arm; None if nothing is tuned.

  Raises:
    KeyError: if a run that chooses it is missing.
  """
  field, candidates = sweep.tuning(arm)
  if not field:
    return None
  found = {
    r["value"]: r["results"][sweep.tune_metric]
    for r in runs.values()
    if r["arm"] == arm.name and r["seed"] == sweep.tune_seed
  }
  return max(candidates, key=lambda value: found[value])


def finished(sweep: "sweep_lib.Sweep", runs: dict[str, Any]) -> int:
  """How many of the sweep's runs there are; others may stand beside them."""
  count = 0
  for arm in sweep.arms:
    values = [
      r["value"]
      for r in runs.values()
      if r["arm"] == arm.name and r["seed"] == sweep.tune_seed
    ]
    count += sum(v in sweep.tuning(arm)[1] for v in values)
    metric = next(iter(sweep.metrics))
    count += len(scores(sweep, runs, arm.method, arm.setting, metric))
  return count


def difference(ours: dict[int, float], theirs: dict[int, float]) -> list[float]:
  """Paired differences, over the seeds that both have.

  >>> difference({0: 1.0, 1: 3.0}, {1: 2.0, 2: 5.0})
  [1.0]
  """
  return [ours[s] - theirs[s] for s in ours if s in theirs]


def page(
  sweep: "sweep_lib.Sweep", runs: dict[str, Any], versions: dict[str, str]
) -> str:
  """The record as Markdown."""
  settings = _settings(sweep)
  seeds = sorted({r["seed"] for r in runs.values()} & set(sweep.seeds))
  lines = [f"# {sweep.title}", "", sweep.text, ""]
  there = finished(sweep, runs)
  if there < sweep.total_runs:
    lines += [
      f"**Not finished**: {there} of {sweep.total_runs} runs. A number of one seed"
      " has no interval, and shows little.",
      "",
    ]
  elif sweep.reading:
    lines += [f"**What it shows.** {sweep.reading}", ""]
  lines += [
    "```sh",
    f"python -m experiments.sweep --sweep=experiments/sweeps/{sweep.name}.py",
    "```",
    "",
    f"Mean ± half of the 95 % interval over seeds {seeds}, and in brackets the"
    f" paired difference from {sweep.baseline} at the same {sweep.setting} with"
    " its own interval (bold where it does not hold 0).",
    "",
  ]
  if len(settings) == 1:
    lines += _one_table(sweep, runs, settings[0])
  for metric, label in sweep.metrics.items() if len(settings) > 1 else ():
    lines += [f"## {label}", "", f"`{metric}`", ""]
    head = [f"{sweep.setting} {s:g}" for s in settings]
    lines.append("| method | " + " | ".join(head) + " |")
    lines.append("|---|" + "---|" * len(settings))
    for method in _methods(sweep):
      cells = [_cell(sweep, runs, method, s, metric) for s in settings]
      lines.append(f"| {method} | " + " | ".join(cells) + " |")
    lines.append("")
    lines += _next_larger(sweep, runs, metric)
  lines += [f"![{sweep.title}]({sweep.name}.png)", "", *_tunings(sweep, runs)]
  minutes = sum(r["seconds"] for r in runs.values()) / 60
  made = ", ".join(f"{k} {v}" for k, v in versions.items())
  lines += [f"{len(runs)} runs, {minutes:.0f} minutes, with {made}.", ""]
  return "\n".join(lines)


def plot(
  sweep: "sweep_lib.Sweep", runs: dict[str, Any], path: pathlib.Path
) -> None:
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
  sweep: "sweep_lib.Sweep", runs: dict[str, Any], setting: float
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


def _one_table(sweep, runs, setting) -> list[str]:
  """All metrics side by side, a row a method."""
  names = [f"{label} (`{metric}`)" for metric, label in sweep.metrics.items()]
  lines = [
    f"{sweep.setting} {setting:g}:",
    "",
    "| method | " + " | ".join(names) + " |",
    "|---|" + "---|" * len(names),
  ]
  for method in _methods(sweep):
    cells = [_cell(sweep, runs, method, setting, m) for m in sweep.metrics]
    lines.append(f"| {method} | " + " | ".join(cells) + " |")
  return [*lines, ""]


def _tunings(sweep, runs) -> list[str]:
  """What was chosen for each arm, field by field."""
  settings, lines = _settings(sweep), []
  by_field: dict[tuple[str, tuple[float, ...]], list[Any]] = {}
  for arm in sweep.arms:
    field, candidates = sweep.tuning(arm)
    if field:
      by_field.setdefault((field, tuple(candidates)), []).append(arm.method)
  for (field, candidates), methods in by_field.items():
    fields = " = ".join(f"`{name}`" for name in field.split(","))
    lines += [
      f"{fields} was chosen for each arm among"
      f" {', '.join(f'{v:g}' for v in candidates)} by"
      f" `{sweep.tune_metric}` of seed {sweep.tune_seed}:",
      "",
      "| method | " + " | ".join(f"{sweep.setting} {s:g}" for s in settings),
      "|---|" + "---|" * len(settings),
    ]
    for method in dict.fromkeys(methods):
      cells = [_tuning(sweep, runs, method, s) for s in settings]
      lines.append(f"| {method} | " + " | ".join(cells) + " |")
    lines.append("")
  return lines


def _next_larger(sweep, runs, metric) -> list[str]:
  """Every method against the baseline at the next larger setting."""
  settings = _settings(sweep)
  if len(settings) < 2:
    return []
  pairs = list(zip(settings, settings[1:]))
  head = " | ".join(f"{a:g} against {b:g}" for a, b in pairs)
  lines = [
    f"Paired difference from {sweep.baseline} at the next larger"
    f" {sweep.setting}:",
    "",
    f"| method | {head} |",
    "|---|" + "---|" * len(pairs),
  ]
  for method in _methods(sweep):
    cells = [
      _gain(
        difference(
          scores(sweep, runs, method, small, metric),
          scores(sweep, runs, sweep.baseline, large, metric),
        )
      )
      for small, large in pairs
    ]
    lines.append(f"| {method} | " + " | ".join(cells) + " |")
  return [*lines, ""]


def _gain(gains: list[float]) -> str:
  """Mean and interval of paired differences, bold where it does not hold 0."""
  if not gains:
    return "–"
  gain = f"{statistics.fmean(gains):+.3f}"
  if len(gains) > 1:
    half = reporting.half_width(gains)
    gain = f"{gain} ± {half:.3f}"
    if abs(statistics.fmean(gains)) > half:
      gain = f"**{gain}**"
  return gain


def _cell(sweep, runs, method, setting, metric) -> str:
  ours = scores(sweep, runs, method, setting, metric)
  if not ours:
    return "–"
  text = reporting.interval(list(ours.values()), 3)
  theirs = scores(sweep, runs, sweep.baseline, setting, metric)
  gains = difference(ours, theirs)
  if method == sweep.baseline or not gains:
    return text
  return f"{text} ({_gain(gains)})"


def _tuning(sweep, runs, method, setting) -> str:
  arm = f"{method} @ {setting:g}"
  found = {
    r["value"]: r["results"][sweep.tune_metric]
    for r in runs.values()
    if r["arm"] == arm and r["seed"] == sweep.tune_seed
  }
  if not found:
    return "–"
  best = max(found, key=lambda v: found[v])
  return ", ".join(
    f"**{v:g}: {found[v]:.3f}**" if v == best else f"{v:g}: {found[v]:.3f}"
    for v in sorted(found)
  )


def _methods(sweep) -> list[str]:
  return list(dict.fromkeys(arm.method for arm in sweep.arms))


def _settings(sweep) -> list[float]:
  return sorted({arm.setting for arm in sweep.arms})


def _arms(sweep) -> dict[str, Any]:
  fields = {arm.name: dict(arm.fields) for arm in sweep.arms}
  return json.loads(json.dumps(fields))


def _tuned(sweep) -> dict[str, str]:
  """What is chosen for each arm; the values may become more."""
  return {arm.name: sweep.tuning(arm)[0] for arm in sweep.arms}


def _others(sweep) -> dict[str, Any]:
  found = {
    name: config_lib.parse(values).to_dict()
    for name, values in sweep.others.items()
  }
  return json.loads(json.dumps(found))


def _config(sweep) -> dict[str, Any]:
  return config_lib.parse(sweep.config).to_dict()
