"""The recipes as small runs of two steps."""

import dataclasses
import pathlib

import jax
import numpy as np

from contrastive_jax import recipes
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.distributed import sharding
from contrastive_jax.training.runs import build
from contrastive_jax.training.trainer import state as state_lib
from experiments.benchmarks import pod, timing

# Two steps of every run, written by `python -m tests.recipes.make_golden`.
GOLDEN = pathlib.Path(__file__).with_name("golden_steps.json")

RECIPES = recipes.names()

VARIANTS = {
  "albef_nlvr2": ("assignment",),
  "moco_v3_rn50": ("augmented",),
  "moco_v3_vit_b16": ("augmented",),
  "moco_v3_vit_s16": ("augmented",),
  "simclr_rn50": ("augmented",),
  "structure_rn50": ("clip", "contrast", "cyclip", "bridge", "consistency"),
}

RUNS = [
  ":".join([name, *variant])
  for name in RECIPES
  for variant in ([], *([v] for v in VARIANTS.get(name, ())))
]

# Fewer and narrower blocks of the same kind: a test runs the recipe, not its size.
# The fusion layers have all parts of the encoders' layers.
_NARROW = {"width": 16, "num_heads": 2}

_BARE = {"depth": 0, **_NARROW}

_BLOCK = {"depth": 1, **_NARROW}

_FUSION = {
  **_NARROW,
  "embed_dim": 16,
  "text_depth": 0,
  "fusion_depth": 1,
  "decoder_depth": 1,
}

_CLIP = {"embed_dim": 16, "text": _BLOCK}

SHRUNK = {
  "tiny": {"embed_dim": 16, "image": {"widths": (8,) * 3}, "text": _NARROW},
  "albef_tiny": {**_FUSION, "image": {**_BARE, "stem_width": 8}},
  "albef": {**_FUSION, "image": _BARE},
  "lite0_minilm": {**_CLIP, "image": {"stem": 8, "features": 16}},
  "rn50": {
    **_CLIP,
    "image": {"stage_sizes": (1, 1), "width": 8, "features": 16},
  },
  "resnet50": {"image": {"stage_sizes": (1, 1), "width": 8}},
  "vit_s16": {"image": _BLOCK},
  "vit_b16": {**_CLIP, "image": _BLOCK},
  "vit_b32": {**_CLIP, "image": _BLOCK},
}


def recipe(name, *variant):
  return recipes.load(":".join([name, *variant]))


def completed(draft):
  """A recipe with the path that its user has to give."""
  if draft.data.variant() in ("folder", "official", "records"):
    path = draft.data.path or "images"
    draft.assign("data.path", path)
  return draft


def parsed(name, *variant):
  return config_lib.parse(completed(recipe(name, *variant)))


def with_fields(value, **changes):
  """A dataclass with those of some changed fields that it has."""
  known = {f.name for f in dataclasses.fields(value)}
  kept = {name: one for name, one in changes.items() if name in known}
  return dataclasses.replace(value, **kept)


def shrunk(config):
  """The same run, of two steps without a warm-up, at a small size."""
  overrides = dict(config.model.overrides)
  for name, value in SHRUNK[config.model.preset].items():
    if isinstance(value, dict):
      value = {**overrides.get(name, {}), **value}
    overrides[name] = value
  objective = config.objective
  return dataclasses.replace(
    config,
    steps=2,  # With more, the first would be warm-up and move nothing.
    batch_size=8,
    objective=with_fields(
      objective,
      negative_block=4,
      embed_dim=16,
      projector=tuple(16 for _ in getattr(objective, "projector", ())),
      predictor=tuple(16 for _ in getattr(objective, "predictor", ())),
      cache_features=False,  # Their towers are run as well.
    ),
    loss=config.loss and with_fields(config.loss, queue_size=24),
    model=dataclasses.replace(
      config.model, image_size=32, context_length=12, overrides=overrides
    ),
  )


def step_of(config):
  """A shrunk run's objective, mesh, step and the form of its batches."""
  mesh = sharding.make_mesh(jax.devices()[:1])
  objective = build.build_objective(
    config, vocab_size=99, num_examples=20, mesh=mesh
  )
  step = state_lib.make_train_step(
    objective, **timing.trainer_arguments(config, objective)
  )
  return objective, mesh, step, pod.batch_forms(config, 40)


def dtype_of(run):
  """The precision of a recipe's model."""
  return parsed(*run.split(":")).model.dtype


def started(config, objective):
  """Arguments that make the first state of a run."""
  given = timing.trainer_arguments(config, objective)
  return given["settings"], objective, given["optimizer"]


def random_batch(forms):
  """A batch of such forms: of examples 0, 1 and so on, two of a concept."""
  rng = np.random.default_rng(0)
  ends = {"image": 256, "tokens": 99, "answers": 99, "label": 2, "weights": 2}
  batch = {
    name: rng.integers(0, ends[name], form.shape).astype(form.dtype)
    for name, form in forms.items()
    if name in ends
  }
  rows = np.arange(len(batch["image"]), dtype=np.int32)
  numbers = {"index": rows, "concept_id": rows // 2}
  return batch | {k: v for k, v in numbers.items() if k in forms}


def steps_of(run, dtype="float32"):
  """The objective of a shrunk run, its first state, and what two steps make of it.

  A step gives the state, the loss, and the sums of squares of the gradients. They
  are in float32, whatever the recipe says: machines round bfloat16 in other places,
  and a gradient near 0 of the other sign is an other first step of Adam.
  """
  config = shrunk(parsed(*run.split(":")))
  model = dataclasses.replace(config.model, dtype=dtype)
  config = dataclasses.replace(config, model=model)
  objective, _, step, forms = step_of(config)
  batch = random_batch(forms)
  # Not as one program: most recipes draw the same shapes.
  before = state_lib.init_state(*started(config, objective))

  @jax.jit
  def take(state, batch):
    after, metrics = step(state, batch)
    return after, metrics["loss"], metrics["squares"]["gradient"]

  first = take(before, batch)
  return objective, before, first, take(first[0], batch)


def summary(*steps):
  """The numbers of steps that `golden_steps.json` has."""
  leaves = jax.tree.leaves(steps[-1][0].params)
  sums = [np.abs(np.asarray(x, np.float32)).sum(dtype=float) for x in leaves]
  losses = [float(loss) for _, loss, _ in steps]
  return {"losses": losses, "parameters": float(sum(sums))}
