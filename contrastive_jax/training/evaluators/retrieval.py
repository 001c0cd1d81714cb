"""Retrieval between images and names or captions, both ways."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from contrastive_jax import evaluation
from contrastive_jax.data import pipeline, sources
from contrastive_jax.training.evaluators import base
from contrastive_jax.training.evaluators.embeddings import Embedded, Encoder
from contrastive_jax.training.trainer import state as state_lib

_VALIDATION = "retrieval_validation"
_KS = (1, 5, 10)


class RetrievalMeasure(base.Measure):
  """Retrieval on every split that the data set has for it."""

  curves = {
    "image to text R@1": f"{_VALIDATION}/image_to_text/recall_at_1",
    "image to text R@10": f"{_VALIDATION}/image_to_text/recall_at_10",
    "text to image R@10": f"{_VALIDATION}/text_to_image/recall_at_10",
  }

  def __init__(self, run: base.Opened, chosen: Any = None):
    """Takes an opened run."""
    super().__init__(run, chosen)
    self.validates = bool(len(run.data.splits[sources.VALIDATION]))

  def validate(self, state: state_lib.TrainState) -> dict[str, float]:
    """On the validation split, with keywords."""
    split = sources.VALIDATION
    return self._of(state, _VALIDATION, split, (split,), keywords=True)

  def final(self, state: state_lib.TrainState) -> dict[str, float]:
    """On each split, and in each further language on the test split."""
    out: dict[str, float] = {}
    data = self.run.data
    for name, split, gallery, keywords in _retrievals(data):
      if not self.run.lacks(split, name):
        out |= self._of(state, name, split, gallery, keywords=keywords)
    if len(data.splits.get(sources.TEST, ())):
      for language in data.languages[1:]:
        out |= self._of(
          state,
          f"retrieval_{language}",
          sources.TEST,
          (sources.TEST,),
          keywords=True,
          language=language,
        )
    return out

  def headline(self, numbers: Mapping[str, float]) -> dict[str, float]:
    """R@1 both ways."""
    return {k: v for k, v in numbers.items() if k.endswith("/recall_at_1")}

  def _of(
    self,
    state: state_lib.TrainState,
    name: str,
    split: str,
    gallery: Sequence[str],
    *,
    keywords: bool,
    language: str | None = None,
  ) -> dict[str, float]:
    run = self.run
    return retrieval(
      run.encoder,
      state,
      run.data.splits[split],
      name=name,
      gallery=[run.data.splits[g] for g in gallery],
      language=language,
      keywords=keywords,
      embedded=run.images(state, split),
      hits=run.hits,
    )


def names_of(
  source: sources.Source,
  language: str | None = None,
  *,
  keywords: bool = False,
) -> tuple[list[str], np.ndarray]:
  """The distinct names in a split with the ids of what they name.

  Args:
    source: the split.
    language: of the names; None is the first that an example has.
    keywords: whether each name is followed by the example's keywords.

  Returns:
    Texts, and the concept id of each; in order of the ids.
  """
  found: dict[tuple[int, str], None] = {}
  for i in range(len(source)):
    record = source.fields(i)
    names = [c for c in record["captions"] if c.kind == "name"]
    wanted = names[0].language if language is None and names else language
    words = [
      c.text
      for c in record["captions"]
      if keywords and c.kind == "keyword" and c.language == wanted
    ]
    for caption in names:
      if caption.language == wanted:
        text = pipeline.full_caption(caption.text, words)
        found[int(record["concept_id"]), text] = None
  rows = sorted(found)
  return [t for _, t in rows], np.array([c for c, _ in rows], np.int64)


def retrieval(
  encoder: Encoder,
  state: state_lib.TrainState,
  source: sources.Source,
  *,
  name: str,
  gallery: Sequence[sources.Source] | None = None,
  language: str | None = None,
  keywords: bool = False,
  embedded: Embedded | None = None,
  hits: dict[str, base.Hits] | None = None,
) -> dict[str, float]:
  """Retrieval both ways between a split's images and names.

  Args:
    encoder: embeds.
    state: the model.
    source: the split whose images are asked.
    name: first part of the metrics' names.
    gallery: splits whose names are answers; None is this split's own.
    language: of the names.
    keywords: whether the answers are names with keywords.
    embedded: the split's images, if they are embedded already.
    hits: receives those of every recall, under its name.

  Returns:
    `{name}/image_to_text/recall_at_1` and so on; empty if no image has a name
    among the answers (in this language).
  """
  found: dict[tuple[int, str], None] = {}
  for part in gallery or (source,):
    texts, ids = names_of(part, language, keywords=keywords)
    found.update(dict.fromkeys(zip(ids.tolist(), texts)))
  rows = sorted(found)
  ids = np.array([i for i, _ in rows], np.int64)
  images = embedded or encoder.images(state, source)
  asked = np.isin(ids, images.concept_ids)
  if not asked.any():
    return {}
  texts = encoder.texts(state, [t for _, t in rows])
  out = {}
  pictures, names = (images.images, images.concept_ids), (texts, ids)
  for way, (queries, own), (among, others) in (
    ("image_to_text", pictures, names),
    ("text_to_image", (texts[asked], ids[asked]), pictures),
  ):
    ranks = evaluation.retrieval_ranks(queries, among, own, others)
    scores = evaluation.rank_metrics(ranks, len(among), ks=_KS)
    judged = ranks <= len(among)
    for k in _KS:
      key = f"{name}/{way}/recall_at_{k}"
      out[key] = scores[f"recall_at_{k}"]
      if hits is not None:
        hits[key] = base.Hits(ranks[judged] <= k, own[judged])
    out[f"{name}/{way}/median_rank"] = scores["median_rank"]
  return out


def _retrievals(
  data: sources.PairData,
) -> Iterator[tuple[str, str, tuple[str, ...], bool]]:
  """(name of the metrics, split of the images, of the texts, keywords?)."""
  validation, test = (sources.VALIDATION,), (sources.TEST,)
  yield _VALIDATION, sources.VALIDATION, validation, True
  yield "retrieval", sources.TEST, test, True
  if "unseen_style" in data.splits:
    everything = (sources.TRAIN, sources.VALIDATION, sources.TEST)
    yield "retrieval_names", sources.TEST, test, False
    yield "retrieval_all_names", sources.TEST, everything, False
    yield "retrieval_unseen_style", "unseen_style", everything, False
    yield "retrieval_unseen_both", "test_unseen_style", test, True
