"""Images and texts in one set, where a gap between the modalities matters."""

import numpy as np

from contrastive_jax import evaluation
from contrastive_jax.data import sources
from contrastive_jax.training.evaluators import base, geometry
from contrastive_jax.training.trainer import state as state_lib

_KS = (1, 10)


class MixedMeasure(base.Measure):
  """Clusters of images and texts together, and search among both."""

  def final(self, state: state_lib.TrainState) -> dict[str, float]:
    """`mixed/...`, and without each modality's mean `mixed_centred/...`.

    As many clusters as the test split has labels are made of its images and their
    first captions; `homogeneity`, `completeness` and `v_measure` compare them with
    the labels. A thing's first caption then searches among images of every other
    thing and second captions of the rest: `recall_at_K`, and of the queries whose
    answer is an image or a text alone `images_recall_at_K` and `texts_recall_at_K`.
    """
    run = self.run
    if run.lacks(sources.TEST, "images and texts in one set"):
      return {}
    source = run.data.splits[sources.TEST]
    images = run.images(state, sources.TEST)
    texts = geometry.paired_texts(run.encoder, state, source)
    second = _second_captions(source)
    others = texts[:0]
    if second:
      others = run.encoder.texts(state, [text for _, text in second])
    rows = np.array([row for row, _ in second], np.int64)

    def measured(images_of, texts_of):
      return mixed(
        images_of(images.images),
        texts_of(texts),
        images.concept_ids,
        images.labels,
        others=texts_of(others),
        other_rows=rows,
      )

    found = measured(np.asarray, np.asarray)
    out = {f"mixed/{name}": value for name, value in found.items()}
    if self.chosen.centred:
      # The means are of things that are not asked for.
      held_out = run.data.splits[sources.VALIDATION]
      if not len(held_out):
        run.report(
          "Left out: mixed_centred, because the split validation is empty."
        )
        return out
      means = (
        run.images(state, sources.VALIDATION).images,
        geometry.paired_texts(run.encoder, state, held_out),
      )
      found = measured(
        lambda x: evaluation.center(x, means[0]),
        lambda x: evaluation.center(x, means[1]) if len(x) else x,
      )
      out |= {f"mixed_centred/{name}": value for name, value in found.items()}
    return out


def mixed(
  images: np.ndarray,
  texts: np.ndarray,
  concept_ids: np.ndarray,
  labels: np.ndarray,
  *,
  others: np.ndarray,
  other_rows: np.ndarray,
) -> dict[str, float]:
  """Numbers of images [N, d] and texts [N, d] in one set; see `MixedMeasure`.

  Args:
    images: of the test split.
    texts: their first captions.
    concept_ids: [N] the things.
    labels: [N] strings, "" where there is none.
    others: [M, d] second captions.
    other_rows: [M] whose they are.
  """
  out: dict[str, float] = {}
  known = np.array([bool(label) for label in labels.tolist()], bool)
  classes = np.unique(labels[known])
  if len(classes) > 1:
    both = np.concatenate([images[known], texts[known]])
    clusters = evaluation.k_means(both, len(classes))
    out |= evaluation.v_measure(np.tile(labels[known], 2), clusters)
  things, first = np.unique(concept_ids, return_index=True)
  described = set(concept_ids[other_rows].tolist())
  written = np.array(
    [i % 2 == 1 and t in described for i, t in enumerate(things.tolist())],
    bool,
  )
  if not written.any():
    return out
  as_text = np.isin(concept_ids, things[written])
  kept = np.isin(concept_ids[other_rows], things[written])
  gallery = np.concatenate([images[~as_text], others[kept]])
  ids = np.concatenate([concept_ids[~as_text], concept_ids[other_rows[kept]]])
  ranks = evaluation.retrieval_ranks(texts[first], gallery, things, ids)
  for kind, chosen in (("", ...), ("images_", ~written), ("texts_", written)):
    numbers = evaluation.rank_metrics(ranks[chosen], len(gallery), ks=_KS)
    out |= {f"{kind}recall_at_{k}": numbers[f"recall_at_{k}"] for k in _KS}
  return out


def _second_captions(source: sources.Source) -> list[tuple[int, str]]:
  """Row and text of every example that has another caption than its first."""
  found = []
  for row in range(len(source)):
    first, *rest = (c.text for c in source.fields(row)["captions"])
    found += [(row, text) for text in rest if text != first][:1]
  return found
