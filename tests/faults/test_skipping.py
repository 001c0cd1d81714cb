"""Steps that are not finite and are skipped, where the user says so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contrastive_jax.training.trainer import loop, nonfinite
from tests.training import tiny
from tests.training.toy import Toy, fit, rows_of


class Poisoned(Toy):
  """A toy whose `kind` is infinite where example 5 is in the batch."""

  def __init__(self, kind):
    super().__init__()
    self._kind = kind

  def loss(self, params, state, batch, key):
    value, (new, metrics) = super().loss(params, state, batch, key)
    inf = jnp.where(jnp.any(batch["index"] == 5), jnp.inf, 0.0)
    if self._kind == "loss":
      value += inf
    elif self._kind == "state":
      new = {**new, "mean": new["mean"] + inf}
    else:
      value += jnp.where(jnp.isinf(inf), inf * params["a"][0], 0.0)
    return value, (new, metrics)


@pytest.mark.parametrize("kind", ["loss", "state", "gradient"])
def test_a_skipped_step_changes_nothing_but_the_count(tmp_path, capsys, kind):
  states = []
  evaluator = loop.Evaluator(
    1, lambda s: states.append(jax.device_get(s)) or {"x/y": 0.0}
  )
  # 24 images in batches of 8: example 5 is in one step of three.
  fit(
    tmp_path,
    objective=Poisoned(kind),
    evaluators=[evaluator],
    steps=10,
    skip_nonfinite=1,
    ema_decay=0.5,
  )
  rows = rows_of(tmp_path)
  skipped = [r["step"] for r in rows if "train/skipped" in r]
  assert len(skipped) == 3 and len(states) == 9
  assert all(later - step >= 1 for step, later in zip(skipped, skipped[1:]))
  for before, after in zip(states, states[1:]):
    step = int(after.step)
    assert step == int(before.step) + 1
    if step in skipped:
      # But for the schedule's, which would end after the run.
      counts = jax.tree.map(
        lambda a, b: b if np.issubdtype(a.dtype, np.integer) else a,
        after.opt_state,
        before.opt_state,
      )
      tiny.assert_same(
        after.replace(step=before.step, opt_state=counts), before
      )
    else:
      assert np.any(after.params["w"] != before.params["w"])
  said = capsys.readouterr().out
  for step in skipped:
    assert f"Step {step}: " in said
  assert said.count("is not finite; the step is skipped (1 of 1") == 3


def test_the_schedule_ends_with_the_run(tmp_path):
  state, _ = fit(
    tmp_path,
    objective=Poisoned("loss"),
    steps=6,
    skip_nonfinite=1,
  )
  counts = [
    int(leaf)
    for leaf in jax.tree.leaves(state.opt_state)
    if np.issubdtype(leaf.dtype, np.integer)
  ]
  assert counts and set(counts) == {6}


def test_an_embedding_that_is_not_finite_skips_as_well(tmp_path):
  class Embedding(Poisoned):
    def loss(self, params, state, batch, key):
      value, (new, metrics) = Toy.loss(self, params, state, batch, key)
      inf = jnp.where(jnp.any(batch["index"] == 5), jnp.inf, 0.0)
      spoiled = metrics["image_embedding"] + inf
      return value, (new, {**metrics, "image_embedding": spoiled})

  states = []
  evaluator = loop.Evaluator(
    1, lambda s: states.append(jax.device_get(s.params)) or {"x/y": 0.0}
  )
  fit(
    tmp_path,
    objective=Embedding("embedding"),
    evaluators=[evaluator],
    steps=8,
    skip_nonfinite=1,
  )
  skipped = [r["step"] for r in rows_of(tmp_path) if "train/skipped" in r]
  assert len(skipped) >= 2
  for step in (s for s in skipped if 1 < s < 8):
    np.testing.assert_array_equal(states[step - 1]["w"], states[step - 2]["w"])


def test_what_is_not_finite_is_not_in_the_log(tmp_path):
  fit(
    tmp_path,
    objective=Poisoned("loss"),
    steps=6,
    skip_nonfinite=1,
  )
  text = (tmp_path / "metrics.jsonl").read_text()
  assert "Infinity" not in text and "NaN" not in text
  assert '"train/skipped": 1.0' in text


def test_more_in_a_row_than_allowed_stop_the_run(tmp_path):
  toy = Toy(bad="loss", bad_step=3)
  with pytest.raises(nonfinite.NonFiniteError) as caught:
    fit(tmp_path, objective=toy, steps=20, skip_nonfinite=4)
  message = str(caught.value)
  assert message.startswith("Step 8: loss is not finite, after 4 skipped in a")
  assert "skip_nonfinite" not in message  # It is what the user has already.


def test_the_error_offers_to_skip(tmp_path):
  with pytest.raises(nonfinite.NonFiniteError, match=r"skip_nonfinite=N skips"):
    fit(tmp_path, objective=Toy(bad="loss", bad_step=3), steps=20)
