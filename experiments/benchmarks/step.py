"""Times whole train steps: what they spend, and against open_clip's in torch.

python -m experiments.benchmarks.step
python -m experiments.benchmarks.step --seconds=10 --out=runs/step

Three questions. Of a step of the emoji recipe as the loop runs it, how much is
the loss, the augmentation, waiting for input, and the host? What do the
gamma-augmented loss and the regularisers of latent structure add to a step of the
recipe (`variants`)? And how does a step of a ViT two-tower model compare with
open_clip's on the same model and batch?
"""

import contextlib
import dataclasses
import functools
import pathlib
import statistics
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from contrastive_jax.programs import command_line as flags_lib
from contrastive_jax.programs import reporting
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.distributed import sharding
from contrastive_jax.training.objectives import clip
from contrastive_jax.training.objectives.contrast import Contrast
from contrastive_jax.training.runs import build, runner
from contrastive_jax.training.trainer import loop, metric_log
from experiments import studies
from experiments.benchmarks import peers, timing, variants

_FLAGS = flags.FlagValues()
_integer = functools.partial(flags.DEFINE_integer, flag_values=_FLAGS)
_CONFIG = flags_lib.define_config(flag_values=_FLAGS)
_SECONDS = flags.DEFINE_float(
  "seconds", 60.0, "Seconds of measuring, a contestant.", flag_values=_FLAGS
)
_STEPS = _integer("steps", 60, "Steps of the loop.")
_BATCH = _integer("batch", 64, "Pairs a step of the ViT.")
_OUT = studies.define_out("step_speed", _FLAGS)
# A published form (open_clip's ViT-Ti-16 but for the sizes of its input), as
# large as a few steps on a CPU allow.
_PRESET, _SIDE, _CONTEXT, _VOCABULARY = "vit_ti16", 96, 32, 8192


def take_apart(
  config: config_lib.Config, *, seconds: float, steps: int
) -> dict[str, Any]:
  """Seconds of a recipe's step and of its parts, by runs of so many steps.

  Returns:
    `whole` (a step of the loop, median of its log lines), `step` (the compiled
    step alone), `loss` (its value and gradient at the features), `augmentation`,
    `wait` (of the loop for input) and `host` (whole - step - wait).
  """
  config = dataclasses.replace(
    config,
    steps=steps,
    log_every=max(1, steps // 6),
    checkpoint_every=steps,
    evaluation=dataclasses.replace(config.evaluation, evaluators={}),
  )
  with tempfile.TemporaryDirectory() as folder:
    workdir = pathlib.Path(folder)
    run = runner.open_run(config, workdir)
    calls = _part_calls(config, run.objective, timing.first_batch(run))
    parts = timing.interleaved(calls, seconds)
    with contextlib.closing(run.batches()) as batches:
      loop.fit(
        **timing.trainer_arguments(config, run.objective),
        objective=run.objective,
        iterator=batches,
        mesh=run.mesh,
        workdir=workdir,
      )
    # The first interval has fewer steps: the one that compiles is left out.
    rows = [
      r
      for r in metric_log.read_metrics(workdir)
      if "train/examples_per_second" in r
    ][1:]
  whole = [config.batch_size / r["train/examples_per_second"] for r in rows]
  result = {name: part["seconds"] for name, part in parts.items()}
  result["whole"] = statistics.median(whole)
  result["wait"] = statistics.median(
    r["train/input_wait"] * seconds for r, seconds in zip(rows, whole)
  )
  result["host"] = result["whole"] - result["step"] - result["wait"]
  return {"batch_size": config.batch_size, "seconds": result}


def _part_calls(
  config: config_lib.Config, objective: Any, batch: Any
) -> dict[str, Callable[[], Any]]:
  """The step, its loss and its augmentation, each compiled by itself."""
  settings: Any = config.objective
  if settings.task != "captions" or not hasattr(config.loss, "build"):
    raise config_lib.UserError(
      "--config must be a recipe of objective=clip whose loss is not augmented,"
      " for its loss to be measured apart from its step."
    )
  n, captions = batch["image"].shape[0], settings.captions_per_example
  rng = np.random.default_rng(0)

  def unit(*shape):
    x = rng.normal(size=shape).astype(np.float32)
    return jnp.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))

  dim = objective.model.embed_dim
  features = {"image": unit(n, dim), "text": unit(n, captions, dim)}
  if config.loss.takes_views:
    features |= {
      f"{side}_augmented": unit(n, dim) for side in ("image", "text")
    }
  groups = batch["concept_id"] if config.loss.group_positives else None

  contrast = Contrast(
    config.loss, sharding.make_mesh(), image_image=settings.image_image
  )

  def mean(features, scale, bias):
    return jnp.mean(contrast(features, scale, bias, groups))

  loss = jax.jit(jax.value_and_grad(mean, argnums=(0, 1, 2)))
  view = jax.jit(objective.augmented)
  key = jax.random.key(0)
  scale, bias = jnp.float32(14.3), jnp.float32(-10.0)
  return {
    "step": timing.step_call(config, objective, batch),
    "loss": lambda: jax.block_until_ready(loss(features, scale, bias)),
    "augmentation": lambda: jax.block_until_ready(view(key, batch["image"])),
  }


def vit_config(batch: int) -> config_lib.Config:
  """A ViT two-tower run without augmentation: the work that peers do too."""
  return config_lib.parse(
    {
      "batch_size": batch,
      "model": {
        "preset": _PRESET,
        "image_size": _SIDE,
        "context_length": _CONTEXT,
      },
      "augment": {"random_resized_crop": False, "color_jitter": 0.0},
      "loss": {"name": "clip", "group_positives": False},
    }
  )


def against_open_clip(batch: int, *, seconds: float) -> dict[str, Any]:
  """Seconds of our step and of open_clip's on one model and batch."""
  config = vit_config(batch)
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (batch, _SIDE, _SIDE, 3), dtype=np.uint8)
  tokens = rng.integers(1, _VOCABULARY, (batch, _CONTEXT), dtype=np.int32)
  mesh = sharding.make_mesh(jax.devices()[:1])
  objective = build.build_objective(
    config, vocab_size=_VOCABULARY, num_examples=batch, mesh=mesh
  )
  ours = {
    "image": jnp.asarray(images),
    "tokens": jnp.asarray(tokens)[:, None],
    "concept_id": jnp.arange(batch, dtype=jnp.int32),
  }
  calls = {"ours": timing.step_call(config, objective, ours)}
  params, _ = jax.eval_shape(objective.init, jax.random.key(0), ours)
  # Theirs has no bias.
  size = sum(x.size for x in jax.tree.leaves(params)) - 1
  theirs = _open_clip_call(config, objective, images, tokens, size)
  if theirs is not None:
    calls["open_clip"] = theirs
  return {
    "preset": _PRESET,
    "image_size": _SIDE,
    "context_length": _CONTEXT,
    "batch_size": batch,
    "parameters": size,
    "times": timing.interleaved(calls, seconds),
  }


def _open_clip_call(
  config: config_lib.Config,
  objective: clip.Clip,
  images: np.ndarray,
  tokens: np.ndarray,
  parameters: int,
) -> Callable[[], Any] | None:
  """The same step in torch; None without open_clip."""
  found = peers.open_clip()
  if found is None:
    return None
  open_clip, torch = found
  image, text = objective.model.image, objective.model.text
  model = open_clip.model.CLIP(
    objective.model.embed_dim,
    open_clip.CLIPVisionCfg(
      layers=image.depth,
      width=image.width,
      head_width=image.width // image.num_heads,
      patch_size=image.patch_size,
      image_size=_SIDE,
    ),
    open_clip.CLIPTextCfg(
      context_length=_CONTEXT,
      vocab_size=_VOCABULARY,
      width=text.width,
      heads=text.num_heads,
      layers=text.depth,
    ),
    output_dict=True,
  )
  count = sum(p.numel() for p in model.parameters())
  if count != parameters:
    raise RuntimeError(f"open_clip has {count} parameters; ours {parameters}.")
  settings = config.optimizer
  optimizer = torch.optim.AdamW(
    model.parameters(),
    lr=settings.learning_rate,
    betas=(settings.beta1, settings.beta2),
    weight_decay=settings.weight_decay,
  )
  loss_fn = open_clip.ClipLoss()
  pixels = torch.from_numpy(images)
  ids = torch.from_numpy(tokens.astype(np.int64))
  model.train()

  def call():
    optimizer.zero_grad()
    # The transform of open_clip, on the whole batch as ours is.
    x = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1.0
    loss = loss_fn(**model(x, ids), output_dict=False)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
    optimizer.step()
    with torch.no_grad():
      model.logit_scale.clamp_(0, 4.6052)
    return loss.item()

  return call


def parts(recipe: Mapping[str, Any]) -> list[tuple[str, float]]:
  """(name, seconds) of the parts of a recipe's step, which add up to it."""
  seconds = recipe["seconds"]
  towers = seconds["step"] - seconds["loss"] - seconds["augmentation"]
  return [
    ("towers, forward and backward, and optimiser", towers),
    ("augmentation", seconds["augmentation"]),
    ("loss, value and gradient", seconds["loss"]),
    ("waiting for input", seconds["wait"]),
    ("host: reading ahead, logs, checks, dispatch", seconds["host"]),
  ]


def plot(record: Mapping[str, Any], path: pathlib.Path) -> None:
  """Parts of a step, and pairs a second beside open_clip's."""
  from matplotlib import figure

  canvas = figure.Figure(figsize=(9, 3.2), layout="constrained")
  left, right = canvas.subplots(1, 2, width_ratios=(3, 1))
  found = parts(record["recipe"])[::-1]
  bars = left.barh([n for n, _ in found], [1e3 * s for _, s in found])
  whole = record["recipe"]["seconds"]["whole"]
  left.bar_label(bars, [f"{s / whole:.1%}" for _, s in found], padding=3)
  left.margins(x=0.15)
  left.set_xlabel("milliseconds a step")
  left.set_title("emoji recipe")
  vit = record["vit"]
  rates = {
    name: vit["batch_size"] / t["seconds"] for name, t in vit["times"].items()
  }
  right.bar_label(right.bar(list(rates), list(rates.values())), fmt="%.1f")
  right.margins(y=0.12)
  right.set_ylabel("pairs a second")
  right.set_title(vit["preset"])
  canvas.savefig(path, dpi=110)


def page(record: Mapping[str, Any]) -> str:
  """The record as Markdown."""
  recipe, vit = record["recipe"], record["vit"]
  whole, pairs = recipe["seconds"]["whole"], vit["batch_size"]
  times = {name: t["seconds"] for name, t in vit["times"].items()}
  ratio = ""
  if "open_clip" in times:
    over = times["open_clip"] / times["ours"]
    ratio = f"Ours over open_clip's (torch, eager): {over:.2f} ×."
  return studies.page(
    "# Where a train step's time goes",
    f"{record['cores']} CPU cores; medians of runs in turn. Parts are compiled"
    " by themselves, the towers are what remains of the compiled step, the host"
    " is what remains of the loop.",
    studies.shell(record["command"]),
    f"The emoji recipe, {recipe['batch_size']} pairs a step:",
    reporting.table(
      ["part of a step", "ms", "share"],
      [
        *([n, f"{1e3 * s:.1f}", f"{s / whole:.1%}"] for n, s in parts(recipe)),
        [
          *("whole", f"{1e3 * whole:.1f}"),
          f"{recipe['batch_size'] / whole:,.0f} pairs a second",
        ],
      ],
    ),
    f"A ViT two-tower model (`{vit['preset']}`, {vit['parameters'] / 1e6:.1f}"
    f" million parameters, {vit['image_size']} pixels,"
    f" {vit['context_length']} tokens), {pairs} pairs a step,"
    " float32, from uint8 pixels to updated parameters:",
    reporting.table(
      ["step", "s", "pairs a second"],
      ([n, f"{s:.3f}", f"{pairs / s:.1f}"] for n, s in times.items()),
    ),
    *variants.tables(record["variants"]),
    ratio,
    "![Parts of a step, and pairs a second](step_speed.png)",
    f"Made with {reporting.listed(record['versions'])}.",
  )


def main() -> None:
  """Runs the program."""
  out, seconds = studies.folder(_OUT.value), _SECONDS.value
  config = config_lib.parse(_CONFIG.value)
  record: dict[str, Any] = {
    "command": f"python -m experiments.benchmarks.step --seconds={seconds:g}",
    **peers.machine(),
    "recipe": take_apart(config, seconds=seconds, steps=_STEPS.value),
    "variants": variants.measure(config, seconds=seconds),
    "vit": against_open_clip(_BATCH.value, seconds=seconds),
  }
  print(text := page(record))
  studies.publish(out, "step_speed", record, text, plot)


if __name__ == "__main__":
  flags_lib.run(main, flag_values=_FLAGS, usage=__doc__)
