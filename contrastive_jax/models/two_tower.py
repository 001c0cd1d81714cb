"""The two-tower model: one encoder an input, one embedding space."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from contrastive_jax import ops
from contrastive_jax._types import Array, Dtype
from contrastive_jax.models import layers

# Names of a tower's embeddings: of its first head, its second, and of both.
HEADS = ("shared", "independent", "both")


class TwoTower(nn.Module):
  r"""Image tower and text tower with unit-norm float32 embeddings.

  .. math:: z = W f(x) / \|W f(x)\|, \qquad
            \text{logits} = e^{s} z_{image} z_{text}^\top + b

  With `independent_head` each tower has a second head, :math:`z' = W' f(x) / \|W'
  f(x)\|`, for what the modalities do not share (`losses.structure.separation`).

  The scale s and the bias b are parameters of the model; the losses apply
  them (the softmax losses use no bias).

  Attributes:
    image: a module called as `image(images, train=...) -> [N, width]`.
    text: a module called as `text(tokens, train=...) -> [N, width]`.
    embed_dim: d, the width of the embeddings.
    image_head: `linear` (no bias), `affine` (with bias), `mlp` (one hidden layer
      as wide as the tower's feature), or `none`, which needs a tower of width
      `embed_dim`.
    text_head: likewise.
    independent_head: `linear` or `mlp`, the form of both towers' second head;
      None leaves it out.
    init_logit_scale: where e^s starts.
    init_logit_bias: where b starts; -10 suits the sigmoid loss.
    image_dropout: share of the image tower's feature that is dropped in training,
      before the heads.
    text_dropout: likewise.
    frozen: of `image` and `text` those towers that are not trained: they run as in
      evaluation and have no gradient. What such a tower says of its inputs can be
      kept and given in their place, see `encode_image`.
    dtype: compute type of the heads.

  References: Radford et al., Learning transferable visual models from natural
  language supervision, 2021; Zhai et al., Sigmoid loss for language image
  pre-training, 2023 (the bias); Jiang et al., Understanding and constructing
  latent modality structures in multi-modal representation learning, 2023, figure
  3a (the second head).
  """

  image: nn.Module
  text: nn.Module
  embed_dim: int = 512
  image_head: str = "linear"
  text_head: str = "linear"
  independent_head: str | None = None
  init_logit_scale: float = 1 / 0.07
  init_logit_bias: float = -10.0
  image_dropout: float = 0.0
  text_dropout: float = 0.0
  frozen: tuple[str, ...] = ()
  dtype: Dtype | None = None

  def setup(self) -> None:
    """Makes the heads and the scale."""
    for side in self.frozen:
      layers.check_choice("frozen", side, ("image", "text"))
    if not self.init_logit_scale > 0:
      raise ValueError(
        f"init_logit_scale must be > 0; got {self.init_logit_scale}."
      )
    for name in ("image_dropout", "text_dropout"):
      if not 0.0 <= getattr(self, name) < 1.0:
        raise ValueError(
          f"{name} must be in [0, 1); got {getattr(self, name)}."
        )
    self.image_drop = nn.Dropout(self.image_dropout)
    self.text_drop = nn.Dropout(self.text_dropout)
    self.image_projection = _Head(self.embed_dim, self.image_head, self.dtype)
    self.text_projection = _Head(self.embed_dim, self.text_head, self.dtype)
    if self.independent_head is not None:
      kind = self.independent_head
      layers.check_choice("independent_head", kind, ("linear", "mlp"))
      self.image_independent = _Head(self.embed_dim, kind, self.dtype)
      self.text_independent = _Head(self.embed_dim, kind, self.dtype)

    def scalar(name: str, value: float) -> Array:
      init = nn.initializers.constant(value)
      return self.param(name, init, (), jnp.float32)

    self.log_logit_scale = scalar(
      "log_logit_scale", math.log(self.init_logit_scale)
    )
    self.logit_bias = scalar("logit_bias", self.init_logit_bias)

  def encode_image(
    self,
    images: Array,
    *,
    head: str = "shared",
    train: bool = False,
    are_features: bool = False,
  ) -> Array:
    r"""Embeds images.

    Args:
      images: floating [N, H, W, 3], normalised; or the tower's features of them,
        floating [N, width].
      head: `shared` for z; with `independent_head` also `independent` for z', and
        `both` for :math:`[z, z'] / \sqrt 2`.
      train: whether the tower is in training mode.
      are_features: whether features are given, for which the tower is not run.

    Returns:
      float32 [N, d] of unit norm; [N, 2 d] of both heads.

    Raises:
      ValueError: if there is no such head.
    """
    return self._embedding("image", images, head, train, are_features)

  def encode_text(
    self,
    tokens: Array,
    *,
    head: str = "shared",
    train: bool = False,
    are_features: bool = False,
  ) -> Array:
    """Embeds texts; `tokens` are integer [N, L], else as `encode_image`."""
    return self._embedding("text", tokens, head, train, are_features)

  def encode_image_twice(
    self, images: Array, *, train: bool = False, are_features: bool = False
  ) -> tuple[Array, Array]:
    """Embeds images with both heads; arguments as of `encode_image`.

    Returns:
      z and z', float32 [N, d] of unit norm.

    Raises:
      ValueError: if there is no second head.
    """
    return self._embed("image", images, train, are_features, twice=True)

  def encode_text_twice(
    self, tokens: Array, *, train: bool = False, are_features: bool = False
  ) -> tuple[Array, Array]:
    """Embeds texts with both heads; see `encode_image_twice`."""
    return self._embed("text", tokens, train, are_features, twice=True)

  def __call__(
    self, images: Array, tokens: Array, *, train: bool = False
  ) -> dict[str, Array]:
    """Embeds both sides.

    Args:
      images: floating [N, H, W, 3], normalised.
      tokens: integer [M, L].
      train: whether the towers are in training mode.

    Returns:
      `image` float32 [N, d] and `text` float32 [M, d] of unit norm,
      `logit_scale` = e^s and `logit_bias`, float32 scalars. With second heads
      also `image_independent` and `text_independent`, like the first two.
    """
    out = {
      "logit_scale": jnp.exp(self.log_logit_scale),
      "logit_bias": self.logit_bias,
    }
    twice = self.independent_head is not None
    for side, x in (("image", images), ("text", tokens)):
      names = (side, f"{side}_independent")
      out |= zip(names, self._embed(side, x, train, twice=twice))
    return out

  def _embedding(
    self, side: str, x: Array, head: str, train: bool, are_features: bool
  ) -> Array:
    """One embedding, by the name of its head."""
    twice = head != "shared"
    found = self._embed(side, x, train, are_features, twice=twice)
    return of_head(head, *found) if twice else found[0]

  def _embed(
    self,
    side: str,
    x: Array,
    train: bool,
    are_features: bool = False,
    twice: bool = False,
  ) -> Any:
    """Embeddings by a side's head or, `twice`, both of its heads."""
    heads = ("projection", "independent") if twice else ("projection",)
    if twice and self.independent_head is None:
      raise ValueError(
        "independent_head must be 'linear' or 'mlp' for a second feature; got"
        " None."
      )
    tower = getattr(self, side)
    if are_features:
      feature = x
    elif side not in self.frozen:
      feature = tower(x, train=train)
    else:
      feature = jax.lax.stop_gradient(tower(x, train=False))
    dropout = getattr(self, f"{side}_drop")
    feature = dropout(feature, deterministic=not train)

    def embedding(head: str) -> Array:
      z = getattr(self, f"{side}_{head}")(feature, train=train)
      return ops.l2_normalize(z.astype(jnp.float32))

    return tuple(map(embedding, heads))


def of_head(head: str, shared: Array, independent: Array) -> Array:
  """The embedding by a head's name, of unit norm like both that are given."""
  layers.check_choice("head", head, HEADS)
  if head == "both":
    return ops.l2_normalize(jnp.concatenate([shared, independent], axis=1))
  return independent if head == "independent" else shared


class _Head(nn.Module):
  """The projection of one side, by name."""

  embed_dim: int
  kind: str
  dtype: Dtype | None = None

  @nn.compact
  def __call__(self, feature: Array, *, train: bool) -> Array:
    layers.check_choice("head", self.kind, ("linear", "affine", "mlp", "none"))
    width = feature.shape[-1]
    if self.kind == "none":
      if width != self.embed_dim:
        raise ValueError(
          "a tower with head 'none' must return features of width embed_dim"
          f" = {self.embed_dim}; got {width}."
        )
      return feature
    hidden = (width,) if self.kind == "mlp" else ()
    return layers.ProjectionHead(
      self.embed_dim,
      hidden,
      use_bias=self.kind == "affine",
      dtype=self.dtype,
      name="head",
    )(feature, train=train)
