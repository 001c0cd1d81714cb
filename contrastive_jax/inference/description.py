"""The description of a trained model: `config.json` of its folder."""

import dataclasses
import json
import math
import pathlib
import typing
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from contrastive_jax import choices, field_values, models
from contrastive_jax._types import Dtype
from contrastive_jax.choices import field
from contrastive_jax.data.images import augment
from contrastive_jax.models.fusion_model import TASKS

FORMAT = "contrastive_jax model 1"
TWO_TOWERS, IMAGE_TOWER, FUSION = "two_towers", "image_tower", "fusion"


class ModelError(ValueError):
  """A folder holds no model, or a model is asked for what it cannot do."""


@dataclasses.dataclass(frozen=True)
class Pictures:
  """How a picture becomes what the model sees.

  It is made a square of `stored_size` pixels by `fit` (`pad` with white, `crop` the
  middle, `stretch`), which is resized to the model's `image_size` on the device and
  normalised.
  """

  stored_size: int = field(64, "Side of the square, in pixels.", low=1)
  fit: str = field(
    "pad",
    "How a picture becomes a square.",
    among=("pad", "crop", "stretch"),
  )
  interpolation: str = field(
    "bicubic", "Antialiased when shrinking.", among=("bicubic", "bilinear")
  )
  mean: tuple[float, float, float] = field(
    augment.CLIP_MEAN, "Subtracted a channel after scaling to 0..1."
  )
  std: tuple[float, float, float] = field(
    augment.CLIP_STD, "Divided by a channel."
  )


@dataclasses.dataclass(frozen=True)
class Description:
  """A model without its weights.

  Attributes:
    kind: `two_towers`; `image_tower`, which embeds images alone; or `fusion`.
    task: of a fusion model, see `models.FusionModel`; else "".
    preset: name in `models.PRESETS`, of a fusion model in `models.FUSION_PRESETS`.
    overrides: fields of the preset that the model has otherwise.
    vocab_size: token ids.
    image_size: side of the images that the model sees.
    context_length: tokens of a text.
    answer_length: tokens of an answer; 0 if the model gives none.
    answers: those that a model of vqa chooses among; () if it writes freely.
    independent_head: form of the second heads, `linear` or `mlp`; "" is none.
    pictures: what is done to a picture.
    logit_scale: e^s that cosines are multiplied by, 1 / temperature.
    logit_bias: what is added to them; models of the sigmoid loss alone have one.
    sigmoid: whether a pair's probability is a sigmoid of its logit, and depends on no
      other pair; else it is a softmax over the texts.
    templates: texts around the name of a class, `{}`.
  """

  kind: str = field(
    TWO_TOWERS, "Kind.", among=(TWO_TOWERS, IMAGE_TOWER, FUSION)
  )
  task: str = field("", "Task of a fusion model.", among=("", *TASKS))
  preset: str = field("tiny", "Name in contrastive_jax.models.PRESETS.")
  overrides: dict[str, Any] = dataclasses.field(default_factory=dict)
  vocab_size: int = field(2, "Token ids.", low=2)
  image_size: int = field(32, "Side of the model's images.", low=1)
  context_length: int = field(48, "Tokens of a text.", low=2)
  answer_length: int = field(0, "Tokens of an answer.", low=0)
  answers: tuple[str, ...] = field((), "Answers to choose among.")
  independent_head: str = field(
    "", "Form of the second heads.", among=("", "linear", "mlp")
  )
  pictures: Pictures = choices.section(Pictures, "What is done to a picture.")
  logit_scale: float = field(1.0, "Factor of cosines.", low=0.0)
  logit_bias: float = field(0.0, "Added to scaled cosines.")
  sigmoid: bool = field(False, "Whether pairs have probabilities of their own.")
  templates: tuple[str, ...] = field(("{}",), "Texts around a name.")

  def module(self, dtype: Dtype | None = None) -> nn.Module:
    """The Flax module, computing in `dtype`.

    Raises:
      ModelError: if there is no such model.
    """
    common: dict[str, Any] = dict(
      vocab_size=self.vocab_size,
      image_size=self.image_size,
      context_length=self.context_length,
      dtype=dtype,
      **self.overrides,
    )
    head = self.independent_head
    try:
      if self.kind == FUSION:
        return models.create_fusion_model(
          self.preset, task=self.task, independent_head=bool(head), **common
        )
      towers = models.create_model(
        self.preset, independent_head=head or None, **common
      )
    except (ValueError, TypeError) as error:
      raise ModelError(f"No such model: {error}") from error
    return (
      towers if self.kind == TWO_TOWERS else towers.image.clone(parent=None)
    )

  def with_scale(self, variables: Any) -> "Description":
    """The same model, with the scale of logits that its variables have."""
    params = variables["params"]
    if self.task == "pretrain":
      scale = 1 / float(params["temperature"])
      return dataclasses.replace(self, logit_scale=scale)
    if self.kind != TWO_TOWERS:
      return self
    return dataclasses.replace(
      self,
      logit_scale=math.exp(params["log_logit_scale"]),
      logit_bias=float(params["logit_bias"]) if self.sigmoid else 0.0,
    )

  def shapes(self) -> Any:
    """The shapes and types of the module's variables."""
    side, pair = self.image_size, (2,) if self.task == "nlvr2" else ()
    images = jnp.zeros((*pair, 2, side, side, 3), jnp.float32)
    tokens = jnp.zeros((2, self.context_length), jnp.int32)
    inputs = (images,) if self.kind == IMAGE_TOWER else (images, tokens)
    return jax.eval_shape(self.module().init, jax.random.key(0), *inputs)

  def augment_config(self) -> augment.AugmentConfig:
    """The pictures' way as `augment.preprocess_batch` takes it."""
    return augment.AugmentConfig(
      image_size=self.image_size,
      resize="squash",
      interpolation=self.pictures.interpolation,
      mean=self.pictures.mean,
      std=self.pictures.std,
    )


def write(description: Description, path: pathlib.Path) -> None:
  """Writes `config.json`."""
  found = {"format": FORMAT, **choices.to_dict(description)}
  path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def read(path: pathlib.Path) -> Description:
  """Reads what `write` wrote; nothing in it is imported or run.

  Raises:
    ModelError: if it is no description of a model.
  """
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
  except OSError as error:
    raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
  except (ValueError, RecursionError) as error:
    raise ModelError(f"{path} is not valid JSON ({error}).") from error
  form = found.pop("format", None) if isinstance(found, dict) else None
  if form != FORMAT:
    raise ModelError(
      f"{path} must describe a model of the format {FORMAT!r}; got {form!r}."
    )
  try:
    return _parsed(Description, found)
  except ValueError as error:
    raise ModelError(f"{path}: {error}") from error


def _parsed(cls: type, found: Any) -> Any:
  """A dataclass of plain values; raises ValueError, naming the field first."""
  if not isinstance(found, Mapping):
    raise ValueError(f"must be a JSON object; got {found!r}.")
  types, fields = typing.get_type_hints(cls), {}
  known = {f.name: f for f in dataclasses.fields(cls)}
  for name, value in found.items():
    if name not in known:
      raise ValueError(f"{name} is not known here.")
    metadata = known[name].metadata
    try:
      if "section" in metadata:
        fields[name] = _parsed(metadata["section"], value)
      else:
        fields[name] = field_values.checked(value, types[name], metadata)
    except ValueError as error:
      raise ValueError(f"{name} {error}") from error
  return cls(**fields)
