"""Cases of the public losses: what they are called with, drawn from a seed.

A program is a loss with shapes, types and options, which is compiled once; its cases
differ in the data and in the scalars. Everything of a case follows from the seed, the
name of the loss, the number of the program and that of the case.

What a loss is called with follows from its signature and that of its float64
reference, the function of its name in `tests.losses`: arguments are drawn by name,
and options take all values of their types.
"""

import dataclasses
import inspect
import typing
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from contrastive_jax import losses
from tests.exports import public_names
from tests.losses import (
  augmented_references,
  fusion_references,
  partition_references,
  references,
  rounding,
  structure_references,
  token_class_references,
)

REFERENCES: Mapping[str, Callable[..., rounding.Reference]] = {
  name: getattr(module, name)
  for name in sorted(public_names(losses))
  for module in (
    references,
    augmented_references,
    partition_references,
    fusion_references,
    structure_references,
    token_class_references,
  )
  # That of one weighs a corpus, and has no gradient.
  if name != "inverse_document_frequency"
  if hasattr(module, name)
}

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
# Changes to features of unit norm; the last ones leave the sphere.
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
  "beta": _uniform(0.0, 2.0),
  "tau_plus": _log_uniform(0.001, 0.2),
  **dict.fromkeys(("intra", "inter", "augmented", "paired"), _uniform(0, 2)),
}
# Ranges that one loss needs and the others do not.
_OWN_SCALARS = {
  ("brownian_bridge", "t"): _uniform(0.02, 0.98),
  **dict.fromkeys(
    (
      ("hard_negative_clip", "alpha"),
      ("hard_negative_nt_xent", "alpha"),
    ),
    _log_uniform(0.1, 2.0),
  ),
}
# Losses whose formulas need unit norm.
_ON_SPHERE_ALONE = (
  *("alignment", "deep_feature_separation", "uniformity"),
  *("cross_uniformity", "centroid_uniformity"),
)
# Options that are no bools and have no list of values; the last three are
# arguments that are given or not, and temperatures of each anchor.
_CHOICES: Mapping[str, tuple[Any, ...]] = {
  "block_size": ("auto", 16, 64),
  "label_smoothing": (0.0, 0.1),
  "log_weight_cap": (None, 1.0),
  "negative_mass": (1.0, 255.0),
  "group_ids": (False, True),
  "text_temperature": (False, True),
  "each_anchor": (False, True),
}
_GIVEN = ("group_ids", "text_temperature", "each_anchor")
# They change how a loss is computed, and not what it is.
_COMPUTING = ("block_size", "fused", "form")


def choices(loss: str) -> dict[str, tuple[Any, ...]]:
  """The options of a loss, with all values of each."""
  found = {}
  for name, kind in typing.get_type_hints(getattr(losses, loss)).items():
    if name in _CHOICES:
      found[name] = _CHOICES[name]
    elif kind is bool:
      found[name] = (False, True)
    elif typing.get_origin(kind) is typing.Literal:
      found[name] = typing.get_args(kind)
  hints = typing.get_type_hints(REFERENCES[loss])
  if np.ndarray in typing.get_args(hints.get("temperature")):
    found["each_anchor"] = _CHOICES["each_anchor"]
  return found


@dataclasses.dataclass(frozen=True)
class Program:
  """A loss with shapes, a type and options.

  Attributes:
    loss: its name.
    number: of the program.
    n: rows.
    d: columns.
    dtype: of the arrays, by name.
    options: a value of each of `choices`.
  """

  loss: str
  number: int
  n: int
  d: int
  dtype: str
  options: Known

  @property
  def static(self) -> Known:
    """Options that are passed as they are."""
    return {k: v for k, v in self.options.items() if k not in _GIVEN}

  @property
  def arguments(self) -> Mapping[str, inspect.Parameter]:
    """The parameters of the reference, by name."""
    return inspect.signature(REFERENCES[self.loss]).parameters


@dataclasses.dataclass(frozen=True)
class Case:
  """Arguments of one call of a loss.

  Attributes:
    program: the program that it is a case of.
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
  weights: np.ndarray | None = None

  def reference(self) -> rounding.Reference:
    """Values and gradients in float64, with what rounding is relative to."""
    options = {
      k: v for k, v in self.program.static.items() if k not in _COMPUTING
    }
    with np.errstate(all="ignore"):
      return REFERENCES[self.program.loss](
        **self.arrays,
        **{k: np.float64(v) for k, v in self.scalars.items()},
        **self.known,
        **options,
        weights=self.weights,
      )


def program(loss: str, number: int) -> Program:
  """A program of a loss; shapes, types and options change with its number."""
  names = list(DTYPES)
  place = list(REFERENCES).index(loss)
  n, d = SHAPES[number % len(SHAPES)]
  rng = np.random.default_rng([zlib.crc32(loss.encode()), number])
  return Program(
    loss,
    number,
    n,
    d,
    # All types of a shape are taken, over losses and rounds.
    names[(number + number // len(SHAPES) + place) % len(names)],
    {k: v[rng.integers(len(v))] for k, v in choices(loss).items()},
  )


def draw(which: Program, seed: int, number: int) -> Case:
  """Case `number` of a program, in the study of a seed."""
  rng = np.random.default_rng(
    [seed, zlib.crc32(which.loss.encode()), which.number, number]
  )
  # All kinds, whatever the number of cases.
  kinds = _ON_SPHERE if which.loss in _ON_SPHERE_ALONE else KINDS
  kind = kinds[(number + which.number) % len(kinds)]
  scalars: dict[str, np.ndarray] = {}
  for name in which.arguments:
    if name in _SCALARS and which.options.get(name, True):
      drawn = _OWN_SCALARS.get((which.loss, name), _SCALARS[name])(rng)
      scalars[name] = np.asarray(drawn, np.float32)
  if which.options.get("each_anchor"):
    scalars["temperature"] = np.exp(
      rng.uniform(np.log(0.005), 0.0, which.n)
    ).astype(np.float32)
  arrays = _arrays(rng, which, kind)
  known = _known(rng, which, arrays, scalars)
  case = Case(which, kind, arrays, scalars, known)
  count = case.reference().per_example.size
  weights = rng.uniform(0.5, 1.5, count) / count
  return dataclasses.replace(case, weights=weights.astype(np.float32))


_WORDS = 3  # A text, of masked language modelling and of classes.


def _shapes(which: Program) -> dict[str, tuple[int, ...]]:
  """Shapes of the arrays, by name."""
  n, d, out = which.n, which.d, {}
  for name, argument in which.arguments.items():
    if argument.kind is not argument.POSITIONAL_OR_KEYWORD:
      continue
    match name:
      case "loss" | "prediction":
        out[name] = (n,)
      case "logits" if "matches" in which.arguments:
        out[name] = (n, 2)
      case "logits" if "token_weights" in which.arguments:
        out[name] = (n, d)
      case "logits" | "teacher_logits" if "tokens" in which.arguments:
        out[name] = (n, _WORDS, d)
      case "bridged":
        out[name] = (1 + which.number % 2, n, d)
      case "queue" | "prototypes":
        out[name] = (1 + (3 * n) % 131, d)
      case _ if not name.endswith("log_auxiliary"):
        out[name] = (n, d)
  return out


def _arrays(
  rng: np.random.Generator, which: Program, kind: str
) -> dict[str, np.ndarray]:
  dtype = DTYPES[which.dtype]
  shapes = _shapes(which)
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
  """Given arguments that have no gradient."""
  n, out = which.n, {}
  if which.options.get("group_ids"):
    out["group_ids"] = _ids(rng, n)
  if "queue_ids" in which.arguments and "group_ids" in out:
    out["queue_ids"] = rng.choice(out["group_ids"], len(arrays["queue"]))
  if "matches" in which.arguments:
    out["matches"] = rng.integers(0, 2, n, dtype=np.int32)
    out["valid"] = rng.random(n) < rng.choice([0.0, 0.5, 1.0])
  if "tokens" in which.arguments:
    size = (n, _WORDS)
    out["tokens"] = rng.integers(0, which.d, size, dtype=np.int32)
    if "chosen" in which.arguments:
      out["chosen"] = rng.random(size) < rng.choice([0.0, 0.5, 1.0])
  if "token_weights" in which.arguments:
    rare = rng.random(which.d) < rng.choice([0.0, 0.5])
    out["token_weights"] = np.where(rare, 0.0, rng.gamma(1.0, size=which.d))
    out["token_weights"] = out["token_weights"].astype(np.float32)
  if "log_partition" in which.arguments:
    wide = 1.0 if which.dtype == "float16" else 30.0
    found = rng.normal(size=n) * rng.choice([1.0, wide])
    lost = rng.random(n) < 0.1
    out["log_partition"] = np.float32(
      np.where(lost, rng.choice([-np.inf, np.nan]), found)
    )
  names = [k for k in which.arguments if k.endswith("log_auxiliary")]
  if names:
    # Around -log Z, as a table has them; at times stale, or of nothing seen.
    stale = 20.0 if which.dtype != "float16" else 1.0
    log_u = augmented_references.make_log_u(
      which.loss,
      arrays,
      scalars["temperature"],
      scalars.get("text_temperature"),
      seed=int(rng.integers(2**31)),
      spread=rng.choice([0.0, 1.0, stale]),
    )
    mass = np.float32(np.log(which.options["negative_mass"]))
    for name, row in zip(names, log_u):
      lost = rng.random(n) < 0.05
      out[name] = np.where(lost, np.float32(-np.inf), row - mass)
  return out
