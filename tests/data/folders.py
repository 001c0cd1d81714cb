"""Folders of images with captions, for tests."""

import json

from PIL import Image

from contrastive_jax.data.sets.folder import reading

RED, BLUE = (200, 30, 20), (20, 40, 210)


def save(path, color=RED, size=(20, 20), mode="RGB", **options):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new("RGB", size, color).convert(mode).save(path, **options)


def write_jsonl(root, rows, name="captions.jsonl"):
  lines = [r if isinstance(r, str) else json.dumps(r) for r in rows]
  (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def row(image, *captions, **fields):
  return {"image": image, "captions": list(captions) or [image], **fields}


def scan(root, **options):
  options = (
    dict(
      image_size=8,
      report_path=root.parent / "run" / "skipped.jsonl",
      max_bad_share=1.0,
      num_threads=2,
    )
    | options
  )
  return reading.scan_folder(root, **options)


def texts(source, i):
  """The captions of an image."""
  return tuple(caption.text for caption in source.fields(i)["captions"])


def many(root, n, **fields):
  for i in range(n):
    save(root / f"{i:03}.png", (i, 2 * i, 50), (4, 4))
  return [row(f"{i:03}.png", f"thing {i:03}", **fields) for i in range(n)]
