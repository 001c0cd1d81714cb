"""ALBEF's pre-training: contrast, matching and masked language modelling."""

from typing import Any

import jax
import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.models import two_tower
from contrastive_jax.training.distributed import sharding
from contrastive_jax.training.objectives import (
  base,
  choices,
  contrasts,
  fusion_base,
  momentum_queue,
)
from contrastive_jax.training.objectives.augmented_pairs import AugmentedPairs
from contrastive_jax.training.objectives.parts import Parts
from contrastive_jax.training.objectives.structure_terms import StructureTerms
from contrastive_jax.training.types import Batch, Metrics, Params

# As published: the temperature stays within these.
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.001, 0.5


class Albef(base.Objective):
  r"""The sum of three losses on a fusion model, with momentum distillation.

  * image-text contrast against momentum features of the batch and a queue, with
    soft targets (`losses.soft_target_contrastive`, mean of both directions; with
    `config.loss.in_modal` of four, the other two within the modalities), or, with
    `config.loss=augmented`, the augmented loss within the batch;
  * matching: the pair, the text with a hard negative image, the image with a
    hard negative text, each by fusion of both;
  * masked language modelling of the text by fusion with its image.

  The momentum model is updated before it is used. The share alpha of its soft
  targets grows linearly from 0. With `config.structure` the second paper's
  regularisers are added; other views' features are those of the momentum model, of
  the same image and text.

  References: Li et al., "Align before fuse", 2021; Jiang et al., "Understanding
  and constructing latent modality structures", 2023.
  """

  has_text = True

  def __init__(self, settings: choices.Albef, parts: Parts):
    """Builds the model; see `Parts`.

    Raises:
      ValueError: if the queue does not divide over the devices.
    """
    assert parts.loss is not None and parts.structure is not None
    self._settings = settings
    self._parts = parts
    self._loss = parts.loss
    self._terms = parts.structure.terms
    self._mesh = parts.mesh
    self._axes = sharding.data_axes(parts.mesh)
    mode = parts.loss.temperature_mode
    self._learned = mode if isinstance(mode, contrasts.Learned) else None
    # One id more than the tokenizer has: the mask.
    self.mask_id = parts.vocab_size
    self.model = fusion_base.create_model(parts, "pretrain")
    self._views = base.Views(
      parts.augment,
      parts.model.image_size,
      plain_first=parts.structure.first_view == "plain",
    )
    self._structure = StructureTerms(
      parts.structure, parts.loss.block_size, parts.mesh
    )
    self.augmented_pairs = None
    if "separation" in parts.structure.terms:
      self.heads = two_tower.HEADS
    self._queue_size, self._in_modal = 0, False
    if isinstance(parts.loss, contrasts.Augmented):
      self.augmented_pairs = AugmentedPairs(parts.loss, parts)
    elif isinstance(parts.loss, contrasts.SoftTarget):
      self._queue_size = parts.loss.queue_size
      self._in_modal = parts.loss.in_modal
    if self._queue_size % parts.mesh.size:
      raise ValueError(
        "config.loss.queue_size must be a multiple of the number of devices"
        f" ({parts.mesh.size}); got {self._queue_size}."
      )

  def init(self, key: jax.Array, batch: Batch) -> tuple[Params, Params]:
    """Parameters, and the state: momentum model, queue, steps."""
    side = self._parts.model.image_size
    params = self.model.init(
      key,
      jnp.zeros((2, side, side, 3), jnp.float32),
      jnp.asarray(batch["tokens"][:2, 0]),
    )["params"]
    state: dict[str, Any] = {
      "momentum": jax.tree.map(jnp.copy, params),
      "count": jnp.zeros((), jnp.int32),
    }
    if self._queue_size:
      state["queue"] = momentum_queue.create(
        jax.random.fold_in(key, base.QUEUE),
        self._queue_size,
        self.model.embed_dim,
      )
    if self.augmented_pairs is not None:
      state["auxiliary"] = self.augmented_pairs.init(
        jax.random.fold_in(key, base.AUXILIARY), self.model.embed_dim
      )
    return params, state

  def loss(
    self, params: Params, state: Params, batch: Batch, key: jax.Array
  ) -> tuple[jax.Array, tuple[Params, Metrics]]:
    """The weighted sum of the losses, averaged over the batch, and its terms."""
    settings = self._settings
    images = self._views.first(
      jax.random.fold_in(key, base.AUGMENT), batch["image"]
    )
    tokens = batch["tokens"][:, 0]
    groups = batch["concept_id"] if self._loss.group_positives else None
    alpha = fusion_base.ramped_alpha(
      settings, self._parts.steps, state["count"]
    )
    momentum = base.averaged(params, state["momentum"], settings.momentum)
    model = fusion_base.Applied(self.model, params, key)
    teacher = fusion_base.Applied(
      self.model, momentum, jax.random.fold_in(key, base.MOMENTUM)
    )
    image, text = model.image(images), model.text(tokens)
    image_m, text_m = jax.lax.stop_gradient(
      (teacher.image(images), teacher.text(tokens))
    )
    state = {**state, "momentum": momentum, "count": state["count"] + 1}
    total = jnp.float32(0)
    temperature = params["temperature"]
    if self._learned is None:
      temperature = jax.lax.stop_gradient(temperature)
    metrics: Metrics = {"alpha": alpha, "temperature": temperature}
    if settings.contrast:
      value, state, more = self._contrast(
        temperature,
        (image, text),
        (image_m, text_m),
        groups,
        alpha,
        state,
        batch["index"],
        key,
      )
      metrics |= more | {"contrastive_loss": value}
      total += settings.contrast * value
    if settings.matching:
      value, more = self._matching(
        model, image, text, image_m, text_m, groups, temperature, key
      )
      metrics |= more | {"matching_loss": value}
      total += settings.matching * value
    if settings.language:
      value, more = self._language(
        model, teacher, tokens, image, image_m, alpha, key
      )
      metrics |= more | {"language_loss": value}
      total += settings.language * value
    if self._terms:
      value, terms = self._structure.terms(
        self._features(image, text, image_m, text_m),
        1.0 / jax.lax.stop_gradient(temperature),
        groups,
        key,
      )
      metrics |= terms
      total += value
    return total, (state, metrics)

  def _contrast(
    self, temperature, online, momentum, groups, alpha, state, index, key
  ):
    """Mean contrast of both directions, the new state, and metrics."""
    (image, text), (image_m, text_m) = (
      [side["feature"] for side in pair] for pair in (online, momentum)
    )
    if self.augmented_pairs is not None:
      values, auxiliary, metrics = self.augmented_pairs.loss(
        {"image": image, "text": text[:, None]},
        1.0 / temperature,
        groups,
        state["auxiliary"],
        index,
        jax.random.fold_in(key, base.AUXILIARY),
      )
      return jnp.mean(values), {**state, "auxiliary": auxiliary}, metrics
    held = state.get("queue")
    earlier = {k: held[k] for k in ("image", "text", "ids")} if held else {}

    def both(whole, image, text, groups, earlier):
      temperature, alpha = whole

      def direction(this, that, side, alpha=alpha):
        return losses.soft_target_contrastive(
          this[0],
          this[1],
          that[1],
          earlier.get(side),
          temperature=temperature,
          alpha=alpha,
          group_ids=groups,
          queue_ids=None if groups is None else earlier.get("ids"),
          axes=self._axes,
          block_size=self._loss.block_size or "auto",
        )

      across = direction(image, text, "text") + direction(text, image, "image")
      if not self._in_modal:
        return across / 2
      within = sum(
        direction(own, own, name, alpha=0.0)
        for name, own in (("image", image), ("text", text))
      )
      return (across + within) / 4

    values = sharding.map_rows(both, self._mesh)(
      (temperature, alpha), (image, image_m), (text, text_m), groups, earlier
    )
    if held:
      ids = index if groups is None else groups
      queue = momentum_queue.push(held, image_m, text_m, ids)
      state = {**state, "queue": queue}
    return jnp.mean(values), state, {}

  def _matching(
    self, model, image, text, image_m, text_m, groups, temperature, key
  ):
    """Mean loss of the pairs and their hard negatives, and metrics."""
    count = image["feature"].shape[0]
    block = self._settings.negative_block or count
    stopped = jax.lax.stop_gradient

    def split(x):
      return x.reshape(count // block, block, *x.shape[1:])

    def draw(queries, keys, purpose):
      """For each row a row of the other side, within its block."""
      key_of = jax.random.fold_in(
        jax.random.fold_in(key, base.NEGATIVES), purpose
      )
      ids = jnp.arange(count) if groups is None else groups
      found, valid = jax.vmap(
        lambda q, k, i, p: losses.sample_hard_negatives(
          key_of, q @ k.T / stopped(temperature), group_ids=i, positions=p
        )
      )(
        split(stopped(queries)),
        split(stopped(keys)),
        split(ids),
        split(jnp.arange(count)),
      )
      return found, valid.reshape(-1)

    def take(x, places):
      taken = jax.vmap(lambda rows, at: rows[at])(split(x), places)
      return taken.reshape(x.shape)

    other_image, image_valid = draw(text["feature"], image_m["feature"], 0)
    other_text, text_valid = draw(image["feature"], text_m["feature"], 1)
    pair = text["tokens"], text["valid"]
    wrong_text = take(pair[0], other_text), take(pair[1], other_text)
    # Texts of one image share its keys and values.
    logits = [
      model.apply(model.fuse(texts, tokens), method="match")
      for texts, tokens in (
        ([pair, wrong_text], image["tokens"]),
        ([pair], take(image["tokens"], other_image)),
      )
    ]
    logits = jnp.concatenate(
      [logits[0].reshape(count, 2, 2), logits[1][:, None]], axis=1
    ).reshape(-1, 2)
    ones = jnp.ones(count, bool)
    matches = jnp.stack([ones, ~ones, ~ones], axis=1).reshape(-1)
    valid = jnp.stack([ones, text_valid, image_valid], axis=1).reshape(-1)
    values = losses.image_text_matching(logits, matches, valid)
    total = jnp.sum(valid)
    right = (jnp.argmax(logits, axis=1) == matches) & valid
    return jnp.sum(values) / total, {
      "matching_accuracy": jnp.sum(right) / total
    }

  def _language(self, model, teacher, tokens, image, image_m, alpha, key):
    """Mean loss of the tokens that are to be predicted, and metrics."""
    # Neither padding nor the first and the last token of a text.
    valid = tokens != self.model.pad_id
    last = ~jnp.roll(valid, -1, axis=1).at[:, -1].set(False)
    maskable = (valid & ~last).at[:, 0].set(False)
    masked, chosen = losses.mask_tokens(
      jax.random.fold_in(key, base.MASKING),
      tokens,
      maskable,
      vocab_size=self.mask_id + 1,
      mask_id=self.mask_id,
      share=self._settings.mask_share,
    )

    def predict(applied, image):
      # A random token may be the padding's; it is read all the same.
      text = applied.text(masked, valid)
      states = applied.fuse([(text["tokens"], text["valid"])], image["tokens"])
      return applied.apply(states, method="predict_tokens")

    logits = predict(model, image)
    soft = {}
    if self._settings.alpha:
      soft = {
        "teacher_logits": jax.lax.stop_gradient(predict(teacher, image_m)),
        "alpha": alpha,
      }
    values = losses.masked_language_modeling(logits, tokens, chosen, **soft)
    # The mean of a batch without any such token is 0.
    total = jnp.maximum(jnp.sum(chosen), 1)
    right = (jnp.argmax(logits, axis=-1) == tokens) & chosen
    return jnp.sum(values) / total, {
      "language_accuracy": jnp.sum(right) / total
    }

  def _features(self, image, text, image_m, text_m):
    """The features of both models by the names that `StructureTerms` takes."""
    features = {}
    for name, side in (
      ("image", image),
      ("text", text),
      ("image_augmented", image_m),
      ("text_augmented", text_m),
    ):
      features[name] = side["feature"]
      if "independent" in side:
        features[f"{name}_independent"] = side["independent"]
    return features

  def constrain(self, params: Params) -> Params:
    """Clamps the temperature, if it is learned."""
    if self._learned is None:
      return params
    return {
      **params,
      "temperature": jnp.clip(
        params["temperature"], MIN_TEMPERATURE, MAX_TEMPERATURE
      ),
    }

  def encode_image(
    self,
    params: Params,
    state: Params,
    images: jax.Array,
    *,
    head: str = "shared",
  ) -> jax.Array:
    """uint8 [N, H, W, 3] -> float32 [N, d] of unit norm; head `both`: [N, 2 d]."""
    del state
    return self._embedding(self._image(params, images), head)

  def encode_text(
    self,
    params: Params,
    state: Params,
    tokens: jax.Array,
    *,
    head: str = "shared",
  ) -> jax.Array:
    """int32 [N, L] -> the same."""
    del state
    text = fusion_base.Applied(self.model, params).text(tokens)
    return self._embedding(text, head)

  def _embedding(self, side: dict[str, jax.Array], head: str) -> jax.Array:
    if self.heads == ("shared",):
      return side["feature"]
    return two_tower.of_head(head, side["feature"], side["independent"])

  def image_tokens(self, params: Params, images: jax.Array) -> jax.Array:
    """uint8 [N, H, W, 3] -> [N, P, e], what `match` takes."""
    return self._image(params, images)["tokens"]

  def _image(self, params: Params, images: jax.Array) -> dict[str, jax.Array]:
    applied = fusion_base.Applied(self.model, params)
    return applied.image(self._views.plain(images))

  def match(
    self, params: Params, image_tokens: jax.Array, tokens: jax.Array
  ) -> jax.Array:
    """[N, P, e] and int32 [N, L] -> log-odds [N] that they belong together."""
    applied = fusion_base.Applied(self.model, params)
    text = applied.text(tokens)
    states = applied.fuse([(text["tokens"], text["valid"])], image_tokens)
    logits = applied.apply(states, method="match")
    return logits[:, 1] - logits[:, 0]
