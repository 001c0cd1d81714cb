"""What is measured of a trained image-text model, on its data's splits.

Every function returns flat names -> numbers (design contract C9). What a data
set lacks is left out: no unseen style in a user's folder, no classification
without labels.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from contrastive_jax import evaluation
from contrastive_jax.data import pipeline, sources
from contrastive_jax.training import objectives
from contrastive_jax.training.distributed import sharding
from contrastive_jax.training.trainer import state as state_lib

_SHOTS = (1, 2, 4, 5, 8, 16)


@dataclasses.dataclass(frozen=True)
class Embedded:
  """A split's image embeddings [N, d] with what the images show."""

  images: np.ndarray
  concept_ids: np.ndarray
  labels: np.ndarray


class Encoder:
  """Embeds splits and texts with one model, in batches of one shape."""

  def __init__(
    self,
    objective: objectives.Objective,
    data: sources.PairData,
    *,
    context_length: int,
    batch_size: int,
    mesh: jax.sharding.Mesh,
  ):
    """Prepares the two jitted encoders; they split a batch over the mesh."""
    rows = sharding.batch_sharding(mesh)

    def split(encode):
      def fn(params, state, x):
        return encode(params, state, jax.lax.with_sharding_constraint(x, rows))

      # On every device, so that every host can look at all of it.
      return jax.jit(fn, out_shardings=sharding.replicated(mesh))

    self.has_text = objective.has_text
    self.trains_images = "image" not in getattr(objective.model, "frozen", ())
    self._encode_image, self._mesh = objective.encode_image, mesh
    self._image_fn = split(objective.encode_image)
    self._probe_fn = split(objective.probe_features)
    self._text_fn = split(objective.encode_text)
    self._data = data
    self._context_length = context_length
    self._batch_size = batch_size

  def images(
    self,
    state: state_lib.TrainState,
    source: sources.Source,
    *,
    concatenated: bool = False,
  ) -> Embedded:
    """Embeds a split; `concatenated` with all heads, side by side."""
    fn = self._probe_fn if concatenated else self._image_fn
    parts = [
      np.asarray(fn(state.eval_params, state.objective_state, images))[:rows]
      for images, rows in pipeline.eval_images(source, self._batch_size)
    ]
    records = [source.fields(i) for i in range(len(source))]
    return Embedded(
      np.concatenate(parts),
      np.array([r["concept_id"] for r in records]),
      np.array([r["label"] for r in records]),
    )

  def fine_tuner(
    self,
    state: state_lib.TrainState,
    *,
    classes: int,
    image_size: int,
    batch_size: int,
  ) -> evaluation.FineTuner:
    """The image encoder, to be trained with a head of so many classes.

    Args:
      state: the model.
      classes: of the head.
      image_size: side of the images.
      batch_size: of its steps, rounded up to a multiple of the devices.

    Returns:
      What fits and scores it, over the mesh.

    Raises:
      ValueError: if the model keeps its image tower as it is.
    """
    if not self.trains_images:
      raise ValueError(
        "fine-tuning needs an image tower that is trained; got"
        " config.model.frozen with image: use a linear probe."
      )
    return evaluation.FineTuner(
      self._encode_image,
      state.eval_params,
      state.objective_state,
      image_shape=(image_size, image_size, 3),
      classes=classes,
      batch_size=batch_size + -batch_size % self._mesh.size,
      mesh=self._mesh,
    )

  def texts(
    self, state: state_lib.TrainState, texts: Sequence[str]
  ) -> np.ndarray:
    """Embeds texts: float32 [N, d]."""
    tokens = self._data.tokenizer.encode(texts, self._context_length)
    parts = []
    for start in range(0, len(tokens), self._batch_size):
      part = tokens[start : start + self._batch_size]
      rows = len(part)
      part = np.pad(part, [(0, self._batch_size - rows), (0, 0)])
      parts.append(
        np.asarray(
          self._text_fn(state.eval_params, state.objective_state, part)
        )[:rows]
      )
    return np.concatenate(parts)


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
  for way, scores in (
    (
      "image_to_text",
      evaluation.retrieval_metrics(
        images.images, texts, images.concept_ids, ids
      ),
    ),
    (
      "text_to_image",
      evaluation.retrieval_metrics(
        texts[asked], images.images, ids[asked], images.concept_ids
      ),
    ),
  ):
    out |= {
      f"{name}/{way}/{key}": float(value)
      for key, value in scores.items()
      if key.startswith("recall") or key == "median_rank"
    }
  return out


def zero_shot(
  encoder: Encoder,
  state: state_lib.TrainState,
  images: Embedded,
  classes: Sequence[str],
  labels: np.ndarray,
  *,
  prompts: Sequence[str],
) -> dict[str, float]:
  """Classification among class names, each in all prompts.

  Args:
    encoder: embeds.
    state: the model.
    images: what is classified.
    classes: the names.
    labels: the right class of each image, a number in `classes`; or of several
      those that it shows, as of `evaluation.average_precision`.
    prompts: texts that go around a name, `{}`.

  Returns:
    `zero_shot/accuracy_top1` and so on; of several
    `zero_shot/mean_average_precision`.
  """
  weights = class_weights(encoder, state, classes, prompts)
  if labels.ndim == 2:
    value = evaluation.mean_average_precision(images.images @ weights.T, labels)
    return {"zero_shot/mean_average_precision": value}
  scores = evaluation.zero_shot_metrics(images.images, weights, labels)
  return {f"zero_shot/{key}": float(v) for key, v in scores.items()}


def class_weights(
  encoder: Encoder,
  state: state_lib.TrainState,
  classes: Sequence[str],
  prompts: Sequence[str],
) -> np.ndarray:
  """What the texts say of each class: float32 [C, d] of unit norm."""
  texts = encoder.texts(
    state, [prompt.format(c) for c in classes for prompt in prompts]
  )
  return evaluation.zero_shot_weights(
    texts.reshape(len(classes), len(prompts), -1)
  )


def classification(
  train: Embedded, validation: Embedded, test: Embedded, *, seed: int
) -> dict[str, float]:
  """Few-shot, linear probe and kNN on the labels of frozen embeddings.

  Classes that the training split lacks, and images without a label, are left
  out. With fewer than two classes there is nothing to report.
  """
  (train_x, train_y), (valid_x, valid_y), (test_x, test_y) = _numbered(
    train, validation, test
  )
  if len(set(train_y.tolist())) < 2 or not len(valid_y) or not len(test_y):
    return {}
  shots = evaluation.few_shot_accuracy(
    train_x,
    train_y,
    test_x,
    test_y,
    key=jax.random.key(seed),
    shots=_SHOTS,
  )
  probe = evaluation.linear_probe(
    train_x, train_y, valid_x, valid_y, test_x, test_y
  )
  knn = evaluation.knn_accuracy(
    train_x, train_y, test_x, test_y, k=min(20, len(train_y))
  )
  out = {f"few_shot/{k}": float(v) for k, v in shots.items()}
  out |= {f"linear_probe/{k}": float(v) for k, v in probe.items()}
  return out | {"knn/accuracy": float(knn["accuracy"])}


def _numbered(
  train: Embedded, *others: Embedded
) -> list[tuple[np.ndarray, np.ndarray]]:
  """Images and numbered labels, of those that have one of the training's."""
  classes = sorted(set(train.labels.tolist()) - {""})
  numbers = {c: i for i, c in enumerate(classes)}

  def select(part: Embedded) -> tuple[np.ndarray, np.ndarray]:
    kept = [i for i, c in enumerate(part.labels.tolist()) if c in numbers]
    labels = [numbers[part.labels[i]] for i in kept]
    return part.images[kept], np.array(labels, np.int64)

  return [select(part) for part in (train, *others)]


def geometry(images: np.ndarray, texts: np.ndarray) -> dict[str, float]:
  """Alignment, uniformity and modality gap of paired embeddings."""
  out = {"geometry/alignment": float(evaluation.alignment(images, texts))}
  if len(images) > 1:  # Uniformity is of pairs.
    out["geometry/uniformity_image"] = float(evaluation.uniformity(images))
    out["geometry/uniformity_text"] = float(evaluation.uniformity(texts))
  gap = evaluation.modality_gap(images, texts)
  return out | {f"geometry/modality_gap_{k}": float(v) for k, v in gap.items()}


def paired_texts(
  encoder: Encoder, state: state_lib.TrainState, source: sources.Source
) -> np.ndarray:
  """The embedding of each image's first caption: float32 [N, d]."""
  return encoder.texts(
    state, [source.fields(i)["captions"][0].text for i in range(len(source))]
  )


def final(
  encoder: Encoder,
  state: state_lib.TrainState,
  data: sources.PairData,
  *,
  seed: int,
  classify: bool = True,
  concatenated: bool = False,
  report: Callable[[str], None] = print,
) -> dict[str, float]:
  """Everything that the data set allows, on its held-out splits.

  Args:
    encoder: embeds.
    state: the model.
    data: the data set.
    seed: of the few-shot draws.
    classify: whether few-shot, probe and kNN are among it, which embed all
      training images.
    concatenated: whether these are among it once more, on the features of all
      heads; their names are `few_shot_concatenated/...` and so on.
    report: receives a line for what is left out.

  Returns:
    Flat names -> numbers.
  """
  out: dict[str, float] = {}
  # When it is first asked for: training images are dear, and of no use without
  # labels.
  embedded = functools.cache(
    lambda split: encoder.images(state, data.splits[split])
  )
  if not encoder.has_text:
    if not len(data.splits.get(sources.TEST, ())):
      report("Left out: everything, because the split test is empty.")
      return out
    return _labelled(data, embedded, seed, report) | _uniformity(
      embedded(sources.TEST).images
    )
  for name, split, gallery, keywords in _retrievals(data):
    if len(data.splits.get(split, ())):
      out |= retrieval(
        encoder,
        state,
        data.splits[split],
        name=name,
        gallery=[data.splits[g] for g in gallery],
        keywords=keywords,
        embedded=embedded(split),
      )
    else:
      report(f"Left out: {name}, because the split {split} is empty.")
  if not len(data.splits.get(sources.TEST, ())):
    return out
  test = embedded(sources.TEST)
  for language in data.languages[1:]:
    out |= retrieval(
      encoder,
      state,
      data.splits[sources.TEST],
      name=f"retrieval_{language}",
      language=language,
      keywords=True,
      embedded=test,
    )
  out |= _zero_shot_of(encoder, state, data, embedded, report)
  if classify:
    out |= _labelled(data, embedded, seed, report)
  if classify and concatenated:
    scores = _labelled(
      data,
      lambda split: encoder.images(
        state, data.splits[split], concatenated=True
      ),
      seed,
      report,
    )
    for name, value in scores.items():
      kind, metric = name.split("/")
      out[f"{kind}_concatenated/{metric}"] = value
  texts = paired_texts(encoder, state, data.splits[sources.TEST])
  return out | geometry(test.images, texts)


def nearest_neighbours(
  encoder: Encoder,
  state: state_lib.TrainState,
  data: sources.PairData,
  *,
  name: str,
) -> dict[str, float]:
  """The accuracy of kNN on the validation split; empty without shared labels."""
  if not _share_labels(data):
    return {}
  train, validation = (
    encoder.images(state, data.splits[split])
    for split in (sources.TRAIN, sources.VALIDATION)
  )
  (train_x, train_y), (x, y) = _numbered(train, validation)
  scores = evaluation.knn_accuracy(
    train_x, train_y, x, y, k=min(20, len(train_y))
  )
  return {f"{name}/accuracy": float(scores["accuracy"])}


def _labelled(
  data: sources.PairData,
  embedded: Callable[[str], Embedded],
  seed: int,
  report: Callable[[str], None],
) -> dict[str, float]:
  """`classification` of the test split, or a line that says why not."""
  scores = (
    classification(
      *map(embedded, (sources.TRAIN, sources.VALIDATION, sources.TEST)),
      seed=seed,
    )
    if _share_labels(data)
    else {}
  )
  if not scores:
    report(
      "Left out: few-shot, linear probe and kNN, because the splits share"
      " fewer than two labels."
    )
  return scores


def _uniformity(images: np.ndarray) -> dict[str, float]:
  if len(images) < 2:
    return {}
  return {"geometry/uniformity_image": float(evaluation.uniformity(images))}


def _retrievals(
  data: sources.PairData,
) -> Iterator[tuple[str, str, tuple[str, ...], bool]]:
  """(name of the metrics, split of the images, of the texts, keywords?)."""
  validation, test = (sources.VALIDATION,), (sources.TEST,)
  yield "retrieval_validation", sources.VALIDATION, validation, True
  yield "retrieval", sources.TEST, test, True
  if "unseen_style" in data.splits:
    everything = (sources.TRAIN, sources.VALIDATION, sources.TEST)
    yield "retrieval_names", sources.TEST, test, False
    yield "retrieval_all_names", sources.TEST, everything, False
    yield "retrieval_unseen_style", "unseen_style", everything, False
    yield "retrieval_unseen_both", "test_unseen_style", test, True


def _zero_shot_of(
  encoder: Encoder,
  state: state_lib.TrainState,
  data: sources.PairData,
  embedded: Callable[[str], Embedded],
  report: Callable[[str], None],
) -> dict[str, float]:
  """Over all names where there is an unseen style; else over the labels."""
  if len(data.splits.get("unseen_style", ())):
    found: dict[int, str] = {}
    for split in (sources.TRAIN, sources.VALIDATION, sources.TEST):
      texts, ids = names_of(data.splits[split])
      found |= dict(zip(ids.tolist(), texts))
    order = sorted(found)
    images = embedded("unseen_style")
    kept = np.flatnonzero(np.isin(images.concept_ids, order))
    if not len(kept):
      report("Left out: zero-shot classification, because there are no names.")
      return {}
    return zero_shot(
      encoder,
      state,
      _rows(images, kept),
      [found[i] for i in order],
      np.searchsorted(order, images.concept_ids[kept]),
      prompts=data.prompts,
    )
  test = embedded(sources.TEST)
  classes = sorted(set().union(*map(_labels, data.splits.values())))
  kept = np.flatnonzero(test.labels != "")
  if len(classes) < 2 or not len(kept):
    report("Left out: zero-shot classification, because there are no labels.")
    return {}
  labelled = _rows(test, kept)
  return zero_shot(
    encoder,
    state,
    labelled,
    classes,
    np.searchsorted(classes, labelled.labels),
    prompts=data.prompts,
  )


def _labels(source: sources.Source) -> set[str]:
  """The labels in a split; no image is decoded."""
  known = getattr(source, "labels", None)
  if known is not None:  # Of millions of records not all are read for it.
    return set(known)
  labels = {str(source.fields(i)["label"]) for i in range(len(source))}
  return labels - {""}


def _share_labels(data: sources.PairData) -> bool:
  """Whether `classification` has something to report."""
  train, validation, test = (
    _labels(data.splits[name]) if name in data.splits else set()
    for name in (sources.TRAIN, sources.VALIDATION, sources.TEST)
  )
  return len(train) > 1 and bool(train & validation) and bool(train & test)


def _rows(embedded: Embedded, rows: np.ndarray) -> Embedded:
  return Embedded(
    embedded.images[rows], embedded.concept_ids[rows], embedded.labels[rows]
  )
