"""SuperClass: an image is classified into the tokens of its captions."""

import jax
import jax.numpy as jnp
import numpy as np

from contrastive_jax import losses, models
from contrastive_jax.training.objectives import base, choices
from contrastive_jax.training.objectives.parts import Parts
from contrastive_jax.training.types import Batch, Metrics, Params


class SuperClass(base.Objective):
  """An image tower and a linear classifier of caption tokens.

  Its state holds the model's collections (`model`) and, with weights by rarity, the
  captions seen (`documents`): how many there were, and in how many of them each token
  occurred. A batch is counted before it is weighted. Evaluation sees the tower's
  features, not the classifier's scores.

  References: Huang et al., "Classification done right for vision-language
  pre-training", 2024. Their code has a residual MLP between tower and classifier.
  """

  has_text = False
  image_method = "features"

  def __init__(self, settings: choices.SuperClass, parts: Parts):
    """Builds the model; see `Parts`."""
    self._settings = settings
    self._parts = parts
    towers = base.create_model(models.create_model, parts)
    self.model = models.Classifier(
      tower=towers.image.clone(parent=None),
      classes=parts.vocab_size,
      dtype=towers.dtype,
    )
    self._views = base.Views(parts.augment, parts.model.image_size)

  def example_batch(self) -> dict[str, np.ndarray]:
    """See `base.Objective`."""
    captions = self._settings.captions_per_example
    return base.example_batch(self._parts, captions)

  def init(self, key: jax.Array, batch: Batch) -> tuple[Params, Params]:
    """Parameters and the state."""
    del batch
    side = self._parts.model.image_size
    variables = self.model.init(key, jnp.zeros((2, side, side, 3), jnp.float32))
    params, state = base.parameters_and_state(self._parts, variables)
    if self._settings.weighted:
      state["documents"] = {
        "counts": jnp.zeros(self._parts.vocab_size, jnp.float32),
        "seen": jnp.zeros((), jnp.float32),
      }
    return params, state

  def loss(
    self, params: Params, state: Params, batch: Batch, key: jax.Array
  ) -> tuple[jax.Array, tuple[Params, Metrics]]:
    """The cross-entropy of a batch, averaged over images and captions."""
    ignored = self._parts.special_ids
    images = self._views.random(
      jax.random.fold_in(key, base.AUGMENT), batch["image"]
    )
    logits, collections = self._scores(
      params, state["model"], images, jax.random.fold_in(key, base.DROPOUT)
    )
    state = {**state, "model": collections}
    captions = jnp.unstack(batch["tokens"], axis=1)
    weights = None
    if self._settings.weighted:
      documents = state["documents"]
      counts = documents["counts"] + sum(
        losses.count_documents(
          tokens, self._parts.vocab_size, ignored_ids=ignored
        )
        for tokens in captions
      )
      seen = documents["seen"] + float(len(captions) * len(captions[0]))
      state["documents"] = {"counts": counts, "seen": seen}
      weights = losses.inverse_document_frequency(counts, seen)
    values = [
      losses.superclass(
        logits, tokens, token_weights=weights, ignored_ids=ignored
      )
      for tokens in captions
    ]
    best = jnp.argmax(logits, axis=1)[:, None, None]
    found = jnp.any(batch["tokens"] == best, axis=(1, 2))
    metrics = {"token_accuracy": jnp.mean(found.astype(jnp.float32))}
    return jnp.mean(jnp.stack(values)), (state, metrics)

  def _scores(self, params, state, images, key):
    """Scores [N, V] and the new collections, in microbatches."""

    def encode(params, state, part, key):
      logits, updates = self.model.apply(
        {"params": params, **state},
        part["image"],
        train=True,
        rngs={"dropout": key},
        mutable=list(state),
      )
      return {"logits": logits}, {**state, **updates}

    out, collections = base.encode_in_parts(
      encode, params, state, {"image": images}, key, self._parts.microbatches
    )
    return out["logits"], collections
