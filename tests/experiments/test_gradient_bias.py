"""The study of gradient bias: its exact numbers, its gradients, a short run."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from contrastive_jax import losses, ops
from contrastive_jax.training import config as config_lib
from experiments.synthetic import (
  gradient_bias,
  gradient_estimates,
  gradient_methods,
  gradient_report,
  gradient_stages,
  sphere,
)

# Negatives on a sphere.


def by_quadrature(dim, power, temperature):
  """E[exp(power t / tau)] over the density of a coordinate."""

  def density(t):
    return (1.0 - t * t) ** ((dim - 3) / 2.0)

  def integral(f):
    return integrate.quad(f, -1.0, 1.0, epsabs=0.0, epsrel=1e-11, limit=500)[0]

  return integral(
    lambda t: density(t) * math.exp(power * t / temperature)
  ) / integral(density)


@pytest.mark.parametrize("dim, temperature", sphere.CASES)
def test_the_closed_form_on_the_sphere(dim, temperature):
  first, second = (by_quadrature(dim, p, temperature) for p in (1, 2))
  log_z = sphere.log_partition(dim, temperature)
  np.testing.assert_allclose(log_z, math.log(first), rtol=1e-9)
  variation = sphere.squared_variation(dim, temperature)
  np.testing.assert_allclose(variation, second / first**2 - 1, rtol=1e-7)


def test_the_closed_form_at_a_large_order():
  # The cosine is nearly t ~ N(0, 1 / d).
  log_z = sphere.log_partition(100_000, 0.1)
  np.testing.assert_allclose(log_z, 50.0 / 100_000, rtol=1e-3)


# Known numbers: d, tau, CV^2, and for B = 8, 32, 128 the deviations of log Z-hat
# and of 1 / Z-hat by simulation, with the digits that it had.
PRINTED = [
  (128, 0.07, 3.62, (-0.163, -0.0488, -0.0142), (0.366, 0.0995, 0.0278)),
  (128, 0.1, 1.15, (-0.0640, -0.0174, -0.0045), (0.136, 0.0352, 0.0090)),
  (32, 0.1, 10.5, (-0.365, -0.122, -0.0351), (1.00, 0.261, 0.0721)),
]


@pytest.mark.parametrize("dim, temperature, variation, logs, weights", PRINTED)
def test_the_exact_bias_is_the_simulated_one(
  dim, temperature, variation, logs, weights
):
  actual = sphere.squared_variation(dim, temperature)
  np.testing.assert_allclose(actual, variation, rtol=3e-3)
  for count, log_bias, weight_bias in zip(sphere.NEGATIVES, logs, weights):
    found = sphere.exact(dim, temperature, count)
    np.testing.assert_allclose(found.log_bias, log_bias, rtol=0.06)
    np.testing.assert_allclose(found.weight_bias, weight_bias, rtol=0.06)


def test_the_exact_bias_tends_to_the_first_order():
  found = sphere.exact(32, 0.5, 2000)
  variation = sphere.squared_variation(32, 0.5)
  np.testing.assert_allclose(found.log_bias, -variation / 4000, rtol=1e-2)
  np.testing.assert_allclose(found.weight_bias, variation / 2000, rtol=1e-2)


@pytest.mark.parametrize("dim, temperature", sphere.CASES)
def test_monte_carlo_finds_the_exact_bias(dim, temperature):
  key = jax.random.key(dim)
  found = sphere.monte_carlo(key, dim, temperature, 8, draws=4096)
  known = sphere.exact(dim, temperature, 8)
  assert abs(found.log_bias - known.log_bias) < 4 * found.log_error
  assert abs(found.weight_bias - known.weight_bias) < 4 * found.weight_error
  # Small enough to tell it from the first order.
  first = -sphere.squared_variation(dim, temperature) / 16
  assert abs(found.log_bias - first) > 4 * found.log_error


def test_mistakes_on_the_sphere():
  with pytest.raises(ValueError, match="^dim .* 1"):
    sphere.log_partition(1, 0.1)
  with pytest.raises(ValueError, match="^temperature .* 0"):
    sphere.log_partition(4, 0.0)
  with pytest.raises(ValueError, match="^draws .* 1"):
    sphere.monte_carlo(jax.random.key(0), 4, 0.1, 2, draws=1)


# Gradients.


N, DIM, TAU = 24, 5, 0.3


def make_data():
  shared, *noise = jax.random.split(jax.random.key(7), 3)
  x = jax.random.normal(shared, (N, DIM))
  image, text = (x + jax.random.normal(k, (N, DIM)) for k in noise)
  return gradient_estimates.Data(image, text, jnp.float32(TAU))


DATA = make_data()


def margins(maps):
  """[2, N, N] D of both directions, from the formula."""
  x = DATA.image @ maps["image"]
  y = DATA.text @ maps["text"]
  x /= jnp.linalg.norm(x, axis=1, keepdims=True)
  y /= jnp.linalg.norm(y, axis=1, keepdims=True)
  s = x @ y.T / TAU
  return jnp.stack([t - jnp.diag(t)[:, None] for t in (s, s.T)])


def test_the_references_are_the_gradients_of_their_formulas():
  maps = {"image": jnp.eye(DIM), "text": jnp.eye(DIM)}
  others = ~np.eye(N, dtype=bool)

  def global_loss(maps):
    z = jnp.sum(jnp.exp(margins(maps)), axis=2, where=others) / (N - 1)
    return jnp.mean(jnp.log(z))

  def info_nce(maps):
    return jnp.mean(jnp.log(jnp.sum(jnp.exp(margins(maps)), axis=2)))

  found = gradient_estimates.references(DATA)
  for name, loss in (("global", global_loss), ("info_nce", info_nce)):
    expected = jax.grad(loss)(maps)
    for side in maps:
      np.testing.assert_allclose(
        found[name][side], expected[side], rtol=1e-4, atol=1e-6
      )
  w = np.exp(margins(maps))[:, others].reshape(2, N, N - 1)
  np.testing.assert_allclose(
    gradient_estimates.squared_variations(DATA),
    w.var(axis=2) / w.mean(axis=2) ** 2,
    rtol=1e-4,
  )


def whole(name):
  """The gradient of a method whose batch is all of the data."""
  method = gradient_methods.METHODS[name]
  log_z = gradient_estimates.log_partitions(DATA)
  return gradient_estimates.gradient(
    method.kind if method.kind != "exact" else "table",
    gradient_methods.numbers(method),
    None,
    DATA,
    log_z,
    jnp.arange(N),
    jax.random.key(0),
  )


@pytest.mark.parametrize(
  "name",
  ["InfoNCE", "DCL", "moving average .5 (SogCLR)", "exact 1/Z (control)"],
)
def test_with_all_of_the_data_there_is_no_bias(name):
  aim = gradient_methods.METHODS[name].objective
  expected = gradient_estimates.references(DATA)[aim]
  for side, value in whole(name).items():
    np.testing.assert_allclose(value, expected[side], rtol=1e-4, atol=1e-6)


def test_without_a_memory_it_is_the_decoupled_loss():
  index = jnp.array([3, 17, 8, 2])

  def decoupled(maps):
    a = ops.l2_normalize(DATA.image[index] @ maps["image"])
    b = ops.l2_normalize(DATA.text[index] @ maps["text"])
    values = [losses.decoupled(*p, temperature=TAU) for p in ((a, b), (b, a))]
    return 0.5 * jnp.mean(sum(values))

  expected = jax.grad(decoupled)({"image": jnp.eye(DIM), "text": jnp.eye(DIM)})
  found = gradient_estimates.gradient(
    "table",
    gradient_methods.numbers(gradient_methods.METHODS["DCL"]),
    None,
    DATA,
    jnp.full((2, N), 3.0),
    index,
    jax.random.key(0),
  )
  for side, value in found.items():
    np.testing.assert_allclose(value, expected[side], rtol=1e-4, atol=1e-6)


def statistics(method, draws=2**16):
  memory = gradient_estimates.Memory(chains=8, burn_in=16, snapshots=32)
  key = jax.random.key(3)
  state = gradient_estimates.steady_state(
    method, DATA, key, batch=4, memory=memory
  )
  reference = gradient_estimates.references(DATA)[method.objective]
  found = gradient_estimates.statistics(
    method, DATA, state, reference, key, batch=4, draws=draws
  )
  return state, found


def test_exact_weights_have_no_bias_and_the_batch_has():
  _, exact = statistics(gradient_methods.METHODS["exact 1/Z (control)"])
  assert abs(exact.squared_bias) < 4 * exact.standard_error
  _, batch = statistics(gradient_methods.METHODS["DCL"])
  state, average = statistics(gradient_methods.METHODS["moving average .1"])
  assert batch.squared_bias > 5 * batch.standard_error
  most = average.squared_bias + 4 * average.standard_error
  assert most < 0.5 * batch.squared_bias
  # The table is a mean of unbiased estimates of Z.
  assert state.shape == (256, 2, N)
  z = jnp.exp(gradient_estimates.log_partitions(DATA))
  np.testing.assert_allclose(jnp.exp(state).mean(0), z, rtol=0.3)
  np.testing.assert_allclose(jnp.mean(jnp.exp(state).mean(0) / z), 1, rtol=0.03)


@pytest.mark.exhaustive
def test_prototypes_know_the_log_partition(monkeypatch):
  monkeypatch.setattr(gradient_estimates, "PROTOTYPES", 6)
  state, found = statistics(
    gradient_methods.METHODS["amortised (NeuCLIP)"], draws=16
  )
  params, _ = state
  assert params["image"]["prototypes"].shape == (256, 6, DIM)
  assert np.isfinite(found.variance)


def test_what_is_known_of_rates():
  mean_rate = gradient_methods.mean_rate
  known = jnp.zeros((1, 2, N))
  assert mean_rate(gradient_methods.METHODS["DCL"], known) is None
  assert mean_rate(gradient_methods.METHODS["moving average .1"], known) == 0.1
  rate = mean_rate(gradient_methods.RATES["conjugate, log alpha 2"], known)
  np.testing.assert_allclose(rate, 1 / (1 + math.exp(-2.0)), rtol=1e-5)


@pytest.mark.parametrize("count", [1, 5, 70, 80])
def test_a_batch_has_no_example_twice(count):
  keys = jax.random.split(jax.random.key(1), 200)
  rows = np.asarray(
    jax.vmap(lambda k: gradient_estimates.distinct(k, 80, count))(keys)
  )
  assert rows.shape == (200, count)
  assert rows.min() >= 0 and rows.max() < 80
  assert all(len(set(row)) == count for row in rows.tolist())
  often = np.bincount(rows.ravel(), minlength=80)
  spread = math.sqrt(200 * count / 80 * (1 - count / 80))
  assert np.abs(often - 200 * count / 80).max() <= 5 * spread


def test_a_batch_must_fit():
  with pytest.raises(ValueError, match=r"^batch .*\[2, 24\].* 25"):
    gradient_estimates.steady_state(
      gradient_methods.METHODS["DCL"],
      DATA,
      jax.random.key(0),
      batch=25,
      memory=gradient_estimates.Memory(),
    )


# The program.


def test_the_bias_and_its_interval():
  middle, low, high = gradient_report.bias([0.24, 0.25, 0.26])
  assert low < middle < high
  assert middle == pytest.approx(0.5)
  assert gradient_report.bias([-0.1, -0.1]) == (0.0, 0.0, 0.0)


def test_steps_that_cannot_be_shared_out():
  with pytest.raises(config_lib.ConfigError, match=r"\b15\b"):
    gradient_stages.make_config(15)


SMALL = {
  "batch_size": 16,
  "model.overrides": {
    "image": {"widths": (4, 8, 8)},
    "text": {"width": 8, "num_heads": 1},
    "embed_dim": 8,
  },
}


@pytest.mark.exhaustive
@pytest.mark.long
def test_the_record_of_a_short_run(monkeypatch, tmp_path):
  # Compiling every method would take a minute.
  chosen = ("InfoNCE", "moving average .1")
  some = {name: gradient_methods.METHODS[name] for name in chosen}
  monkeypatch.setattr(gradient_methods, "METHODS", some)
  some = {"moving average .1": gradient_methods.RATES["moving average .1"]}
  monkeypatch.setattr(gradient_methods, "RATES", some)
  monkeypatch.setattr(gradient_stages, "STAGES", {"early": 0.1, "end": 1.0})
  settings = gradient_bias.BiasSizes(
    steps=10,
    examples=48,
    batches=(8,),
    seeds=2,
    draws=8,
    memory=gradient_estimates.Memory(chains=1, burn_in=1, snapshots=2),
  )

  def study():
    return gradient_bias.study(
      settings,
      tmp_path,
      similarities=256,
      changes=SMALL,
      report=lambda line: None,
    )

  record = study()
  assert [s["stage"] for s in record["stages"]] == ["early", "end"]
  assert [s["step"] for s in record["stages"]] == [1, 10]
  assert all(s["examples"] == 48 for s in record["stages"])
  assert [r["method"] for r in record["rows"]] == 2 * list(chosen)
  text = gradient_report.page(record)
  for method in chosen:
    assert text.count(f"| {method} | ") >= 3
  gradient_report.plot(record, tmp_path / "a.png")
  assert (tmp_path / "a.png").stat().st_size > 10_000

  # Finished work is not done again.
  def refuse(*args, **kwargs):
    raise AssertionError("it measures")

  monkeypatch.setattr(gradient_bias, "measure", refuse)
  monkeypatch.setattr(gradient_stages, "embed_stages", refuse)
  again = study()
  assert json.dumps(again["rows"]) == json.dumps(record["rows"])
  assert again["training_seconds"] == record["training_seconds"]
  other = dataclasses.replace(settings, draws=4)
  assert other.draws_of(8) == 4 and settings.draws_of(64) == 8
