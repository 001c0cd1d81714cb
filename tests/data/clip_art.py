"""Folders as Debian's packages of Open Clip Art have them, for tests."""

import numpy as np
from PIL import Image

SVG = """<?xml version="1.0"?><svg><title>page</title><metadata>
<rdf:RDF><cc:Work><dc:title>{title}</dc:title><dc:subject><rdf:Bag>
{words}</rdf:Bag></dc:subject></cc:Work></rdf:RDF></metadata><g/></svg>"""


def add(root, path, title, words=(), *, level=None, size=(40, 20), seed=0):
  """A drawing: noise, or all of one level."""
  svg = root / "svg" / f"{path}.svg"
  svg.parent.mkdir(parents=True, exist_ok=True)
  items = "".join(f"<rdf:li>{word}</rdf:li>" for word in words)
  svg.write_text(SVG.format(title=title, words=items))
  png = root / "png" / f"{path}.png"
  png.parent.mkdir(parents=True, exist_ok=True)
  if level is None:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 4))
  else:
    pixels = np.full((*size[::-1], 4), level)
  Image.fromarray(pixels.astype(np.uint8), "RGBA").save(png)


def write(root):
  """60 good drawings of 40 titles, and bad ones."""
  for i in range(60):
    kind = ("animals/birds", "food", "unsorted")[i % 3]
    title = f"{'THING' if i >= 40 else 'Thing'} {i % 40}"
    add(root, f"{kind}/a{i:02}", title, ("Wide_Bird", f"word {i}"), seed=i + 1)
  add(root, "animals/theme", "gTango Theme collection", seed=100)
  add(root, "animals/untitled", "", seed=101)
  add(root, "animals/blank", "White", level=255)
  add(root, "animals/same", "Another title", seed=1)  # The pixels of a00.
  add(root, "computer/firewall_denco_01", "firewall", seed=102)
  add(root, "animals/lost", "No picture", seed=103)
  (root / "png/animals/lost.png").unlink()
  add(root, "animals/broken", "Broken picture", seed=104)
  (root / "png/animals/broken.png").write_bytes(b"\x89PNG cut short")
