"""A sweep of two methods at two batch sizes whose runs are arithmetic."""

from contrastive_jax.programs.sweep import Arm, Sweep, jobs
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.objectives.contrasts import LOSSES


def is_ours(config):
  """Whether a configuration is of the method `ours`."""
  return LOSSES.name_of(config.loss) == "decoupled"


def train(config):
  """Ours is better by 0.1, in seed 2 by 0.4; its best rate is the larger one."""
  ours = is_ours(config)
  rate = config.optimizer.learning_rate
  right = 2e-3 if ours else 1e-3
  gain = (0.4 if config.seed == 2 else 0.1) if ours else 0.0
  return {
    "score/validation": 0.5 - 100 * abs(rate - right),
    "score/test": config.seed / 10 + config.batch_size / 1000 + gain,
  }


def make(candidates=(1e-3, 2e-3), **changes):
  """The sweep; `candidates` are rates, none for no choice."""
  arms = [
    Arm(
      method,
      batch,
      {"batch_size": batch, "loss": name},
      tuned="optimizer.learning_rate" if candidates else "",
      candidates=candidates,
    )
    for batch in (16, 64)
    for method, name in (("base", "clip"), ("ours", "decoupled"))
  ]
  fields = {
    "name": "small",
    "title": "Small",
    "text": "A test.",
    "config": config_lib.default_config(),
    "arms": arms,
    "baseline": "base",
    "seeds": (0, 1, 2),
    "metrics": {"score/test": "score"},
    "tune_metric": "score/validation",
    "train_fn": train,
    "source": "my sweeps/small.py",
    **changes,
  }
  return Sweep(**fields)


def run(out, seen=None, minutes=0.0, lines=None, **changes):
  """Makes the runs of a sweep; configurations go to `seen`, reports to `lines`."""

  def recorded(config):
    if seen is not None:
      seen.append(config)
    return train(config)

  return jobs.run(
    make(**{"train_fn": recorded, **changes}),
    out,
    minutes=minutes,
    report=(lines if lines is not None else []).append,
  )
