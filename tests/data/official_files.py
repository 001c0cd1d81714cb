"""Files as authors publish them, for tests."""

import json

from PIL import Image

from contrastive_jax.data.sets import official

SIDE = 8


def save(path, colour=(200, 30, 20), size=(12, 12)):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new("RGB", size, colour).save(path)


def write(path, value):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(value), encoding="utf-8")
  return path


def load(task, format, path, root, **options):
  options = dict(image_size=SIDE, report=lambda line: None) | options
  return official.load(task, format, path, root, **options)


def all_fields(source):
  return [source.fields(i) for i in range(len(source))]
