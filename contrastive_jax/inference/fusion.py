"""A trained fusion model: embeds, matches, answers, judges."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from contrastive_jax.data import tasks
from contrastive_jax.inference import pictures as pictures_lib
from contrastive_jax.inference.description import ModelError
from contrastive_jax.inference.model import Classified, Model
from contrastive_jax.models import answering, two_tower

# Answers that are kept by their first token, as published.
_KEPT = 128


class Fusion(Model):
  """A trained fusion model (ALBEF).

  A pre-trained one embeds pictures and texts like any `Model`, and tells whether they
  belong together (`match`); one that was fine-tuned does its task: `answer` (vqa),
  `entails` (entailment) or `compare` (nlvr2).

  Pictures and texts of these are as many, each text about the picture of its row; or
  one picture is given, and all texts are about it.
  """

  @property
  def heads(self) -> tuple[str, ...]:
    """See `Model.heads`; a fine-tuned model embeds nothing and has none."""
    return super().heads if self.description.task == "pretrain" else ()

  def match(self, images: Any, texts: str | Sequence[str]) -> np.ndarray:
    """The probability that a picture and a text belong together: float32 [n].

    Args:
      images: as of `encode_image`.
      texts: one or several.

    Raises:
      ModelError: if the model is not a pre-trained one.
    """
    self._need("pretrain", "match")

    def fn(variables: Any, tokens: jax.Array, images: jax.Array) -> jax.Array:
      logits = self._call(
        variables, self._states(variables, tokens, images)[0], method="match"
      )
      return jax.nn.softmax(logits)[:, 1]

    return self._paired("match", fn, texts, images)

  def answer(
    self,
    images: Any,
    questions: str | Sequence[str],
    *,
    answers: Sequence[str] | None = None,
  ) -> list[str]:
    """Answers to questions about pictures.

    Args:
      images: as of `encode_image`.
      questions: one or several.
      answers: texts to choose among; None is those that the model was trained to
        choose among, and () lets it write freely.

    Raises:
      ModelError: if the model is not one of vqa.
    """
    self._need("vqa", "answer")
    tokenizer = self.tokenizer
    assert tokenizer is not None and tokenizer.start_id is not None
    start_id, end_id = tokenizer.start_id, tokenizer.end_id
    if answers is None:
      answers = self.description.answers
    length = self.description.answer_length
    rows = tokenizer.encode(list(answers), length) if answers else None

    def fn(
      variables: Any,
      tokens: jax.Array,
      images: jax.Array,
      *candidates: jax.Array,
    ) -> jax.Array:
      asked = self._states(variables, tokens, images)
      apply = functools.partial(self._call, variables)
      if candidates:
        return answering.rank(
          apply,
          *asked,
          candidates[0],
          min(_KEPT, len(candidates[0])),
          pad_id=self._pad_id,
        )
      return answering.generate(
        apply,
        *asked,
        start_id=start_id,
        end_id=end_id,
        length=length,
        pad_id=self._pad_id,
      )

    if rows is None:
      written = self._paired("generate", fn, questions, images)
      return [tokenizer.decode(row[1:]) for row in written]
    candidates = jax.device_put(rows, self._everywhere)
    chosen = self._paired("rank", fn, questions, images, candidates)
    return [answers[number] for number in chosen]

  def entails(self, images: Any, hypotheses: str | Sequence[str]) -> Classified:
    """Whether pictures entail texts: contradiction, neutral or entailment.

    Args:
      images: as of `encode_image`.
      hypotheses: one or several.

    Raises:
      ModelError: if the model is not one of entailment.
    """
    self._need("entailment", "entails")
    found = self._paired("classify", self._classes, hypotheses, images)
    names = [tasks.ENTAILMENT_LABELS[i] for i in found.argmax(axis=1)]
    return Classified(names, found)

  def compare(
    self, first: Any, second: Any, statements: str | Sequence[str]
  ) -> np.ndarray:
    """The probability that a statement on two pictures is true: float32 [n].

    Args:
      first: left pictures, as of `encode_image`.
      second: right pictures, as many.
      statements: one or several.

    Raises:
      ModelError: if the model is not one of nlvr2.
    """
    self._need("nlvr2", "compare")
    found = self._paired("compare", self._classes, statements, (first, second))
    return found[:, 1]

  @property
  def _pad_id(self) -> int:
    module: Any = self.module
    return module.pad_id

  def _need(self, task: str, method: str) -> None:
    if self.description.task != task:
      raise ModelError(
        f"{method} needs a model of task {task!r}; got one of"
        f" {self.description.task!r}."
      )

  def _call(self, variables: Any, *args: Any, method: str) -> Any:
    return self.module.apply(variables, *args, method=method)

  def _encode(
    self, side: str, options: dict[str, str], variables: Any, rows: jax.Array
  ) -> jax.Array:
    if side == "image":
      rows = self._normalized(rows)
    found = self._call(variables, rows, method=f"encode_{side}")
    if not options:
      return found["feature"]
    return two_tower.of_head(
      options["head"], found["feature"], found["independent"]
    )

  def _states(
    self, variables: Any, tokens: jax.Array, *images: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Texts that attended to their pictures, and which of their tokens count."""
    text = self._call(variables, tokens, method="encode_text")
    seen = tuple(
      self._call(variables, self._normalized(x), method="encode_image")[
        "tokens"
      ]
      for x in images
    )
    fused = self._call(
      variables,
      text["tokens"],
      text["valid"],
      seen if len(seen) > 1 else seen[0],
      method="fuse",
    )
    return fused, text["valid"]

  def _classes(
    self, variables: Any, tokens: jax.Array, *images: jax.Array
  ) -> jax.Array:
    states, _ = self._states(variables, tokens, *images)
    return jax.nn.softmax(self._call(variables, states, method="classify"))

  def _paired(
    self,
    name: str,
    fn: Callable[..., jax.Array],
    texts: str | Sequence[str],
    images: Any,
    *more: jax.Array,
  ) -> np.ndarray:
    """Outputs of `fn(variables, tokens, *images, *more)` for pairs of rows."""
    texts = [texts] if isinstance(texts, str) else list(texts)
    sides = images if name == "compare" else (images,)
    listed = [self._as_many(pictures_lib.listed(x), len(texts)) for x in sides]
    if (name, "") not in self._functions:
      self._functions[name, ""] = jax.jit(fn, out_shardings=self._everywhere)
    jitted = self._functions[name, ""]

    def parts() -> Iterator[tuple[np.ndarray, ...]]:
      squares = [self._shown(pictures, len(texts)) for pictures in listed]
      yield from zip(self._tokens(texts), *squares)

    return self._outputs(lambda *inputs: jitted(*inputs, *more), parts())

  def _as_many(self, pictures: list[Any], texts: int) -> list[Any]:
    if len(pictures) not in (1, texts):
      raise ValueError(
        f"images must be one or as many as the texts, {texts}; got"
        f" {len(pictures)}."
      )
    return pictures

  def _shown(self, pictures: list[Any], texts: int) -> Iterator[np.ndarray]:
    """The squares of each part of the texts."""
    if len(pictures) == texts:
      yield from self._squares(pictures)
      return
    (square,) = next(self._squares(pictures))
    for start in range(0, max(texts, 1), self.batch_size):
      rows = min(texts - start, self.batch_size)
      yield np.broadcast_to(square, (rows, *square.shape))
