"""Data of the tasks of fusion models: records, and whole data sets.

Every record is a mapping with `image` (uint8 [S, S, 3]) and `index` (stable number
of the example in its data set), and beside them, by task:

| task | fields |
|---|---|
| `vqa` | `question`, `answers` (a tuple of `Answer`), `kind` of question |
| `nlvr2` | `second_image` (as `image`), `statement`, `label` (0 false, 1 true), `kind` |
| `entailment` | `hypothesis`, `label` (a number in `ENTAILMENT_LABELS`), `kind` |

Records may have `image_id`, and those of `nlvr2` `second_image_id`: records of
equal ids show the same images, and may be asked for together. `kind` is a text
by which records are also scored in groups; "" if there is none.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from contrastive_jax.data import sources

if TYPE_CHECKING:
  from contrastive_jax.data.text import tokenizer as tokenizer_lib

# The field of a record that holds its text, by task.
TEXT_FIELDS = {
  "vqa": "question",
  "nlvr2": "statement",
  "entailment": "hypothesis",
}
ENTAILMENT_LABELS = ("contradiction", "neutral", "entailment")


class Answer(NamedTuple):
  """An answer that annotators gave.

  Attributes:
    text: normalised as the data set's scoring asks.
    weight: in the training loss; VQA v2's is the share of annotators.
    count: how many of the annotators gave it; scoring counts three as right.
  """

  text: str
  weight: float = 1.0
  count: int = 10


@dataclasses.dataclass(frozen=True)
class TaskData:
  """A data set for one task.

  Attributes:
    name: of the data set.
    task: `vqa`, `nlvr2` or `entailment`.
    splits: a source of records a split; "train", "validation" and "test", and
      others of the data set's own.
    answers: of vqa, the candidates that are ranked, each once; else empty.
    fingerprint: changes when the training records do.
    tokenizer: of texts and answers; None of data that are not opened for a run.
  """

  name: str
  task: str
  splits: Mapping[str, sources.Source]
  answers: tuple[str, ...] = ()
  fingerprint: str = ""
  tokenizer: "tokenizer_lib.Tokenizer | None" = None


def training_texts(data: TaskData) -> Iterator[str]:
  """Texts of the training records, then the answers, to learn a vocabulary on."""
  source, field = data.splits[sources.TRAIN], TEXT_FIELDS[data.task]
  for row in range(len(source)):
    yield source.fields(row)[field]
  yield from data.answers
