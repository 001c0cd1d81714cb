"""Encoders as Flax modules, the two-tower model, and named presets."""

from contrastive_jax.models.bert_encoder import BertEncoder as BertEncoder
from contrastive_jax.models.classifier import Classifier as Classifier
from contrastive_jax.models.convnet import ConvNet as ConvNet
from contrastive_jax.models.efficientnet import (
  EfficientNetLite as EfficientNetLite,
)
from contrastive_jax.models.fusion_model import FusionModel as FusionModel
from contrastive_jax.models.fusion_presets import (
  FUSION_PRESETS as FUSION_PRESETS,
  create_fusion_model as create_fusion_model,
  transfer as transfer,
)
from contrastive_jax.models.layers import ProjectionHead as ProjectionHead
from contrastive_jax.models.partition_network import (
  PartitionNetwork as PartitionNetwork,
)
from contrastive_jax.models.presets import (
  PRESETS as PRESETS,
  TwoTowerConfig as TwoTowerConfig,
  create_model as create_model,
)
from contrastive_jax.models.resnet import (
  ModifiedResNet as ModifiedResNet,
  ResNet as ResNet,
  resnet as resnet,
)
from contrastive_jax.models.self_supervised import (
  SelfSupervised as SelfSupervised,
)
from contrastive_jax.models.text import TextTransformer as TextTransformer
from contrastive_jax.models.two_tower import TwoTower as TwoTower
from contrastive_jax.models.vit import (
  ViT as ViT,
  vit as vit,
)
