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

from contrastive_jax.programs.sweep import Arm, Sweep, jobs
from contrastive_jax.recipes import _fusion
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.runs import initial_choices, runner
from experiments import fusion_study
from experiments.fusion_study import PRETRAINING
from experiments.sweeps import latent_structure

# Steps of the stages: a run takes some three minutes of two CPU cores.
STEPS = {PRETRAINING: 400, "vqa": 300, "entailment": 200, "easy_vqa": 80}
# Statements about two images are learned more slowly than questions about one.
NLVR2_STEPS = {PRETRAINING: 400, "nlvr2": 800}
# Methods of one pre-training follow each other, and share it.
_METHODS = {
  "ALBEF": {},
  "texts alone": {"others.objective.inputs": "text"},
  "images alone": {"others.objective.inputs": "image"},
  # At the weights that latent_structure:two_terms chose on validation, for two towers.
  **{
    f"+ {kind}": {"structure": kind, f"structure.{kind}.weight": weight}
    for kind, weight in latent_structure.WEIGHTS.items()
  },
  "augmented": {
    "loss": "augmented",
    "loss.e_step": "conjugate",
    # The table as SCENT publishes it, but for its eps.
    "loss.margins": True,
    "loss.level_rate": 0.0,
    "loss.min_rate": 0.0,
    "loss.temperature_mode": "fixed",
  },
  "- contrast": {"objective.contrast": 0.0},
  "- matching": {"objective.matching": 0.0},
  "- masked language": {"objective.language": 0.0},
  "- distillation": {"objective.alpha": 0.0},
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
      " those that latent_structure_two_terms chose for two towers; nothing is tuned here.\n\n"
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
    seeds=(0, 1, 2),
    metrics={
      "vqa/vqa/accuracy": "questions",
      "vqa/vqa_test_unseen_pairs/accuracy": "questions, unseen pairs",
      "entailment/entailment/accuracy": "entailment",
      "easy_vqa/vqa/accuracy": "easy-VQA",
      "pretraining/retrieval/image_to_text/recall_at_1": "R@1 by contrast",
      "pretraining/retrieval_reranked/image_to_text/recall_at_1": "R@1 re-ranked",
    },
    train_fn=Stages(),
    others=tasks(STEPS),
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
    train_fn=Stages(),
    others=tasks(NLVR2_STEPS),
  )


VARIANTS = {"": _tasks_of_one_image, "nlvr2": _two_images}


def get_sweep(variant: str = "") -> Sweep:
  """The methods, on the tasks of a variant."""
  return VARIANTS[variant]()


def _config() -> config_lib.ConfigDraft:
  """The pre-training."""
  values = _fusion.pretraining()
  # As the paper's begins with DeiT's and BERT's: so short a pre-training would see
  # nothing in images otherwise.
  values.initial = "run"
  values.initial.workdir, values.initial.part = "runs/fusion/vqa", "encoders"
  values.steps = STEPS[PRETRAINING]
  values.evaluation.retrieval.every = 0
  values.evaluation.plots = False
  return values


def tasks(steps: Mapping[str, int]) -> dict[str, config_lib.ConfigDraft]:
  """The recipes by the names of the tasks, each with the steps of its stage."""
  recipes = {}
  for name, count in steps.items():
    if name == PRETRAINING:
      continue
    recipe = recipes[name] = _fusion.task(name)
    recipe.steps = count
    recipe.evaluation.task.every = 0
    recipe.evaluation.plots = False
  return recipes


class Stages:
  """Pre-trains and fine-tunes on every task; runs of one pre-training share it.

  The latest pre-training is kept, in a folder that goes with this object.
  """

  def __init__(self):
    """Has no pre-training yet."""
    self._folder: tempfile.TemporaryDirectory | None = None
    self._made: config_lib.Config | None = None

  def __call__(
    self, config: config_lib.Config, others: Mapping[str, config_lib.Config]
  ) -> Mapping[str, float]:
    """The scores of a pre-training and of its tasks, by `{stage}/{score}`."""
    if self._folder is None or config != self._made:
      if self._folder is not None:
        self._folder.cleanup()
      self._folder, self._made = tempfile.TemporaryDirectory(), config
    shared = pathlib.Path(self._folder.name)
    beginning = initial_choices.Run(workdir=str(shared / PRETRAINING))
    configs = {
      PRETRAINING: config,
      **{
        name: dataclasses.replace(task, initial=beginning)
        for name, task in others.items()
      },
    }
    scores = fusion_study.run(
      shared, configs, train=_train, report=lambda line: None
    )
    if all(task.objective.inputs == "both" for task in others.values()):
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
