r"""Study: the regularisers of latent structure on CLIP, which the paper's tables compare.

python -m experiments.sweep --sweep=latent_structure
python -m experiments.sweep --sweep=latent_structure:VARIANT

* latent_structure: as the paper has it, with a plain first view: deep feature
  separation, Brownian bridge and geometric consistency on the four-term loss; beside
  them the four terms alone, CLIP, CLIP in twice the steps (as many passes of the
  encoders as the four terms) and CyCLIP. Learning rates of losses and weights of
  regularisers are chosen on the validation things. 95 runs.
* augmented: the same with a first view that is changed like the second one; so far two
  seeds. 39 runs.
* two_terms: CLIP, its four-term loss, CyCLIP, separation, bridge, consistency and their
  pairs. Regularisers are added to CLIP's two terms, and the first view is changed like
  the second one, here and in all that follow. Weights are chosen for each on the
  validation things, at one learning rate; for those that have none the learning rate,
  and CLIP is there at the others' rate as well. 86 runs.
* ablation: each regulariser at the weight that was chosen there, without each of its
  terms, and what else was tried for those that did not help: a smaller weight, other
  sides and times, other views, another head. 54 runs.
* momentum: the other view of an image or a caption is what a slow copy of the model
  says of the same one. 45 runs; those of CLIP are those of two_terms.
* bridge: `momentum` has the image's other view bridged, at t = 0.25: nearer to the text
  than to the image. Here it is nearer to the image, or the text's other view is
  bridged, and smaller weights can be chosen; and the temperature is fixed instead of
  learned, and chosen. 39 runs.
* openclipart: noisier captions, given by the drawings' contributors, at the weights
  that were chosen on the emoji. Needs the Debian packages openclipart-png and
  openclipart-svg. 30 runs.

A run takes half a minute to two minutes on one CPU core. A row by hand, here the bridge:
python -m experiments.train --config=structure_emoji --config.loss=clip \
  --config.structure=bridge --config.structure.bridge.weight=0.1 \
  --config.structure.first_view=augmented --config.seed=0
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from contrastive_jax.programs.sweep import Arm, Sweep
from contrastive_jax.recipes import structure_emoji
from contrastive_jax.training import config as config_lib

BATCH = 128
# Weights that validation chose on the emoji, on two terms.
WEIGHTS = {"separation": 0.25, "bridge": 0.1, "consistency": 0.1}
_MOMENTUM_WEIGHT = 0.1
_WEIGHTS = (0.1, 0.25, 0.5, 1.0)
_WEIGHTS_ON_FOUR_TERMS = {
  "separation": (0.1, 0.3, 1.0),
  "bridge": (0.03, 0.1, 0.3),
  "consistency": (0.03, 0.1, 0.3),
}
_RATE_FIELD = "optimizer.learning_rate"
_RATE = 2e-3
_RATES = (1e-3, 2e-3, 4e-3, 8e-3)
_MOMENTUM = {"other_view": "momentum"}
# A model with two heads is scored on their concatenated features too.
_FIELDS: Mapping[str, Mapping[str, Any]] = {
  "separation": {"evaluation.classification.concatenated": True},
  "bridge": {},
  "consistency": {},
}
# CyCLIP is consistency without the terms of other views.
_CYCLIP = {
  "structure.consistency.augmented": 0.0,
  "structure.consistency.paired": 0.0,
}
_CHANGES = {
  "separation - orthogonality": {"structure.separation.orthogonality": 0.0},
  "separation - independent contrast": {
    "structure.separation.independent_contrast": 0.0
  },
  "separation - uniformity": {"structure.separation.uniformity": 0.0},
  "separation, MLP head": {"structure.separation.independent_head": "mlp"},
  "bridge, both sides": {"structure.bridge.side": "both"},
  "bridge, t drawn": {"structure.bridge.time": (0.0, 1.0)},
  "bridge, weight .02": {"structure.bridge.weight": 0.02},
  "bridge, momentum": _MOMENTUM,
  "consistency - in-modal": {"structure.consistency.intra": 0.0},
  "consistency - cross-modal": {"structure.consistency.inter": 0.0},
  "consistency - augmented": {"structure.consistency.augmented": 0.0},
  "consistency - paired": {"structure.consistency.paired": 0.0},
  "consistency, weight .02": {"structure.consistency.weight": 0.02},
  "consistency, momentum": _MOMENTUM,
}
_BRIDGES = {
  "image's view, t = .75": {"structure.bridge.time": (0.75, 0.75)},
  "text's view, t = .25": {"structure.bridge.side": "text"},
}
# The rates that validation chose for each loss with each first view; a regulariser has
# that of the loss that it is added to.
_CHOSEN = {
  "plain": {"clip": 2e-3, "clip_four_term": 8e-3},
  "augmented": {"clip": 2e-3, "clip_four_term": 4e-3},
}
_METRICS = {
  "retrieval/image_to_text/recall_at_10": "unseen things, R@10",
  "retrieval_unseen_style/image_to_text/recall_at_10": "unseen style, R@10",
  "zero_shot/accuracy_top1": "unseen style, zero-shot",
  "few_shot/accuracy_4_shot": "4-shot, subcategories",
  "linear_probe/accuracy": "linear probe, subcategories",
  "linear_probe_concatenated/accuracy": "linear probe, both heads",
}
# Open Clip Art has no unseen style; its labels are the folders.
_OPENCLIPART_METRICS = {
  "retrieval/image_to_text/recall_at_10": "unseen things, R@10",
  "zero_shot/accuracy_top1": "folders, zero-shot",
  "few_shot/accuracy_4_shot": "4-shot, folders",
  "linear_probe/accuracy": "linear probe, folders",
  "linear_probe_concatenated/accuracy": "linear probe, both heads",
}


def config() -> config_lib.ConfigDraft:
  """CLIP on emoji in English, one caption an image, both views changed."""
  values = structure_emoji.get_config()
  values.loss, values.structure.first_view = "clip", "augmented"
  # Logs, checkpoints and plots cost time and change no score.
  values.log_every = values.checkpoint_every = 100_000
  values.evaluation.plots = False
  return values


def _sweep(
  name: str, title: str, text: str, arms: Sequence[Arm], **changes: Any
) -> Sweep:
  tuned = any(arm.tuned for arm in arms)
  validation = "retrieval_validation/image_to_text/recall_at_10"
  found = Sweep(
    name=name,
    title=title,
    text=text,
    config=config(),
    arms=arms,
    baseline="CLIP",
    seeds=(0, 1, 2, 3, 4),
    metrics=_METRICS,
    tune_metric=validation if tuned else "",
  )
  return dataclasses.replace(found, **changes)


def _arm(method: str, fields: Mapping[str, Any], **tuning: Any) -> Arm:
  return Arm(method, BATCH, fields, **tuning)


def term(kind: str, weight: float) -> dict[str, Any]:
  """The fields of a regulariser, whatever else is scored with it."""
  return {
    "structure": kind,
    f"structure.{kind}.weight": weight,
    **_FIELDS.get(kind, {}),
  }


def _four_terms(first_view: str) -> Sweep:
  by_rate = {"tuned": _RATE_FIELD, "candidates": _RATES}
  # One more, as the best of the others is the last.
  rates = (*_RATES, 1.6e-2)
  four = "clip_four_term"
  arms = [
    _arm("CLIP", {}, **by_rate),
    _arm("CLIP, twice the steps", {"steps": 2 * config().steps}, **by_rate),
    _arm("four terms", {"loss": four}, tuned=_RATE_FIELD, candidates=rates),
  ]
  added = {
    "CyCLIP": ("clip", "consistency", _CYCLIP),
    **{kind: (four, kind, _FIELDS[kind]) for kind in WEIGHTS},
  }
  for method, (loss, kind, fields) in added.items():
    fields = {
      "loss": loss,
      "structure": kind,
      _RATE_FIELD: _CHOSEN[first_view][loss],
      **fields,
    }
    weight = f"structure.{kind}.weight"
    candidates = _WEIGHTS_ON_FOUR_TERMS[kind]
    arms.append(_arm(method, fields, tuned=weight, candidates=candidates))
  base = config()
  base.structure.first_view = first_view
  name, title, count, views = {
    "plain": (
      "latent_structure",
      "Latent structure on four terms",
      10,
      "the paper's base: four terms, a plain first view, and changed images and edited"
      " captions as the second",
    ),
    "augmented": (
      "latent_structure_augmented",
      "Latent structure on four terms, both views changed",
      2,
      "four terms, and images changed and captions edited in both views",
    ),
  }[first_view]
  return _sweep(
    name,
    title,
    "Emoji CLIP (one English caption, tower 16-32-64, 400 batches of 128) with each"
    f" regulariser on {views}. A step of four terms passes every image and text through"
    " the encoders twice; CLIP in twice the steps has as many passes. Learning rates of"
    " losses are chosen; CyCLIP has CLIP's rate, regularisers have that of four terms,"
    " and their weights are chosen.",
    arms,
    config=base,
    baseline="four terms",
    seeds=tuple(range(count)),
  )


def _regularisers() -> Sweep:
  by_rate = {"tuned": _RATE_FIELD, "candidates": _RATES}
  methods = {
    "CyCLIP": (("consistency",), _CYCLIP),
    **{kind: ((kind,), {}) for kind in WEIGHTS},
    "separation + bridge": (("separation", "bridge"), {}),
    "separation + consistency": (("separation", "consistency"), {}),
    "bridge + consistency": (("bridge", "consistency"), {}),
  }
  arms = [
    _arm("CLIP", {}, **by_rate),
    # That of all regularisers, so that no difference is one of rates.
    _arm("CLIP at the common rate", {_RATE_FIELD: _RATE}),
    _arm("four terms", {"loss": "clip_four_term"}, **by_rate),
  ]
  for method, (kinds, fields) in methods.items():
    fields = {**fields, "structure": kinds}
    for kind in kinds:
      fields |= _FIELDS[kind]
    tuned = ",".join(f"structure.{kind}.weight" for kind in kinds)
    arms.append(_arm(method, fields, tuned=tuned, candidates=_WEIGHTS))
  return _sweep(
    "latent_structure_two_terms",
    "Latent structure on CLIP's two terms",
    "Emoji CLIP (one English caption, tower 16-32-64, 400 batches of 128) with"
    " each regulariser. Losses with other views (four terms, separation, bridge,"
    " consistency) see every image or text twice in a step. Regularisers have a"
    f" learning rate of {_RATE:g}, that of CLIP and of the four terms is chosen.",
    arms,
  )


def _ablation() -> Sweep:
  arms = [_arm("CLIP", {})]
  for method, fields in {**_FIELDS, **_CHANGES}.items():
    kind = next(k for k in WEIGHTS if method.startswith(k))
    arms.append(_arm(method, {**term(kind, WEIGHTS[kind]), **fields}))
  return _sweep(
    "latent_structure_ablation",
    "Terms of the latent structure",
    "As latent_structure_two_terms, at the weight chosen there (separation 0.25, bridge"
    " and consistency 0.1): each regulariser whole, without each term, and"
    " changed. Differences are from CLIP at the same learning rate; compare"
    " rows of one regulariser.",
    arms,
    seeds=(0, 1, 2),
  )


def _momentum() -> Sweep:
  methods = ("separation", "bridge", "consistency", "separation + consistency")
  clip, *others = (
    arm
    for arm in _regularisers().arms
    if arm.method == "CLIP" or arm.method in methods
  )
  slow = (
    dataclasses.replace(arm, fields={**arm.fields, **_MOMENTUM})
    for arm in others
  )
  return _sweep(
    "latent_structure_momentum",
    "Latent structure with a momentum encoder",
    "As latent_structure_two_terms, but other views' features are those of a momentum"
    " encoder (0.995), of the same image and caption.",
    [clip, *slow],
  )


def _bridge() -> Sweep:
  weights, temperatures = (0.02, 0.05, 0.1, 0.25), (0.1, 0.05, 0.025)
  near = "image's view, t = .75"
  arms = [_arm("CLIP", {})]
  for method, fields in _BRIDGES.items():
    fields = {"structure": "bridge", **fields, **_MOMENTUM}
    tuned = "structure.bridge.weight"
    arms.append(_arm(method, fields, tuned=tuned, candidates=weights))
  # At the weight that the learned temperature's runs chose.
  bridge = {**term("bridge", _MOMENTUM_WEIGHT), **_BRIDGES[near], **_MOMENTUM}
  for method, fields in (("CLIP", {}), (near, bridge)):
    fields = {**fields, "loss.temperature_mode": "fixed"}
    tuned = "loss.temperature"
    method = f"{method}, temperature fixed"
    arms.append(_arm(method, fields, tuned=tuned, candidates=temperatures))
  return _sweep(
    "latent_structure_bridge",
    "The Brownian bridge with a momentum encoder",
    "As latent_structure_momentum: the bridge from image to text, with the"
    " momentum encoder's feature of the image near the image's own, or of the"
    " text near the text's own. The learning rate is the common one, which"
    " CLIP chose as well; with a fixed temperature the bridge's weight is .1.",
    arms,
  )


def _openclipart() -> Sweep:
  arms = [_arm("CLIP", {})]
  for kind, weight in WEIGHTS.items():
    arms.append(_arm(kind, term(kind, weight)))
  for kind in ("separation", "consistency"):
    fields = {**term(kind, _MOMENTUM_WEIGHT), **_MOMENTUM}
    arms.append(_arm(f"{kind}, momentum", fields))
  drawings = config()
  drawings.data = "openclipart"
  return _sweep(
    "latent_structure_openclipart",
    "Latent structure on Open Clip Art",
    "CLIP on 2,487 drawings with titles and keywords (tower 16-32-64, 400"
    " batches of 128) with each regulariser, at the weight that was chosen on"
    " the emoji.",
    arms,
    config=drawings,
    metrics=_OPENCLIPART_METRICS,
  )


VARIANTS = {
  "": lambda: _four_terms("plain"),
  "augmented": lambda: _four_terms("augmented"),
  "two_terms": _regularisers,
  "ablation": _ablation,
  "bridge": _bridge,
  "momentum": _momentum,
  "openclipart": _openclipart,
}


def get_sweep(variant: str = "") -> Sweep:
  """The grid of a variant."""
  return VARIANTS[variant]()
