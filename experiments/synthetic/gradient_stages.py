"""Embeddings at three stages of a training run, by the project's own trainer.

A CLIP model with a narrow image tower is trained on the emoji data; at an early
and a middle checkpoint and at the end, one drawing of each thing and its
English name are embedded. No two rows of a stage show the same thing, so none
is a false negative of another.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from contrastive_jax.data import sources
from contrastive_jax.recipes import clip_emoji
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.runs import runner
from experiments.synthetic import gradient_estimates

# Shares of the training steps; checkpoints are a tenth of the run apart.
STAGES: Mapping[str, float] = {"early": 0.1, "middle": 0.5, "end": 1.0}
_CHECKPOINTS = 10


@dataclasses.dataclass(frozen=True)
class Stage:
  """Frozen embeddings, not normalised, and the model's temperature.

  Attributes:
    name: a name in `STAGES`.
    step: training steps made.
    image: [n, d] float32.
    text: [n, d] float32; row i describes image i.
    temperature: tau.
  """

  name: str
  step: int
  image: np.ndarray
  text: np.ndarray
  temperature: float

  @property
  def data(self) -> gradient_estimates.Data:
    """Its arrays."""
    return gradient_estimates.Data(
      jnp.asarray(self.image),
      jnp.asarray(self.text),
      jnp.float32(self.temperature),
    )


def make_config(
  steps: int, *, changes: Mapping[str, Any] | None = None
) -> config_lib.Config:
  """The run: the emoji recipe with one caption of one drawing an example.

  Args:
    steps: of training, a multiple of 10.
    changes: dotted names of fields and their values, on top of it.

  Raises:
    config_lib.ConfigError: if `steps` is no multiple of 10.
  """
  if steps < 1 or steps % _CHECKPOINTS:
    raise config_lib.ConfigError(
      f"steps must be a multiple of {_CHECKPOINTS}, above 0; got {steps}."
    )
  config = clip_emoji.get_config()
  config.override(
    {
      "steps": steps,
      "checkpoint_every": steps // _CHECKPOINTS,
      "keep_checkpoints": _CHECKPOINTS,
      "data.languages": ("en",),
      "objective.captions_per_example": 1,
      "objective.images_per_concept": 1,
      "objective.image_image": 0.0,
      "loss.label_smoothing": 0.0,
      "model.overrides": {"image": {"widths": (16, 32, 64)}, "embed_dim": 128},
      "evaluation": ("retrieval",),
      "evaluation.retrieval.every": steps // 2,
      "evaluation.retrieval.final": False,
      "evaluation.plots": False,
      **(changes or {}),
    }
  )
  return config_lib.parse(config)


def embed_stages(
  config: config_lib.Config,
  workdir: pathlib.Path,
  *,
  examples: int,
  report: Callable[[str], None] = print,
) -> list[Stage]:
  """Embeds the training things at three checkpoints of a run, in their order.

  Args:
    config: of `make_config`.
    workdir: of the finished run.
    examples: n, the largest number of things that are embedded.
    report: receives lines for the user.

  Raises:
    WorkdirError: if the workdir holds no such run.
  """
  found = []
  for name, share in STAGES.items():
    step = round(share * config.steps)
    run, state = runner.restore(workdir, step=step, report=report)
    source, names = _one_of_each(run.data.splits[sources.TRAIN], examples)
    scale = np.exp(float(state.eval_params["log_logit_scale"]))
    found.append(
      Stage(
        name,
        step,
        run.encoder.images(state, source).images.astype(np.float32),
        run.encoder.texts(state, names).astype(np.float32),
        float(1.0 / scale),
      )
    )
  return found


def _one_of_each(
  source: sources.Source, examples: int
) -> tuple[sources.Source, list[str]]:
  """A thing's first drawing and first name, for things of different names."""
  rows: dict[str, int] = {}
  concepts = set()
  for i in range(len(source)):
    record = source.fields(i)
    names = [c.text for c in record["captions"] if c.kind == "name"]
    if not names or names[0] in rows or record["concept_id"] in concepts:
      continue
    concepts.add(record["concept_id"])
    rows[names[0]] = i
    if len(rows) == examples:
      break
  chosen = list(rows.values())
  kept = sources.ArraySource(
    np.stack([source[i]["image"] for i in chosen]),
    [source.fields(i) for i in chosen],
  )
  return kept, list(rows)
