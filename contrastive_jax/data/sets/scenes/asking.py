"""Chooses which questions are asked, so that they do not tell their answers."""

import collections
import random
from collections.abc import Iterable, Mapping, Sequence

from contrastive_jax.data.sets.scenes import claims, graph, questions

# For a key with at most so many answers it is drawn by lot which of the rarest
# ones comes next, and waited for: whoever took what comes first would have the
# commoner ones once more in every block. Of the many colours and shapes none is
# commoner, and a scene has but few: each may come once more than the rarest.
_FEW = 5
_OFTEN_IN_ONE = 2


def ask(
  images: Sequence[claims.Scenes],
  rng: random.Random,
  *,
  number: int,
  unseen: bool,
) -> list[list[dict[str, str]]]:
  """Asks about scenes.

  Args:
    images: a block of them: answers are balanced among these.
    rng: of the draws.
    number: of questions about each.
    unseen: whether all questions are to be about things in
      `graph.HELD_OUT`; otherwise none is.

  Returns:
    For each image the fields of its questions, all different.
  """
  tally = _Tally(rng)
  asked: collections.Counter[questions.Family] = collections.Counter()
  out = []
  for (scene,) in images:
    offers = _offers(scene, rng, unseen)
    chosen: dict[str, questions.Question] = {}
    while len(chosen) < number:
      question = None
      for family in _by_need(asked, rng):
        question = _choose(offers[family], chosen, tally, rng)
        if question is not None:
          asked[family] += 1
          break
      question = question or _any(offers.values(), chosen, tally, rng)
      if question is None:
        # Other words for what can be asked about a scene of few things.
        offers = _offers(scene, rng, unseen)
        continue
      chosen[question.text] = question
      tally.add(question)
    out.append(rng.sample([q.fields for q in chosen.values()], number))
  return out


def _offers(
  scene: graph.Scene, rng: random.Random, unseen: bool
) -> dict[questions.Family, list[questions.Question]]:
  """Questions that each family can ask about a scene."""
  asker = questions.Asker(scene, rng, unseen)
  return {
    family: [q for q in family(asker) if q.unseen == unseen]
    for family in questions.FAMILIES
  }


class _Tally:
  """How often questions of each key had each answer, and which is next."""

  def __init__(self, rng: random.Random):
    self._rng = rng
    self._counts: dict[tuple[str, ...], dict[str, int]] = {}
    self._next: dict[tuple[str, ...], str] = {}

  def add(self, question: questions.Question) -> None:
    """Counts a question that is asked."""
    counts = self._of(question)
    counts[question.answer] += 1
    least = min(counts.values())
    self._next[question.key] = self._rng.choice(
      [answer for answer, number in counts.items() if number == least]
    )

  def excess(self, question: questions.Question) -> int:
    """How much oftener its answer was had than the rarest one."""
    counts = self._of(question)
    return counts[question.answer] - min(counts.values())

  def fits(self, question: questions.Question) -> bool:
    """Whether asking it leaves the answers balanced."""
    if len(question.choices) > _FEW:
      return self.excess(question) <= 1
    self._of(question)
    return question.answer == self._next[question.key]

  def _of(self, question: questions.Question) -> dict[str, int]:
    if question.key not in self._counts:
      self._counts[question.key] = dict.fromkeys(question.choices, 0)
      self._next[question.key] = self._rng.choice(question.choices)
    return self._counts[question.key]


def _by_need(
  asked: Mapping[questions.Family, int], rng: random.Random
) -> list[questions.Family]:
  """The families, first the one that was asked too rarely."""
  weights = questions.FAMILIES
  return sorted(
    weights,
    key=lambda family: (asked[family] + 2 * rng.random()) / weights[family],
  )


def _choose(
  offers: Iterable[questions.Question],
  chosen: dict[str, questions.Question],
  tally: _Tally,
  rng: random.Random,
) -> questions.Question | None:
  """A new question that leaves the answers balanced, of any key alike."""
  often = collections.Counter(q.key for q in chosen.values())
  by_key: dict[tuple[str, ...], list[questions.Question]] = {}
  for question in offers:
    if (
      question.text not in chosen
      and often[question.key] < _OFTEN_IN_ONE
      and tally.fits(question)
    ):
      by_key.setdefault(question.key, []).append(question)
  if not by_key:
    return None
  return rng.choice(by_key[rng.choice(tuple(by_key))])


def _any(
  offers: Iterable[Iterable[questions.Question]],
  chosen: dict[str, questions.Question],
  tally: _Tally,
  rng: random.Random,
) -> questions.Question | None:
  """A new question that does the least harm to the balance."""
  left = [q for part in offers for q in part if q.text not in chosen]
  if not left:
    return None
  least = min(tally.excess(question) for question in left)
  return rng.choice([q for q in left if tally.excess(q) == least])
