"""Pairs in every form that is converted, for tests."""

import io
import json
import tarfile

import pyarrow
from PIL import Image
from pyarrow import parquet

from contrastive_jax.data.sets.records import conversion
from contrastive_jax.data.sets.records import source as record_source


def picture(color, size=(12, 6), format="PNG"):
  file = io.BytesIO()
  Image.new("RGB", size, color).save(file, format=format)
  return file.getvalue()


RED, GREEN, BLUE = (picture(c) for c in ("red", "lime", "blue"))


def write_tar(path, members, mode="w"):
  with tarfile.open(path, mode) as archive:
    for name, data in members:
      info = tarfile.TarInfo(name)
      info.size = len(data)
      archive.addfile(info, io.BytesIO(data))
  return path


def pair(key, image, text, extension="png"):
  return [(f"{key}.{extension}", image), (f"{key}.txt", text.encode())]


def converted(tmp_path, *inputs, report=lambda line: None, **options):
  limits = {
    k: options.pop(k)
    for k in ("workers", "max_bad_share", "retry")
    if k in options
  }
  settings = conversion.ConversionSettings(tuple(map(str, inputs)), **options)
  out = tmp_path / "out"
  summary = conversion.convert(
    settings, out, report=report, **{"workers": 1, **limits}
  )
  return out, summary


def read(out, split="train", **options):
  """Records of a split, their captions as texts."""
  found = record_source.load(str(out), image_size=4, **options)[split]
  return [
    {**record, "captions": tuple(c.text for c in record["captions"])}
    for record in (found[i] for i in range(len(found)))
  ]


def problems(out):
  lines = (out / "skipped.jsonl").read_text().splitlines()
  return {(p := json.loads(line))["key"]: p["problem"] for line in lines}


def write_parquet(path, columns, **options):
  parquet.write_table(pyarrow.table(columns), path, **options)
  return path


def shards(tmp_path, count=4, each=3):
  for k in range(count):
    members = [
      m
      for i in range(each)
      for m in pair(f"{k}_{i}", picture((40 * k, 60 * i, 0)), f"shard {k} {i}")
    ]
    write_tar(tmp_path / f"{k}.tar", members)
  return str(tmp_path / "*.tar")


def files(out):
  return {
    str(p.relative_to(out)): p.read_bytes()
    for p in sorted(out.rglob("*"))
    if p.is_file() and p.suffix != ".lock"
  }
