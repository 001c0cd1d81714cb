"""What fields of a configuration say together."""

from contrastive_jax.training.config.errors import ConfigError
from contrastive_jax.training.config.fields import Config

# Those of fusion models; the ones after the first take questions and statements.
FUSION_OBJECTIVES = ("albef", "vqa", "nlvr2", "text_assignment", "entailment")
# Data whose pictures are read as they are found.
_FITTED = ("folder", "official", "records", "tfds")
# The losses of each objective; the first one is the usual one.
_LOSSES = {
  "clip": ("clip", "clip_four_term", "decoupled", "sigmoid", "augmented"),
  "simclr": ("nt_xent", "augmented"),
  "moco_v3": ("moco_v3", "decoupled", "augmented"),
  "albef": ("soft_target", "augmented"),
  "vqa": ("cross_entropy",),
  "nlvr2": ("cross_entropy",),
  "text_assignment": ("cross_entropy",),
  "entailment": ("cross_entropy",),
}


def check_loss(config: Config) -> None:
  """Raises on fields of the loss that do not go together."""
  loss, objective = config.loss, config.objective
  allowed = _LOSSES[objective]
  if loss.name not in allowed:
    raise ConfigError(
      f"config.objective={objective!r} takes config.loss.name="
      f"{', '.join(allowed)}; got {loss.name!r}: set config.loss={allowed[0]}."
    )
  if loss.init_logit_scale > loss.max_logit_scale:
    raise ConfigError(
      f"config.loss.init_logit_scale must be at most"
      f" config.loss.max_logit_scale ({loss.max_logit_scale}); got"
      f" {loss.init_logit_scale}."
    )
  if loss.label_smoothing and loss.name != "clip":
    raise ConfigError(
      "config.loss.label_smoothing needs config.loss.name='clip'; got"
      f" {loss.name!r}: set config.loss.label_smoothing=0."
    )
  images = config.data.images_per_concept
  if loss.image_image and images % 2:
    raise ConfigError(
      "config.loss.image_image needs an even config.data.images_per_concept;"
      f" got {images}."
    )
  if config.data.mixture and config.data.name != "records":
    raise ConfigError(
      "config.data.mixture is for config.data=records; got config.data.name="
      f"{config.data.name!r}: leave it empty."
    )
  # A run of no steps is there to be scored, on suites perhaps.
  fits = config.data.name in _FITTED or config.evaluation.benchmark_names
  if config.data.fit != "pad" and not fits and config.steps:
    raise ConfigError(
      f"config.data.fit is for config.data={', '.join(_FITTED)} and for"
      f" config.evaluation.benchmarks; got {config.data.fit!r} with config.data.name="
      f"{config.data.name!r}: set config.data.fit=pad."
    )
  if config.initial.workdir and objective not in FUSION_OBJECTIVES:
    raise ConfigError(
      "config.initial.workdir is for objectives of fusion models; got"
      f" config.objective={objective!r}: leave it empty."
    )
  if config.keep_best and not config.evaluation.retrieval_every:
    raise ConfigError(
      "config.keep_best needs validations; got config.evaluation.retrieval_every=0:"
      " set how many steps there are from one to the next."
    )
  _check_weights(config)
  _check_frozen(config)
  if config.initial.part != "all" and not config.initial.workdir:
    raise ConfigError(
      f"config.initial.part={config.initial.part!r} needs"
      " config.initial.workdir, the workdir of the run to take it from."
    )
  if loss.temperature in ("robust", "individual") and loss.name != "augmented":
    raise ConfigError(
      f"config.loss.temperature={loss.temperature!r} needs"
      f" config.loss.name='augmented'; got {loss.name!r}."
    )
  if objective == "clip":
    return
  if objective in FUSION_OBJECTIVES:
    _check_fusion(config)
    return
  if loss.temperature != "fixed":
    raise ConfigError(
      f"config.objective={objective!r} has a fixed temperature,"
      " 1 / config.loss.init_logit_scale: set config.loss.temperature=fixed;"
      f" got {loss.temperature!r}."
    )
  if images not in (1, 2):
    raise ConfigError(
      f"config.objective={objective!r} takes two views of an example:"
      " config.data.images_per_concept must be 1 (two augmentations) or 2 (two"
      f" images of a concept); got {images}."
    )
  if loss.name == "augmented" and loss.e_step == "amortized":
    raise ConfigError(
      "config.loss.e_step='amortized' needs config.objective='clip'; got"
      f" {objective!r}: set config.loss.e_step=conjugate."
    )


def _check_frozen(config: Config) -> None:
  """Raises on towers that cannot be frozen."""
  frozen, initial = config.model.frozen_towers, config.initial
  for side in frozen:
    if side not in ("image", "text"):
      raise ConfigError(
        f"config.model.frozen must be some of image, text; got {side!r}."
      )
    if not (initial.weights or getattr(initial, f"{side}_weights")):
      raise ConfigError(
        f"config.model.frozen={config.model.frozen!r} needs weights for the {side}"
        f" tower: config.initial.{side}_weights, or config.initial.weights."
      )
  if frozen and config.objective != "clip":
    raise ConfigError(
      "config.model.frozen is for config.objective='clip'; got"
      f" {config.objective!r}: leave it empty."
    )
  if config.optimizer.tower_rate != 1.0 and config.objective != "clip":
    raise ConfigError(
      "config.optimizer.tower_rate is for config.objective='clip'; got"
      f" {config.objective!r}: leave it 1."
    )
  if not config.model.cache_features:
    return
  if set(frozen) != {"image", "text"}:
    raise ConfigError(
      "config.model.cache_features needs config.model.frozen=image,text; got"
      f" {config.model.frozen!r}."
    )
  if config.augmented_sides:
    raise ConfigError(
      "config.model.cache_features knows no other views of images and texts: set"
      " the terms of config.structure that take them to 0."
    )


def _check_weights(config: Config) -> None:
  """Raises on published weights where there can be none."""
  initial = config.initial
  towers = {
    "image_weights": initial.image_weights,
    "text_weights": initial.text_weights,
  }
  given = [name for name, value in towers.items() if value]
  if initial.weights:
    given.append("weights")
  if given and config.objective not in ("clip", *FUSION_OBJECTIVES):
    raise ConfigError(
      f"config.initial.{given[0]} is for two-tower and fusion models; got"
      f" config.objective={config.objective!r}: leave it empty."
    )
  others = [name for name in given if name != "weights"]
  if initial.weights and others:
    raise ConfigError(
      "config.initial.weights is of the whole model; leave"
      f" config.initial.{others[0]} empty."
    )
  if initial.workdir and (given or config.model.tokenizer):
    other = f"config.initial.{given[0]}" if given else "config.model.tokenizer"
    raise ConfigError(
      f"config.initial.workdir and {other} exclude each other: leave one empty."
    )
  if config.model.tokenizer and config.objective in ("simclr", "moco_v3"):
    raise ConfigError(
      "config.model.tokenizer is for models with texts; got config.objective="
      f"{config.objective!r}: leave it empty."
    )
  for kind in initial.allowed:
    if kind not in ("missing", "unexpected", "misshapen"):
      raise ConfigError(
        "config.initial.allow must be some of missing, unexpected, misshapen;"
        f" got {kind!r}."
      )
  if initial.allowed and not given:
    raise ConfigError(
      f"config.initial.allow={initial.allow!r} needs config.initial.weights,"
      " image_weights or text_weights."
    )


def _check_fusion(config: Config) -> None:
  """Raises on fields that objectives of fusion models do not know."""
  objective = config.objective
  if config.loss.temperature not in ("learned", "fixed"):
    raise ConfigError(
      f"config.objective={objective!r} takes config.loss.temperature=learned,"
      f" fixed; got {config.loss.temperature!r}."
    )
  if config.loss.name == "augmented" and config.loss.image_image:
    raise ConfigError(
      f"config.loss.image_image is for config.objective='clip'; got"
      f" {objective!r}: set it to 0."
    )
  for name, most in (("captions_per_example", 1), ("images_per_concept", 1)):
    if getattr(config.data, name) != most:
      raise ConfigError(
        f"config.objective={objective!r} takes config.data.{name}=1; got"
        f" {getattr(config.data, name)}."
      )
  block = config.fusion.negative_block
  if block and config.batch_size % block:
    raise ConfigError(
      "config.fusion.negative_block must divide config.batch_size"
      f" ({config.batch_size}); got {block}."
    )
  if config.evaluation.benchmarks and objective != "albef":
    raise ConfigError(
      f"config.evaluation.benchmarks is not for config.objective={objective!r},"
      " which embeds no images: leave it empty."
    )
  if objective == "albef" and not any(
    (config.fusion.contrast, config.fusion.matching, config.fusion.language)
  ):
    raise ConfigError(
      "One of config.fusion.contrast, matching and language must be above 0."
    )


def check_structure(config: Config) -> None:
  """Raises on regularisers that do not go together with the rest."""
  structure = config.structure
  if structure.active and config.objective not in ("clip", "albef"):
    raise ConfigError(
      "config.structure is for config.objective='clip' and 'albef'; got"
      f" {config.objective!r}: set its weights to 0."
    )
  if (
    structure.active
    and config.objective == "albef"
    and structure.source != "momentum"
  ):
    raise ConfigError(
      "config.objective='albef' takes other views' features from its momentum"
      " model: set config.structure.source=momentum; got"
      f" {structure.source!r}."
    )
  if config.objective == "albef" and structure.independent_head != "linear":
    raise ConfigError(
      "config.objective='albef' has linear second heads: set"
      " config.structure.independent_head=linear; got"
      f" {structure.independent_head!r}."
    )
  low, high = structure.bridge_time
  inside = structure.bridge_weighted
  if not (0 < low <= high < 1 if inside else 0 <= low <= high <= 1):
    where = "inside of (0, 1) when bridge_weighted" if inside else "in [0, 1]"
    raise ConfigError(
      "config.structure.bridge_time must be two rising numbers"
      f" {where}; got ({low:g}, {high:g})."
    )
  if config.evaluation.concatenated and not structure.separation:
    raise ConfigError(
      "config.evaluation.concatenated needs config.structure.separation above"
      " 0, which gives the second head; got 0."
    )
