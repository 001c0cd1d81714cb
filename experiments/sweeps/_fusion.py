"""What the sweeps over fusion models share: their stages, and their scores."""

import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import ml_collections

from contrastive_jax.recipes import _fusion
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.runs import runner
from experiments import fusion

# Of each stage, so that a run takes some three minutes of two CPU cores.
STEPS = {
  fusion.PRETRAINING: 400,
  "vqa": 300,
  "entailment": 200,
  "easy_vqa": 80,
}
# Statements about two images are learned more slowly than what is asked of one.
NLVR2_STEPS = {fusion.PRETRAINING: 400, "nlvr2": 800}
# Whose encoders each pre-training begins with.
ENCODERS = "runs/fusion/vqa"
METRICS = {
  "vqa/vqa/accuracy": "questions",
  "vqa/vqa_test_unseen_pairs/accuracy": "questions, unseen pairs",
  "entailment/entailment/accuracy": "entailment",
  "easy_vqa/vqa/accuracy": "easy-VQA",
  "pretraining/retrieval/image_to_text/recall_at_1": "R@1 by contrast",
  "pretraining/retrieval_reranked/image_to_text/recall_at_1": "R@1 re-ranked",
}


def config() -> ml_collections.ConfigDict:
  """The pre-training; a run's seed, model and inputs are those of its tasks too."""
  values = _fusion.pretraining()
  # As the paper's begins with DeiT's and BERT's: so short a pre-training would see
  # nothing in images otherwise.
  values.initial.workdir, values.initial.part = ENCODERS, "encoders"
  values.steps = STEPS[fusion.PRETRAINING]
  values.evaluation.retrieval_every = 0
  values.evaluation.plots = False
  return values


def tasks(
  model: ml_collections.ConfigDict,
  inputs: str = "both",
  steps: Mapping[str, int] = STEPS,
) -> dict[str, ml_collections.ConfigDict]:
  """The recipes of the tasks, at the length of a sweep.

  Args:
    model: of all stages.
    inputs: what they see, `config.fusion.inputs`.
    steps: of each stage.

  Returns:
    Recipes by name.
  """
  recipes = {}
  for name, count in steps.items():
    if name == fusion.PRETRAINING:
      continue
    recipe = _fusion.task(name)
    recipe.steps = count
    recipe.fusion.inputs = inputs
    recipe.evaluation.retrieval_every = 0
    recipe.evaluation.plots = False
    recipe.model = model
    recipes[name] = recipe
  return recipes


class Stages:
  """Pre-trains and fine-tunes on every task; runs of one pre-training share it.

  The latest pre-training is kept, in a folder that goes with this object. What
  `fusion.inputs` says is for the tasks: the pre-training needs both.
  """

  def __init__(self, steps: Mapping[str, int] = STEPS):
    """Has no pre-training yet; `steps` names the tasks."""
    self._steps = steps
    self._folder: tempfile.TemporaryDirectory | None = None
    self._made: dict[str, Any] = {}

  def __call__(self, config: config_lib.Config) -> Mapping[str, float]:
    """The scores of a pre-training's configuration, by `{stage}/{score}`."""
    values: dict[str, Any] = config.to_dict()
    inputs = values["fusion"].pop("inputs")
    if self._folder is None or values != self._made:
      if self._folder is not None:
        self._folder.cleanup()
      self._folder, self._made = tempfile.TemporaryDirectory(), values
    shared = pathlib.Path(self._folder.name)
    recipes = {
      fusion.PRETRAINING: ml_collections.ConfigDict(values),
      **tasks(ml_collections.ConfigDict(values["model"]), inputs, self._steps),
    }
    configs = fusion.stages(shared, recipes, seed=config.seed, begins={})

    def train(config, workdir):
      # Those that are not the shared one's begin anew each time.
      if workdir.name == fusion.PRETRAINING:
        return runner.train(config, workdir, report=_say_nothing)
      with tempfile.TemporaryDirectory() as own:
        return runner.train(config, own, report=_say_nothing)

    scores = fusion.run(shared, configs, train=train, report=_say_nothing)
    if inputs == "both":
      return scores
    # Retrieval is the pre-training's, which saw both.
    return {
      name: value
      for name, value in scores.items()
      if not name.startswith(f"{fusion.PRETRAINING}/")
    }


def _say_nothing(line: str) -> None:
  del line
