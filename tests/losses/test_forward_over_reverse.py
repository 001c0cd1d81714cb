"""Second derivatives of the contrastive losses, against the float64 references."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax import losses
from tests.losses import references
from tests.meshes import make_mesh

N, D = 12, 6
IDS = np.array([7, -1, 7, 3, 0, -1, 7, 9, 3, 5, 4, 0])
NAMES = tuple(references.LOSSES)


def problem(name):
  """Arguments, a direction to move them in, and cotangents."""
  arrays = references.make_inputs(name, N, D, noise=2.0)
  given = arrays | references.make_scalars(name, 3.0)
  given = {k: jnp.float32(v) for k, v in given.items()}
  rng = np.random.default_rng(4)
  moves = {k: jnp.float32(rng.normal(size=v.shape)) for k, v in given.items()}
  if "tau_plus" in moves:  # It has to stay above 0.
    moves["tau_plus"] *= 0.1
  for constant in {"momentum_keys"} & moves.keys():
    moves[constant] *= 0.0
  count = 2 * N if name in references.TWO_VIEWS else N
  return given, moves, np.float32(rng.normal(size=count))


def reference(name, given, moves, ids, weights):
  """The slope of the float64 gradient along a direction, by differences."""

  def gradients(step):
    moved = {
      k: np.float64(v) + step * np.float64(moves[k]) for k, v in given.items()
    }
    return references.LOSSES[name](
      **moved, group_ids=ids, weights=weights
    ).gradients

  ends = [(gradients(h), gradients(-h)) for h in (1e-4, 2e-4)]
  near, far = ({k: a[k] - b[k] for k in a} for a, b in ends)
  return {k: (8 * near[k] - far[k]) / 12e-4 for k in near}


def check(actual, expected):
  assert actual.keys() == expected.keys()
  for argument, found in actual.items():
    wanted = expected[argument]
    atol = 1e-4 * (1.0 + np.abs(wanted).max())
    np.testing.assert_allclose(
      found, wanted, rtol=0, atol=atol, err_msg=argument
    )


@pytest.mark.parametrize(
  "ids, block_size",
  [
    pytest.param(None, None, marks=pytest.mark.exhaustive),
    pytest.param(None, 5, marks=pytest.mark.exhaustive),
    pytest.param(IDS, None, marks=pytest.mark.exhaustive),
    (IDS, 5),
  ],
  ids=["whole", "blocks", "grouped", "grouped-blocks"],
)
@pytest.mark.parametrize("name", NAMES)
def test_forward_over_reverse(name, ids, block_size):
  given, moves, weights = problem(name)

  def value(given):
    loss = getattr(losses, name)(**given, group_ids=ids, block_size=block_size)
    return jnp.sum(weights * loss)

  @jax.jit
  def slope(given, moves):
    return jax.jvp(jax.grad(value), (given,), (moves,))[1]

  check(slope(given, moves), reference(name, given, moves, ids, weights))


@pytest.mark.parametrize(
  "name, block_size",
  [
    ("clip", 5),
    ("nt_xent", None),
    pytest.param("hard_negative_clip", 5, marks=pytest.mark.exhaustive),
  ],
)
def test_reverse_over_reverse(name, block_size):
  given, moves, weights = problem(name)

  def along(given):
    def value(given):
      loss = getattr(losses, name)(
        **given, group_ids=IDS, block_size=block_size
      )
      return jnp.sum(weights * loss)

    grads = jax.grad(value)(given)
    return sum(jnp.vdot(grads[k], moves[k]) for k in moves)

  actual = jax.jit(jax.grad(along))(given)
  check(actual, reference(name, given, moves, IDS, weights))


@pytest.mark.parametrize("sizes", [{"data": 4}, {"row": 2, "col": 2}], ids=str)
@pytest.mark.parametrize("name", ["clip", "hard_negative_nt_xent"])
def test_on_devices(name, sizes):
  given, moves, weights = problem(name)
  loss = losses.on_mesh(getattr(losses, name), make_mesh(**sizes))
  arrays = references.ARRAYS[name]

  def value(given):
    scalars = {k: v for k, v in given.items() if k not in arrays}
    values = loss(
      *(given[k] for k in arrays), **scalars, group_ids=jnp.asarray(IDS)
    )
    return jnp.sum(weights * values)

  @jax.jit
  def slope(given, moves):
    return jax.jvp(jax.grad(value), (given,), (moves,))[1]

  check(slope(given, moves), reference(name, given, moves, IDS, weights))
