"""Steps of stochastic EM, and their memory simulated in float64."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from contrastive_jax import losses
from tests.losses import augmented_references as references

N, D, COUNT = 8, 6, 20  # Rows of a batch, width, examples.
SIDES = {"clip": 2, "contrastive": 1, "nt_xent": 1, "moco_v3": 1}
ARRAYS = {"clip": 2, "contrastive": 2, "nt_xent": 2, "moco_v3": 4}


def make_steps(family, steps=5, captions=0, seed=0):
  """Features, examples and a temperature for each step, in float32."""
  rng = np.random.default_rng(seed)
  made = []
  for t in range(steps):
    shapes = [(N, D)] * ARRAYS[family]
    if captions:
      shapes[1] = (N, captions, D)
    arrays = [rng.normal(size=shape) for shape in shapes]
    arrays = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in arrays]
    index = rng.integers(0, COUNT, N)  # Some of them twice.
    made.append((tuple(map(np.float32, arrays)), index, 0.2 * 0.9**t))
  return made


def make_references(family, steps=5, captions=0, seed=1, width=4):
  """Features of a frozen model for the rows of each step, of another width."""
  rng = np.random.default_rng(seed)
  made = []
  for _ in range(steps):
    shapes = [(N, width), (N, captions, width) if captions else (N, width)]
    pair = [rng.normal(size=shape) for shape in shapes]
    pair = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in pair]
    made.append(tuple(map(np.float32, pair)))
  return made


def run(family, steps, fn=None, state=None, frozen=None, **options):
  """Every `EMStep` of some steps, compiled once; `frozen` are references."""
  fn = fn or getattr(losses, f"em_{family}")
  state = state or losses.em_init(COUNT, sides=SIDES[family])
  compiled = jax.jit(functools.partial(fn, **options))
  found = []
  for t, (arrays, index, tau) in enumerate(steps):
    more = {} if frozen is None else {"reference": frozen[t]}
    found.append(
      compiled(
        *map(jnp.asarray, arrays),
        state,
        index=jnp.asarray(index),
        key=jax.random.key(t),
        temperature=jnp.float32(tau),
        **jax.tree.map(jnp.asarray, more),
      )
    )
    state = found[-1].state
  return found


def views_of(family, arrays):
  """(cosines, mask, positives, rows) of every view and side, whole matrices."""
  a = [np.float64(x) for x in arrays]
  plain = references.negatives(None, N)
  if family == "nt_xent":
    z, twice = np.concatenate(a), np.tile(plain, (2, 2))
    own = np.tile((a[0] * a[1]).sum(1), 2)
    return [
      [(z @ z.T, twice, own, slice(N))],
      [(z @ z.T, twice, own, slice(N, None))],
    ]
  pairs = [(a[0], a[1])]
  if family == "moco_v3":
    pairs = [(a[0], a[3]), (a[1], a[2])]
  if family == "clip" and a[1].ndim == 3:
    pairs = [(a[0], a[1][:, v]) for v in range(a[1].shape[1])]
  out = []
  for q, k in pairs:
    sides = [(q, k)] + ([(k, q)] if family == "clip" else [])
    out.append(
      [(x @ y.T, plain, (x * y).sum(1), slice(None)) for x, y in sides]
    )
  return out


def log_mean(cosine, mask, own, tau):
  """Log of the mean of exp(margin) over negatives."""
  margin = np.where(mask, (cosine - own[:, None]) / tau, -np.inf)
  return np.logaddexp.reduce(margin, axis=1) - np.log(mask.sum(1))


def simulate(family, steps, rate, margins, level_rate, frozen=None):
  """The memory in float64 and dictionaries; losses, entries, level, log Z.

  Margins of a reference of each step, `frozen`, are subtracted.
  """
  entries, visits = {}, {}
  level = np.zeros(SIDES[family])
  made = []
  for t, (arrays, index, tau) in enumerate(steps):
    views = views_of(family, arrays)
    if frozen is not None:
      twice = 2 if family == "moco_v3" else 1
      others = views_of(family, frozen[t] * twice)
      views = [
        [
          (c - d, mask, p - r, rows)
          for (c, mask, p, rows), (d, _, r, _) in zip(*sides, strict=True)
        ]
        for sides in zip(views, others, strict=True)
      ]
    log_z, positive = (
      np.stack([np.stack(side, axis=1) for side in found], axis=1)
      for found in (
        [
          [
            log_mean(cosine, mask, own, tau)[rows]
            for cosine, mask, own, rows in sides
          ]
          for sides in views
        ],
        [[own[rows] / tau for _, _, own, rows in sides] for sides in views],
      )
    )
    unit = 1.0 if margins else tau
    kept = log_z + (0.0 if margins else positive)
    read = np.full_like(kept, np.nan)
    for row, i in enumerate(index):
      if i in entries:
        read[row] = entries[i] + level
    gaps = kept - read / unit
    gaps = np.clip(gaps[~np.isnan(gaps[:, 0, 0])], -3, 3)
    if len(gaps):
      level = level + level_rate * unit * np.log(np.exp(gaps).mean((0, 1)))
    new = {}
    known = np.empty_like(log_z)
    for row, i in enumerate(index):
      after = log_z[row]
      if i in entries:
        before = (entries[i] + level) / unit
        before = before - (0.0 if margins else positive[row])
        g = rate(visits[i], before)
        after = np.log((1 - g) * np.exp(before) + g * np.exp(after))
      known[row] = after
      back = after + (0.0 if margins else positive[row])
      back = np.logaddexp.reduce(back, axis=0) - math.log(len(back))
      new.setdefault(i, []).append(back * unit - level)
    for i, values in new.items():
      entries[i] = np.mean(values, axis=0)
      visits[i] = visits.get(i, 0) + 1
    made.append((np.exp(log_z - known), known, dict(entries), level))
  return made
