"""Visual question answering: VQA v2, Visual Genome, ALBEF's own files."""

import collections
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from contrastive_jax.data import sources, tasks
from contrastive_jax.data.sets.folder.folder_rows import DataError
from contrastive_jax.data.sets.official import _files, _questions, _rows

_ANSWERS = '["yes", "no"]'


def load_vqa(
  opening: _rows.Opening,
  *,
  annotations: Mapping[str, Any] | None = None,
  visual_genome: _files.Path | None = None,
  image_data: _files.Path | None = None,
  answers: Sequence[str] | _files.Path | None = None,
  min_count: int = 9,
  answer_splits: Sequence[str] = (sources.TRAIN,),
) -> tasks.TaskData:
  """Opens questions about images that others publish.

  Beside the fields of its task a record has `question_id` (the data set's, or
  else the record's `index`), `image_id` (the number of its image in all of the
  data: records of an image follow each other, so that it need be encoded but
  once) and `dataset` ("vqa" or "vg"). `index` is the number of the question
  among all rows. The `kind` of a question of VQA v2 is the type of its answer
  ("yes_no", "number" or "other"), else "". Answers are as the official scoring
  takes them; the most common one, as VQA v2 names it, comes first. The weight
  of one is the share of the annotators who gave it, and `count` is that share
  of ten. An answer of Visual Genome is one person's: its weight is .5, as in
  ALBEF, and its count 10, so that scoring takes it for the right one. Questions
  without annotations, as those of a test split, have no answers.

  ALBEF trains on the validation questions too: its `path` is
  `{"train": ["vqa_train.json", "vqa_val.json", "vg_qa.json"]}`. COCO's images
  are in the folder of the images or in folders such as `train2014`, Visual
  Genome's in it, in `VG_100K` or in `VG_100K_2`. Or each data set has a folder,
  as {"vqa": FOLDER, "vg": FOLDER}.

  Args:
    opening: what is opened.
    annotations: of VQA v2, the files of a split if they are elsewhere, as many
      as those of its questions.
    visual_genome: of VQA v2, a `question_answers.json` to train on as well.
    image_data: `image_data.json` of Visual Genome, if it is elsewhere.
    answers: the candidates, or a JSON list of them such as ALBEF's
      `answer_list.json`, which is also found beside the training file. Without
      one they are counted.
    min_count: how many questions a candidate is the first answer of. With 9,
      train and validation of VQA v2 together give the 3,129 that are usual.
    answer_splits: where candidates are counted. Visual Genome is left out where
      there are other questions.

  Raises:
    DataError: a file cannot be used, or too many rows.
    ValueError: an argument is wrong, or is not for the format.
  """
  format = opening.format
  if min_count < 1:
    raise ValueError(f"min_count must be at least 1, got {min_count}.")
  for name, value, formats in (
    ("annotations", annotations, ("vqa_v2",)),
    ("visual_genome", visual_genome, ("vqa_v2",)),
    ("image_data", image_data, ("vqa_v2", "visual_genome")),
  ):
    if value is not None and format not in formats:
      raise ValueError(
        f"{name} is for the format {' or '.join(formats)}, got {format!r}."
      )
  make = _questions.Answers()
  if format == "albef":
    parts = opening.json_parts(
      "a list", lambda row: _questions.albef(row, make)
    )
    answers = _beside(answers, opening.files)
  elif format == "visual_genome":
    parts = opening.parts(
      lambda path: _questions.genome(path, image_data, make)
    )
  else:
    parts = _vqa_v2(opening.files, annotations, make)
    if visual_genome is not None:
      part = _questions.genome(pathlib.Path(visual_genome), image_data, make)
      parts.setdefault(sources.TRAIN, []).append(part)
  rows = opening.read(_files.in_order(parts))
  for split, found in rows.items():
    unanswered = sum(not row.fields["answers"] for row in found)
    if split == sources.TRAIN and unanswered:
      raise DataError(
        f"{unanswered:,} of {len(found):,} training questions have no answers:"
        " their annotations are missing."
      )
    if unanswered:
      opening.rules.report(
        f"Note: {unanswered:,} of {len(found):,} questions of the split"
        f" {split!r} have no answers: they cannot be scored here."
      )
  if answers is None:
    candidates = _counted(rows, answer_splits, min_count)
  else:
    candidates = _given(answers, make.normalize)
  return opening.task_data(
    rows, task="vqa", name=format, answers=candidates, record=_record
  )


def _record(row: _rows.Row) -> dict[str, Any]:
  record = _rows.labelled(row)
  if record["question_id"] is None:
    record["question_id"] = row.index
  return record


def _vqa_v2(
  files: Mapping[str, list[pathlib.Path]],
  annotations: Mapping[str, Any] | None,
  make: _questions.Answers,
) -> _rows.Parts:
  named = {} if annotations is None else _files.find(annotations, {})
  if not named.keys() <= files.keys():
    raise ValueError(
      f"annotations must be of the splits {', '.join(files)}, got"
      f" {', '.join(named)}."
    )
  parts: _rows.Parts = {}
  for split, questions in files.items():
    beside: Sequence[pathlib.Path | None] = named.get(split) or [
      _questions.annotations_of(path) for path in questions
    ]
    if len(beside) != len(questions):
      raise ValueError(
        f"annotations must have {len(questions)} file(s) for the split"
        f" {split!r}, got {len(beside)}."
      )
    parts[split] = []
    for question_file, annotation_file in zip(questions, beside):
      parts[split] += _questions.vqa_v2(question_file, annotation_file, make)
  return parts


def _beside(
  answers: Sequence[str] | _files.Path | None,
  files: Mapping[str, list[pathlib.Path]],
) -> Sequence[str] | _files.Path | None:
  """The candidates, or ALBEF's list of them beside its first file."""
  if answers is None:
    first = next(iter(files.values()))[0]
    path = first.with_name("answer_list.json")
    if path.is_file():
      return path
  return answers


def _given(
  answers: Sequence[str] | _files.Path, normalize: Callable[[str], str]
) -> tuple[str, ...]:
  """Candidates from a list or a file, each once."""
  what = "answers"
  listed: Any = answers
  if isinstance(answers, (str, os.PathLike)):
    path = pathlib.Path(answers)
    what, listed = str(path), _files.load_json(path, _ANSWERS)
  if not isinstance(listed, (list, tuple)) or not all(
    isinstance(text, str) and text.strip() for text in listed
  ):
    raise DataError(f"{what} must be a list of texts, {_ANSWERS}.")
  if not listed:
    raise DataError(f"{what} must have at least one answer, {_ANSWERS}.")
  return tuple(dict.fromkeys(normalize(text) for text in listed))


def _counted(
  rows: Mapping[str, Iterable[_rows.Row]],
  splits: Sequence[str],
  min_count: int,
) -> tuple[str, ...]:
  """The first answers of enough questions, the most frequent one first."""
  counts: dict[str, collections.Counter[str]] = collections.defaultdict(
    collections.Counter
  )
  for split in splits:
    for row in rows.get(split, ()):
      if row.fields["answers"]:
        counts[row.fields["dataset"]][row.fields["answers"][0].text] += 1
  # Visual Genome's answers are whole phrases, which VQA's scoring never meets.
  if len(counts) > 1:
    counts.pop("vg", None)
  total: collections.Counter[str] = sum(counts.values(), collections.Counter())
  if not total:
    return ()  # Nothing is to be ranked, as in a test split alone.
  ordered = sorted(total.items(), key=lambda item: (-item[1], item[0]))
  candidates = tuple(text for text, count in ordered if count >= min_count)
  if not candidates:
    raise DataError(
      f"No answer is the first one of {min_count} questions (min_count); the"
      f" most frequent, {ordered[0][0]!r}, is of {ordered[0][1]}."
    )
  return candidates
