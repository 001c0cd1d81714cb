"""Encoders as Flax modules, the two-tower model, and named presets."""

from contrastive_jax.models.bert_encoder import BertEncoder as BertEncoder
from contrastive_jax.models.convnet import ConvNet as ConvNet
from contrastive_jax.models.efficientnet import (
  EfficientNetLite as EfficientNetLite,
)
from contrastive_jax.models.fusion import FusionModel as FusionModel
from contrastive_jax.models.fusion_presets import (
  FUSION_PRESETS as FUSION_PRESETS,
)
from contrastive_jax.models.fusion_presets import (
  create_fusion_model as create_fusion_model,
)
from contrastive_jax.models.fusion_presets import transfer as transfer
from contrastive_jax.models.layers import ProjectionHead as ProjectionHead
from contrastive_jax.models.presets import PRESETS as PRESETS
from contrastive_jax.models.presets import TwoTowerConfig as TwoTowerConfig
from contrastive_jax.models.presets import create_model as create_model
from contrastive_jax.models.resnet import ModifiedResNet as ModifiedResNet
from contrastive_jax.models.resnet import ResNet as ResNet
from contrastive_jax.models.resnet import resnet as resnet
from contrastive_jax.models.self_supervised import (
  SelfSupervised as SelfSupervised,
)
from contrastive_jax.models.text import TextTransformer as TextTransformer
from contrastive_jax.models.two_tower import TwoTower as TwoTower
from contrastive_jax.models.vit import ViT as ViT
from contrastive_jax.models.vit import vit as vit

__all__ = (
  "FUSION_PRESETS",
  "PRESETS",
  "BertEncoder",
  "ConvNet",
  "EfficientNetLite",
  "FusionModel",
  "ModifiedResNet",
  "ProjectionHead",
  "ResNet",
  "SelfSupervised",
  "TextTransformer",
  "TwoTower",
  "TwoTowerConfig",
  "ViT",
  "create_fusion_model",
  "create_model",
  "resnet",
  "transfer",
  "vit",
)
