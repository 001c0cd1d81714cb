"""Tasks of a pre-trained fusion model: answers, statements on pairs, entailment.

Each trains with momentum distillation: beside the right answer the targets are a
share alpha of what the momentum model says. A run begins with the parameters of
an earlier one, `config.initial.workdir` (`training.runs.initial_weights`).
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from contrastive_jax import losses
from contrastive_jax.models import answering
from contrastive_jax.training.objectives import base, fusion_base
from contrastive_jax.training.objectives.parts import Parts
from contrastive_jax.training.types import Batch, Metrics, Params


class Task(base.Objective):
  """Base of the tasks; its state is the momentum model and the steps made."""

  task: str

  def __init__(self, settings: Any, parts: Parts):
    """Builds the model; see `Parts`."""
    self._settings = settings
    self._parts = parts
    self.model = fusion_base.create_model(parts, self.task)
    self._views = base.Views(parts.augment, parts.model.image_size)

  def init(self, key: jax.Array, batch: Batch) -> tuple[Params, Params]:
    """Parameters at random, and the state."""
    side = self._parts.model.image_size
    pair = (2,) if self.task == "nlvr2" else ()
    length = self._parts.model.context_length
    params = self.model.init(
      key,
      jnp.zeros((*pair, 2, side, side, 3), jnp.float32),
      jnp.ones((2, length), jnp.int32),
    )["params"]
    state: dict[str, Any] = {"count": jnp.zeros((), jnp.int32)}
    if getattr(self._settings, "alpha", 0.0):
      state["momentum"] = jax.tree.map(jnp.copy, params)
    return params, state

  def loss(
    self, params: Params, state: Params, batch: Batch, key: jax.Array
  ) -> tuple[jax.Array, tuple[Params, Metrics]]:
    """The mean loss of a batch."""
    batch = {**batch, "image": self._augmented(batch["image"], key)}
    student = fusion_base.Applied(self.model, params, key)
    logits = self.logits(student, batch)
    alpha = fusion_base.ramped_alpha(
      self._settings, self._parts.steps, state["count"]
    )
    state = {**state, "count": state["count"] + 1}
    teacher_logits = None
    if "momentum" in state:
      state["momentum"] = base.averaged(
        params, state["momentum"], self._settings.momentum
      )
      teacher = fusion_base.Applied(
        self.model, state["momentum"], jax.random.fold_in(key, base.MOMENTUM)
      )
      teacher_logits = jax.lax.stop_gradient(self.logits(teacher, batch))
    value, metrics = self.mean_loss(logits, teacher_logits, batch, alpha)
    return value, (state, {"alpha": alpha, **metrics})

  def _augmented(self, images: jax.Array, key: jax.Array) -> jax.Array:
    return self._views.random(jax.random.fold_in(key, base.AUGMENT), images)

  def logits(self, applied: fusion_base.Applied, batch: Batch) -> jax.Array:
    """Logits [B * Q, classes] of a batch whose images are prepared."""
    states, _ = self.states(applied, batch)
    return applied.apply(states, method="classify")

  def mean_loss(
    self,
    logits: jax.Array,
    teacher_logits: jax.Array | None,
    batch: Batch,
    alpha: jax.Array,
  ) -> tuple[jax.Array, Metrics]:
    """The mean loss, and metrics."""
    right = batch["label"].reshape(-1)
    log_p = jax.nn.log_softmax(logits)
    values = -jnp.take_along_axis(log_p, right[:, None], axis=1)[:, 0]
    if teacher_logits is not None:
      soft = losses.distillation(logits, teacher_logits)
      values = (1.0 - alpha) * values + alpha * soft
    accuracy = jnp.mean(jnp.argmax(logits, axis=1) == right)
    return jnp.mean(values), {"accuracy": accuracy}

  def states(
    self, applied: fusion_base.Applied, batch: Batch
  ) -> tuple[jax.Array, jax.Array]:
    """Fused states [B * Q, T, d] of Q texts an image, and their `valid`."""
    images, tokens = self._shown(batch)
    # Every image is encoded once, whatever is asked of it.
    image = self._encode(applied, images)
    text = applied.text(tokens.reshape(-1, tokens.shape[-1]))
    states = applied.fuse([(text["tokens"], text["valid"])], image)
    return states, text["valid"]

  def _encode(self, applied: fusion_base.Applied, images: jax.Array) -> Any:
    return applied.image(images)["tokens"]

  def _shown(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Images and tokens; nothing is told of inputs that are left out."""
    images, tokens = batch["image"], batch["tokens"]
    if self._settings.inputs == "text":
      images = jnp.zeros_like(images)
    elif self._settings.inputs == "image":
      tokens = tokens.at[..., 1:].set(self.model.pad_id)
    return images, tokens

  def plain(self, images: jax.Array) -> jax.Array:
    """uint8 images, one or two of an example, as the model takes them."""
    return self._views.plain(images)


class Entailment(Task):
  """Whether an image entails a hypothesis, contradicts it, or neither."""

  task = "entailment"


class Nlvr2(Task):
  """Whether a statement on two images is true."""

  task = "nlvr2"

  def _encode(self, applied: fusion_base.Applied, images: jax.Array) -> Any:
    """Tokens of the first and the second images of [B, 2, ...]."""
    both = applied.image(images.reshape(-1, *images.shape[2:]))["tokens"]
    both = both.reshape(-1, 2, *both.shape[1:])
    return both[:, 0], both[:, 1]

  def plain(self, images: jax.Array) -> jax.Array:
    """uint8 [N, 2, H, W, 3] -> float32 [N, 2, S, S, 3]."""
    flat = self._views.plain(images.reshape(-1, *images.shape[2:]))
    return flat.reshape(*images.shape[:2], *flat.shape[1:])

  def _augmented(self, images: jax.Array, key: jax.Array) -> jax.Array:
    flat = super()._augmented(images.reshape(-1, *images.shape[2:]), key)
    return flat.reshape(*images.shape[:2], *flat.shape[1:])


class TextAssignment(Nlvr2):
  """NLVR2's further pre-training: which of two images a text belongs to.

  Of the pairs of image and text of a batch each gets another row's image, in
  random order (labels 0 and 1), or, in a third of the cases, its text gets two
  other rows' images (label 2). The other images are drawn by similarity to its
  own, a cosine of the images' first tokens over .07.

  Reference: Li et al., "Align before fuse", 2021, section 5.
  """

  _TEMPERATURE = 0.07

  def loss(
    self, params: Params, state: Params, batch: Batch, key: jax.Array
  ) -> tuple[jax.Array, tuple[Params, Metrics]]:
    """The mean cross-entropy over the three classes."""
    images = self._views.random(
      jax.random.fold_in(key, base.AUGMENT), batch["image"]
    )
    tokens = batch["tokens"][:, 0]
    applied = fusion_base.Applied(self.model, params, key)
    own = applied.image(images)["tokens"]
    cls = jax.lax.stop_gradient(own[:, 0].astype(jnp.float32))
    cls /= jnp.maximum(jnp.linalg.norm(cls, axis=1, keepdims=True), 1e-6)
    groups = batch["concept_id"]
    draws = jax.random.split(jax.random.fold_in(key, base.NEGATIVES), 3)
    similarity = cls @ cls.T / self._TEMPERATURE
    other, valid = losses.sample_hard_negatives(
      draws[0], similarity, group_ids=groups
    )
    # The second is another one than the first where there are two.
    distinct = jnp.where(
      jax.nn.one_hot(other, similarity.shape[0], dtype=bool), -1e9, similarity
    )
    third, _ = losses.sample_hard_negatives(
      draws[1], distinct, group_ids=groups
    )
    label = jax.random.randint(draws[2], other.shape, 0, 3)

    def choose(*cases):
      """Returns the one of three candidates [B, ...] at the label."""
      stacked = jnp.stack(cases)
      return jax.vmap(lambda rows, i: rows[i], in_axes=(1, 0))(stacked, label)

    near, far = own[other], own[third]
    first, second = choose(own, near, near), choose(near, own, far)
    text = applied.text(tokens)
    states = applied.fuse([(text["tokens"], text["valid"])], (first, second))
    logits = applied.apply(states, method="assign")
    log_p = jax.nn.log_softmax(logits)
    values = -jnp.take_along_axis(log_p, label[:, None], axis=1)[:, 0]
    total = jnp.maximum(jnp.sum(valid), 1)
    right = (jnp.argmax(logits, axis=1) == label) & valid
    state = {**state, "count": state["count"] + 1}
    return jnp.sum(jnp.where(valid, values, 0.0)) / total, (
      state,
      {"accuracy": jnp.sum(right) / total},
    )


class Vqa(Task):
  """Answers to questions on an image, by a decoder that writes them."""

  task = "vqa"

  def logits(self, applied: fusion_base.Applied, batch: Batch) -> jax.Array:
    """[B * Q * K, A - 1, V], of each answer's tokens after the first."""
    states, valid = self.states(applied, batch)
    answers = batch["answers"]
    rows = answers.reshape(-1, answers.shape[-1])
    return applied.apply(
      rows[:, :-1],
      states,
      valid,
      method="decode",
      train=applied.trains,
    )

  def mean_loss(
    self,
    logits: jax.Array,
    teacher_logits: jax.Array | None,
    batch: Batch,
    alpha: jax.Array,
  ) -> tuple[jax.Array, Metrics]:
    """Weighted sum over a question's answers of the sum over their tokens."""
    answers = batch["answers"]
    rows = answers.reshape(-1, answers.shape[-1])
    target = rows[:, 1:]
    counted = target != self.model.pad_id
    soft: dict[str, Any] = {}
    if teacher_logits is not None:
      soft = {"teacher_logits": teacher_logits, "alpha": alpha}
    values = losses.masked_language_modeling(logits, target, counted, **soft)
    weights = batch["weights"].reshape(-1)
    right = jnp.argmax(logits, axis=-1) == target
    whole = jnp.all(right | ~counted, axis=1)
    total = jnp.maximum(jnp.sum(weights), 1e-6)
    questions = answers.shape[0] * answers.shape[1]
    return jnp.sum(jnp.sum(values, axis=1) * weights) / questions, {
      "accuracy": jnp.sum(whole * weights) / total
    }

  def question_states(
    self, params: Params, images: jax.Array, tokens: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """uint8 [B, H, W, 3], int32 [B, Q, T] -> states [B * Q, T, d], `valid`."""
    applied = fusion_base.Applied(self.model, params)
    batch: Mapping[str, Any] = {"image": self.plain(images), "tokens": tokens}
    return self.states(applied, batch)

  def rank(
    self,
    params: Params,
    states: jax.Array,
    valid: jax.Array,
    candidates: jax.Array,
    count: int,
  ) -> jax.Array:
    """The likeliest of the candidate answers: int32 [N]; see `answering.rank`."""
    return answering.rank(
      fusion_base.Applied(self.model, params).apply,
      states,
      valid,
      candidates,
      count,
      pad_id=self.model.pad_id,
    )

  def generate(
    self,
    params: Params,
    states: jax.Array,
    valid: jax.Array,
    *,
    start_id: int,
    end_id: int,
    length: int,
  ) -> jax.Array:
    """The answer written freely: int32 [N, length]; see `answering.generate`."""
    return answering.generate(
      fusion_base.Applied(self.model, params).apply,
      states,
      valid,
      start_id=start_id,
      end_id=end_id,
      length=length,
      pad_id=self.model.pad_id,
    )
