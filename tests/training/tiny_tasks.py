"""A tiny data set for each task of fusion models, and objectives on it."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from contrastive_jax.data import sources, task_pipeline, tasks
from contrastive_jax.data.text import tokenizer as tokenizer_lib
from contrastive_jax.training.runs import build
from tests.training import tiny
from tests.training import tiny_albef as pretraining

ANSWERS = ("red", "green", "dark red", "dark blue", "two")
COUNTS = {"train": 12, "validation": 4, "test": 5}


def make_records(task, first, count):
  rng = np.random.default_rng(first)
  records = []
  for image in range(first, first + count):
    for number in range(1 + image % 3):
      record = {
        "index": 3 * image + number,
        "image_id": image,
        "kind": ("colour", "count")[number % 2],
      }
      if task == "vqa":
        record["question"] = f"what {image} {number}?"
        record["answers"] = (
          tasks.Answer(ANSWERS[(image + number) % 5], 0.7, 7),
          tasks.Answer(ANSWERS[(image + number + 2) % 5], 0.3, 3),
        )[: 1 + image % 2]
      elif task == "nlvr2":
        record["statement"] = f"both {image % 4} {number}."
        record["label"] = (image + number) % 2
      else:
        record["hypothesis"] = f"is {image % 4} {number}."
        record["label"] = (image + number) % 3
      records.append(record)
  shown = {
    r["image_id"]: rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    for r in records
  }
  images = np.stack([shown[r["image_id"]][0] for r in records])
  if task == "nlvr2":
    for r in records:
      r["second_image"] = shown[r["image_id"]][1]
  return sources.ArraySource(images, records)


@functools.cache
def make_data(task):
  splits, first = {}, 0
  for name, count in COUNTS.items():
    splits[name] = make_records(task, first, count)
    first += count
  answers = ANSWERS if task == "vqa" else ()
  return tasks.TaskData("tiny", task, splits, answers, "abc", tokenizer())


@functools.cache
def tokenizer():
  texts = [f"what {i} {i}? both is {i}." for i in range(20)]
  return tokenizer_lib.Tokenizer.train([*texts, *ANSWERS], vocab_size=320)


def make_encoder(task):
  return task_pipeline.Encoder(task, tokenizer(), 12, 10)


def make_config(objective, **changes):
  fields = {
    name: value
    for name, value in pretraining.FIELDS.items()
    if name.split("__")[0] not in ("loss", "objective")
  }
  if objective != "text_assignment":
    fields |= {
      "objective__momentum": 0.9,
      "objective__alpha_ramp": 0.25,
      "objective__texts_per_image": 2,
    }
  if objective == "vqa":
    fields["objective__answer_length"] = 10
  # A data set that has the task; tests give their own.
  data = "emoji" if objective == "text_assignment" else "scenes"
  fields |= {
    "objective": objective,
    "data": data,
    "evaluation__batch_size": 32,
    **changes,
  }
  return tiny.make_config(**{"batch_size": 8, **fields})


def make_objective(config, devices=1):
  return build.build_objective(
    config,
    vocab_size=tokenizer().vocab_size,
    num_examples=100,
    mesh=tiny.make_mesh(devices),
  )


def make_batches(task, *, texts=2, answers=2, size=8, **options):
  return task_pipeline.train_batches(
    make_data(task).splits["train"],
    make_encoder(task),
    batch_size=size,
    seed=0,
    texts_per_image=texts,
    answers_per_text=answers if task == "vqa" else 1,
    **options,
  )


@functools.cache
def batch_of(task):
  return next(make_batches(task))


@functools.cache
def started(objective, **changes):
  """An objective, its parameters off their start, and another momentum model."""
  made = make_objective(make_config(objective, **changes))
  params, state = made.init(jax.random.key(0), {})
  leaves, tree = jax.tree.flatten(params)

  def noisy(seed):
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    moved = [
      x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys)
    ]
    return jax.tree.unflatten(tree, moved)

  if "momentum" in state:
    state = {**state, "momentum": noisy(2), "count": jnp.int32(3)}
  return made, noisy(1), state


def write_official(root, splits=("train", "validation")):
  """Entailment in ALBEF's form."""
  (root / "images").mkdir(parents=True)
  rng = np.random.default_rng(0)
  files = {}
  for split in splits:
    rows = []
    for i in range(8):
      pixels = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
      Image.fromarray(pixels).save(root / "images" / f"{split}{i}.png")
      label = ("entailment", "neutral", "contradiction")[i % 3]
      rows.append(
        {"image": f"{split}{i}.png", "sentence": f"is {i}", "label": label}
      )
    files[split] = str(root / f"{split}.json")
    (root / f"{split}.json").write_text(json.dumps(rows))
  return files
