"""Cases of the public losses: what they are called with, drawn from a seed.

A program is a loss with shapes, types and options, which is compiled once; its cases
differ in the data and in the scalars. Everything of a case follows from the seed, the
name of the loss, the number of the program and that of the case.
"""

import dataclasses
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from experiments.durability import formulas
from experiments.durability.tape import Node

# [N, d] from 1 to 257 and from 1 to 130, primes and powers of two among them.
SHAPES = (
  *((1, 1), (257, 130), (1, 130), (257, 1), (2, 2), (7, 127), (3, 5), (64, 4)),
  *((13, 130), (101, 2), (5, 3), (32, 128), (16, 1), (61, 61), (2, 64)),
  *((193, 7), (8, 8), (97, 130), (17, 31), (256, 32), (31, 17), (127, 16)),
  *((251, 113), (128, 64)),
)
EXTREMES = 4  # The first ones.
DTYPES: Mapping[str, Any] = {
  "float32": np.float32,
  "bfloat16": ml_dtypes.bfloat16,
  "float16": np.float16,
}
# What is done to features of unit norm; the last ones leave the sphere.
_ON_SPHERE = ("plain", "duplicated", "opposite", "equal", "near")
_OFF_SPHERE = ("zero", "huge", "tiny")
KINDS = (*_ON_SPHERE, *_OFF_SPHERE)
# Norm of huge rows; the gradients of larger ones are no float16 any more.
_HUGE = {"float32": 1e3, "bfloat16": 1e3, "float16": 4.0}
_TINY = {"float32": 1e-8, "bfloat16": 1e-8, "float16": 1e-3}

Known = Mapping[str, Any]


def _log_uniform(low: float, high: float) -> Callable[..., float]:
  return lambda rng: float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _uniform(low: float, high: float) -> Callable[..., float]:
  return lambda rng: float(rng.uniform(low, high))


_SCALARS: Mapping[str, Callable[..., float]] = {
  "temperature": _log_uniform(0.005, 1.0),
  "text_temperature": _log_uniform(0.005, 1.0),
  "logit_scale": _log_uniform(1.0, 200.0),
  "logit_bias": _uniform(-12.0, 2.0),
  "alpha": lambda rng: float(rng.choice([0.0, 1.0, rng.uniform()])),
  "t": _log_uniform(0.1, 4.0),
  "rho": _uniform(0.0, 10.0),
  **dict.fromkeys(("intra", "inter", "augmented", "paired"), _uniform(0, 2)),
}


@dataclasses.dataclass(frozen=True)
class Loss:
  """What a loss is called with.

  Attributes:
    formula: in float64.
    arrays: arguments that may have a gradient.
    scalars: likewise.
    options: sets of static arguments; a program has one of them. `groups` stands
      for `group_ids`, `rows` for temperatures of each anchor.
    sphere: whether the formula needs unit norm.
    ranges: of scalars that differ from the usual.
  """

  formula: formulas.Formula
  arrays: Sequence[str]
  scalars: Sequence[str] = ()
  options: Sequence[Known] = ({},)
  sphere: bool = False
  ranges: Mapping[str, Callable[..., float]] = dataclasses.field(
    default_factory=dict
  )


_GROUPS = ({}, {"groups": True}, {"groups": True, "block_size": 64})
_SMOOTH = (*_GROUPS, {"label_smoothing": 0.1, "block_size": 16})
_MASS = (
  {"include_positive": False, "negative_mass": 1.0},
  {"include_positive": True, "negative_mass": 255.0, "groups": True},
  {"include_positive": False, "negative_mass": 1.0, "rows": True},
  {"include_positive": True, "negative_mass": 1.0, "block_size": 64},
)
_WEIGHTED = (
  *_MASS,
  {**_MASS[1], "log_weight_cap": 1.0},
  {**_MASS[0], "fused": False},
)
_POSITIVE = (
  {"positive": "augmented"},
  {"positive": "original", "groups": True},
)
_PAIR, _FOUR = (
  ("image", "text"),
  (*("image", "text", "image_augmented", "text_augmented"),),
)
_VIEWS, _ROWS = ("first_view", "second_view"), ("queries", "keys")
_MOMENTUM, _TAU = ("queries", "momentum_keys"), ("temperature",)
_TAUS = ("temperature", "text_temperature")

LOSSES: Mapping[str, Loss] = {
  "info_nce": Loss(formulas.info_nce, _ROWS, _TAU, _SMOOTH),
  "nt_xent": Loss(formulas.nt_xent, _VIEWS, _TAU, _GROUPS),
  "clip": Loss(formulas.clip, _PAIR, ("logit_scale",), _SMOOTH),
  "clip_four_term": Loss(
    formulas.clip_four_term,
    _FOUR,
    ("logit_scale",),
    [
      {"in_modal_denominator": name, **groups}
      for name, groups in zip(("augmented", "original") * 2, (*_GROUPS, {}))
    ],
  ),
  "moco_v3": Loss(formulas.moco_v3, _MOMENTUM, _TAU, _GROUPS),
  "decoupled": Loss(formulas.decoupled, _ROWS, _TAU, _GROUPS),
  "sigmoid": Loss(
    formulas.sigmoid, _PAIR, ("logit_scale", "logit_bias"), _GROUPS
  ),
  "moco_v2": Loss(formulas.moco_v2, (*_MOMENTUM, "queue"), _TAU),
  "soft_target_contrastive": Loss(
    formulas.soft_target_contrastive,
    ("queries", "momentum_queries", "momentum_keys", "queue"),
    ("temperature", "alpha"),
    _GROUPS,
  ),
  "image_text_matching": Loss(formulas.image_text_matching, ("logits",)),
  "distillation": Loss(formulas.distillation, ("logits", "teacher_logits")),
  "masked_language_modeling": Loss(
    formulas.masked_language_modeling, ("logits", "teacher_logits"), ("alpha",)
  ),
  "augmented_contrastive": Loss(
    formulas.augmented_contrastive, _ROWS, _TAU, _WEIGHTED
  ),
  "augmented_clip": Loss(formulas.augmented_clip, _PAIR, _TAUS, _WEIGHTED),
  "augmented_nt_xent": Loss(
    formulas.augmented_nt_xent, _VIEWS, _TAU, _WEIGHTED
  ),
  "augmented_moco_v3": Loss(
    formulas.augmented_moco_v3,
    _MOMENTUM,
    _TAU,
    [option for option in _WEIGHTED if "rows" not in option],
  ),
  "log_partition": Loss(formulas.log_partition, _ROWS, _TAU, _MASS),
  "log_partition_clip": Loss(formulas.log_partition_clip, _PAIR, _TAUS, _MASS),
  "log_partition_nt_xent": Loss(
    formulas.log_partition_nt_xent, _VIEWS, _TAU, _MASS
  ),
  "amortized_loss": Loss(formulas.amortized_loss, ("prediction",)),
  "prototype_log_partition": Loss(
    formulas.prototype_log_partition,
    (*_ROWS, "prototypes"),
    _TAU,
    [
      {**o, "eps": 1e-14}
      for o in _MASS
      if not {"groups", "block_size"} & set(o)
    ]
    + [{"include_positive": True, "negative_mass": 2.0, "eps": 1e-14}],
  ),
  "scale_by_temperature": Loss(
    formulas.scale_by_temperature,
    ("loss",),
    ("temperature", "rho"),
    ({}, {"rows": True}),
  ),
  "uniformity": Loss(
    formulas.uniformity,
    _PAIR,
    ("t",),
    ({}, {"block_size": 64}),
    sphere=True,
  ),
  "geometric_consistency": Loss(
    formulas.geometric_consistency,
    _FOUR,
    ("intra", "inter", "augmented", "paired"),
    ({}, {"form": "gram"}, {"form": "direct"}),
  ),
  "orthogonality": Loss(formulas.orthogonality, ("shared", "independent")),
  "independent_contrast": Loss(
    formulas.independent_contrast, _FOUR, _TAU, _POSITIVE
  ),
  "deep_feature_separation": Loss(
    formulas.deep_feature_separation,
    (
      *("image", "text", "image_independent", "text_independent"),
      *("image_independent_augmented", "text_independent_augmented"),
    ),
    ("temperature", "t"),
    _POSITIVE,
    sphere=True,
  ),
  "brownian_bridge": Loss(
    formulas.brownian_bridge,
    ("start", "end", "bridged"),
    ("t",),
    ({"weighted": False}, {"weighted": True}),
    ranges={"t": _uniform(0.02, 0.98)},
  ),
  "alignment": Loss(
    formulas.alignment, _PAIR, options=({"epsilon": 1e-3},), sphere=True
  ),
}


@dataclasses.dataclass(frozen=True)
class Program:
  """A loss with shapes, a type and options.

  Attributes:
    loss: its name.
    number: of the program.
    n: rows.
    d: columns.
    dtype: of the arrays, by name.
    options: static arguments.
  """

  loss: str
  number: int
  n: int
  d: int
  dtype: str
  options: Known

  @property
  def seed(self) -> tuple[int, int]:
    """What its cases are drawn from, beside the study's seed."""
    return zlib.crc32(self.loss.encode()), self.number


@dataclasses.dataclass(frozen=True)
class Case:
  """What a loss is called with once.

  Attributes:
    program: that it is a case of.
    kind: of `KINDS`.
    arrays: by name, in the program's type.
    scalars: by name, float32: [] or [N].
    known: what has no gradient: ids, log-weights, words.
    weights: float32, of the values in the sum whose gradient is taken.
  """

  program: Program
  kind: str
  arrays: Mapping[str, np.ndarray]
  scalars: Mapping[str, np.ndarray]
  known: Mapping[str, np.ndarray]
  weights: np.ndarray


def program(loss: str, number: int) -> Program:
  """A program of a loss; shapes, types and options change with its number."""
  names = list(DTYPES)
  place = list(LOSSES).index(loss)
  n, d = SHAPES[number % len(SHAPES)]
  options = LOSSES[loss].options
  return Program(
    loss,
    number,
    n,
    d,
    # All types of a shape are taken, over losses and rounds.
    names[(number + number // len(SHAPES) + place) % len(names)],
    options[(number // 2 + place) % len(options)],
  )


def draw(which: Program, seed: int, number: int) -> Case:
  """A case of a program.

  Args:
    which: the program.
    seed: of the study.
    number: of the case among those of the program.

  Returns:
    The case.
  """
  rng = np.random.default_rng([seed, *which.seed, number])
  loss = LOSSES[which.loss]
  # All kinds, whatever the number of cases.
  kinds = _ON_SPHERE if loss.sphere else KINDS
  kind = kinds[(number + which.number) % len(kinds)]
  scalars: dict[str, np.ndarray] = {
    name: np.asarray(loss.ranges.get(name, _SCALARS[name])(rng), np.float32)
    for name in loss.scalars
  }
  if which.options.get("rows"):
    scalars["temperature"] = np.exp(
      rng.uniform(np.log(0.005), 0.0, which.n)
    ).astype(np.float32)
  arrays = _arrays(rng, which, kind)
  known = _known(rng, which, arrays, scalars)
  rows = {"nt_xent": 2, "augmented_nt_xent": 2, "log_partition_nt_xent": 2}
  rows |= {"log_partition_clip": 2, "masked_language_modeling": _WORDS}
  count = which.n * rows.get(which.loss, 1)
  if which.loss == "uniformity":
    count = 1
  elif which.loss == "deep_feature_separation":
    count = 2 * which.n + 1
  weights = (rng.uniform(0.5, 1.5, count) / count).astype(np.float32)
  return Case(which, kind, arrays, scalars, known, weights)


_WORDS = 3  # A text, of masked language modelling.


def _shape(which: Program, name: str) -> tuple[int, ...]:
  n, d = which.n, which.d
  match which.loss, name:
    case "amortized_loss" | "scale_by_temperature", _:
      return (n,)
    case "image_text_matching", _:
      return (n, 2)
    case "masked_language_modeling", _:
      return (n, _WORDS, d)
    case _, "bridged":
      return (1 + which.number % 2, n, d)
    case _, "queue" | "prototypes":
      return (1 + (3 * n) % 131, d)
  return (n, d)


def _arrays(
  rng: np.random.Generator, which: Program, kind: str
) -> dict[str, np.ndarray]:
  dtype = DTYPES[which.dtype]
  shapes = {k: _shape(which, k) for k in LOSSES[which.loss].arrays}
  first = next(iter(shapes))
  if first in ("logits", "prediction", "loss"):
    scale = {"huge": 1e3, "tiny": 1e-6}.get(kind, 3.0)
    if first == "prediction":  # Its exponential is to be of the type.
      scale = 1.0 if which.dtype == "float16" else min(scale, 50.0)
    out = {k: scale * rng.normal(size=s) for k, s in shapes.items()}
    if kind in ("zero", "equal", "duplicated"):
      out = {k: np.zeros_like(x) + (kind == "equal") for k, x in out.items()}
    return {k: x.astype(dtype) for k, x in out.items()}
  n, d = which.n, which.d
  shared = rng.normal(size=(n, d))
  noise = {"near": 1e-3}.get(kind, rng.choice([0.3, 1.0, 3.0]))
  same = rng.integers(0, n, n)
  zero = rng.random(n) < rng.choice([0.3, 1.0])
  # One scale for all rows: logits that differ by much more say nothing.
  reach = {"huge": _HUGE, "tiny": _TINY}.get(kind, {}).get(which.dtype, 1.0)
  norm = reach ** rng.uniform()
  out = {}
  for place, (name, shape) in enumerate(shapes.items()):
    rows = rng.normal(size=shape)
    if shape[-2] == n:
      rows = shared + noise * rows
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    if shape[-2] == n and kind == "duplicated":
      rows = rows[..., same, :]
    elif kind == "opposite" and place % 2 and shape == (n, d):
      rows = -out[first].astype(np.float64)
    elif kind == "equal":
      rows = np.broadcast_to(rows[..., :1, :], shape)
    elif shape[-2] == n and kind == "zero":
      rows = np.where(zero[:, None], 0.0, rows)
    out[name] = (norm * rows).astype(dtype)
  return out


def _ids(rng: np.random.Generator, n: int) -> np.ndarray:
  """One group, none, some, or large numbers."""
  kinds = (
    np.full(n, 7),
    rng.permutation(n),
    rng.integers(0, 1 + n // 3, n),
    rng.choice([-(2**31), 2**31 - 1, 0], n),
  )
  return kinds[rng.integers(4)].astype(np.int32)


def _known(
  rng: np.random.Generator,
  which: Program,
  arrays: Mapping[str, np.ndarray],
  scalars: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
  """What is given beside arrays and scalars."""
  n, out = which.n, {}
  if which.options.get("groups"):
    out["group_ids"] = _ids(rng, n)
  match which.loss:
    case "soft_target_contrastive" if "group_ids" in out:
      out["queue_ids"] = rng.choice(out["group_ids"], len(arrays["queue"]))
    case "image_text_matching":
      out["matches"] = rng.integers(0, 2, n, dtype=np.int32)
      out["valid"] = rng.random(n) < rng.choice([0.0, 0.5, 1.0])
    case "masked_language_modeling":
      size = (n, _WORDS)
      out["tokens"] = rng.integers(0, which.d, size, dtype=np.int32)
      out["chosen"] = rng.random(size) < rng.choice([0.0, 0.5, 1.0])
    case "amortized_loss" | "scale_by_temperature":
      wide = 1.0 if which.dtype == "float16" else 30.0
      found = rng.normal(size=n) * rng.choice([1.0, wide])
      lost = rng.random(n) < 0.1
      out["log_partition"] = np.float32(
        np.where(lost, rng.choice([-np.inf, np.nan]), found)
      )
  if which.loss.startswith("augmented"):
    out |= _log_weights(rng, which, arrays, scalars, out)
  return out


def _log_weights(
  rng: np.random.Generator,
  which: Program,
  arrays: Mapping[str, np.ndarray],
  scalars: Mapping[str, np.ndarray],
  known: Known,
) -> dict[str, np.ndarray]:
  """Log-weights around -log Z, as a table has them; at times stale, or of nothing seen."""
  options = {"include_positive": False, "negative_mass": 1.0, **known}
  kind = which.loss.removeprefix("augmented_")
  x = {k: Node(v.astype(np.float64)) for k, v in {**arrays, **scalars}.items()}
  if kind == "moco_v3":
    x["keys"] = x["momentum_keys"]
  formula = getattr(formulas, f"log_partition_{kind}", formulas.log_partition)
  log_z = formula(x, options).value
  log_u = -np.where(np.isfinite(log_z), log_z, 0.0)
  stale = 20.0 if which.dtype != "float16" else 1.0
  log_u += rng.choice([0.0, 1.0, stale]) * rng.normal(size=log_u.shape)
  log_u[rng.random(log_u.shape) < 0.05] = -np.inf
  names = {
    "clip": ("image_log_auxiliary", "text_log_auxiliary"),
    "nt_xent": ("first_log_auxiliary", "second_log_auxiliary"),
  }.get(kind, ("log_auxiliary",))
  return dict(zip(names, np.split(np.float32(log_u), len(names))))
