"""Study: ALBEF, its losses, and regularisers of latent structure, on its tasks.

python -m experiments.fusion_study --tasks=vqa
python -m experiments.sweep --sweep=fusion_structure:VARIANT

* fusion_structure: 33 runs, each of which pre-trains on scenes, and fine-tunes on
  questions, entailment and easy-VQA (the package easy-vqa); those of models that see
  one side take ALBEF's pre-training. On two CPU cores about 95 minutes, two runs at
  once.
* nlvr2: what changes the pre-training, for statements about two images, which take
  longer to learn. 15 runs of about six minutes on one CPU core each.

All begin with the two encoders that the first command trains (20 minutes), as ALBEF's
begin with DeiT's and BERT's.
"""

import dataclasses
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import ml_collections

from contrastive_jax.training import config as config_lib
from contrastive_jax.training import runner
from experiments import fusion_study
from experiments.configs import _fusion
from experiments.fusion_study import PRETRAINING
from experiments.sweep import Arm, Sweep, jobs
from experiments.sweeps import latent_structure

# Steps of the stages: a run takes some three minutes of two CPU cores.
STEPS = {PRETRAINING: 400, "vqa": 300, "entailment": 200, "easy_vqa": 80}
# Statements about two images are learned more slowly than questions about one.
NLVR2_STEPS = {PRETRAINING: 400, "nlvr2": 800}
# Methods of one pre-training follow each other, and share it.
_METHODS = {
  "ALBEF": {},
  "texts alone": {"fusion.inputs": "text"},
  "images alone": {"fusion.inputs": "image"},
  # At the weights that latent_structure chose on validation, for two towers.
  **{
    f"+ {kind}": {f"structure.{kind}": weight}
    for kind, weight in latent_structure.WEIGHTS.items()
  },
  "augmented": {"loss.name": "augmented"},
  "- contrast": {"fusion.contrast": 0.0},
  "- matching": {"fusion.matching": 0.0},
  "- masked language": {"fusion.language": 0.0},
  "- distillation": {"fusion.alpha": 0.0},
}


def _tasks_of_one_image() -> Sweep:
  config = _config()
  return Sweep(
    name="fusion_structure",
    title="Latent structure in a fusion model",
    text=(
      "ALBEF, pre-trained on scenes and fine-tuned on each task, with each of the"
      " second paper's regularisers, with the first paper's augmented loss as its"
      ' contrast, and without each of its losses; of "texts alone" and "images'
      ' alone" the fine-tuned models see one side. The weights of regularisers are'
      " those that latent_structure chose for two towers; nothing is tuned here.\n\n"
      "Every pre-training begins with the same two encoders, those of a model that"
      " answers questions about scenes (`experiments.fusion_study --tasks=vqa`, seed"
      " 0); fusion layers, projections and heads are new in each. So short a"
      " pre-training from nothing would see little in images; but the encoders know"
      " the task of questions, which is scored here too."
    ),
    config=config,
    arms=[
      Arm(name, config.batch_size, fields) for name, fields in _METHODS.items()
    ],
    baseline="ALBEF",
    setting="batch size",
    seeds=(0, 1, 2),
    metrics={
      "vqa/vqa/accuracy": "questions",
      "vqa/vqa_test_unseen_pairs/accuracy": "questions, unseen pairs",
      "entailment/entailment/accuracy": "entailment",
      "easy_vqa/vqa/accuracy": "easy-VQA",
      "pretraining/retrieval/image_to_text/recall_at_1": "R@1 by contrast",
      "pretraining/retrieval_reranked/image_to_text/recall_at_1": "R@1 re-ranked",
    },
    train_fn=Stages(STEPS),
    others=tasks(config.model, STEPS),
  )


def _two_images() -> Sweep:
  whole = _tasks_of_one_image()
  methods = (
    "ALBEF",
    *(name for name in _METHODS if name[0] == "+"),
    "augmented",
  )
  return dataclasses.replace(
    whole,
    name="fusion_structure_nlvr2",
    title="Latent structure in a fusion model: two images",
    text=(
      "ALBEF, with each of the second paper's regularisers and with the first paper's"
      " augmented loss as its contrast, fine-tuned on statements about two images"
      " (800 steps). All begin with the encoders that those of fusion_structure begin"
      " with."
    ),
    arms=[arm for arm in whole.arms if arm.method in methods],
    metrics={
      "nlvr2/nlvr2/accuracy": "statements on two images",
      "nlvr2/nlvr2_test_unseen_pairs/accuracy": "statements, unseen pairs",
    },
    train_fn=Stages(NLVR2_STEPS),
    others=tasks(whole.config.model, NLVR2_STEPS),
  )


VARIANTS = {"": _tasks_of_one_image, "nlvr2": _two_images}


def get_sweep(variant: str = "") -> Sweep:
  """The methods, on the tasks of a variant."""
  return VARIANTS[variant]()


def _config() -> ml_collections.ConfigDict:
  """The pre-training; a run's seed, model and inputs are those of its tasks too."""
  values = _fusion.pretraining()
  # As the paper's begins with DeiT's and BERT's: so short a pre-training would see
  # nothing in images otherwise.
  values.initial.workdir, values.initial.part = "runs/fusion/vqa", "encoders"
  values.steps = STEPS[PRETRAINING]
  values.evaluation.retrieval_every = 0
  values.evaluation.plots = False
  return values


def tasks(
  model: ml_collections.ConfigDict,
  steps: Mapping[str, int],
  inputs: str = "both",
) -> dict[str, ml_collections.ConfigDict]:
  """The recipes of the tasks, at the length of a sweep.

  Args:
    model: of all stages.
    steps: of each stage; they name the tasks.
    inputs: what the tasks see, `config.fusion.inputs`.

  Returns:
    Recipes by name.
  """
  recipes = {}
  for name, count in steps.items():
    if name == PRETRAINING:
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

  def __init__(self, steps: Mapping[str, int]):
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
    model = ml_collections.ConfigDict(values["model"])
    recipes = {
      PRETRAINING: ml_collections.ConfigDict(values),
      **tasks(model, self._steps, inputs),
    }
    configs = fusion_study.stages(shared, recipes, seed=config.seed, begins={})
    scores = fusion_study.run(
      shared, configs, train=_train, report=lambda line: None
    )
    if inputs == "both":
      return scores
    # Retrieval is the pre-training's, which saw both.
    return {
      name: value
      for name, value in scores.items()
      if not name.startswith(f"{PRETRAINING}/")
    }


def _train(
  config: config_lib.Config, workdir: pathlib.Path
) -> Mapping[str, float]:
  """A stage; all but the pre-training are made in a folder that is not kept."""
  if workdir.name != PRETRAINING:
    return jobs.train(config)
  return runner.train(config, workdir, report=lambda line: None)
