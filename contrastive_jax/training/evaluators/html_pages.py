"""A run on a page of HTML that needs no other file: scores, plots, a map to explore."""

import base64
import dataclasses
import html
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_SPRITES = 40  # Pictures in a line of the map's one image.
_SIDE = 40  # Pixels of a picture on the map.


@dataclasses.dataclass(frozen=True)
class Points:
  """Images on a map.

  Attributes:
    places: [N, 2].
    titles: a line on each.
    groups: by which they are coloured; "" is none.
    pictures: uint8 [N, S, S, 3].
  """

  places: np.ndarray
  titles: Sequence[str]
  groups: Sequence[str]
  pictures: np.ndarray


def page(
  title: str,
  facts: Sequence[str],
  results: Mapping[str, float],
  items: Mapping[str, int],
  *,
  headlines: Sequence[str] = (),
  pictures: Mapping[str, bytes] | None = None,
  points: Points | None = None,
  config: Mapping[str, Any] | None = None,
  command: str = "",
) -> str:
  """The page.

  Args:
    title: of it.
    facts: lines below the title.
    results: scores by name.
    items: of how many items a score is the mean, where that is known.
    headlines: scores that come first, of those that there are.
    pictures: PNG files by their titles.
    points: a map of images to explore; None has none.
    config: nested plain values.
    command: that started the run, or "".
  """
  shown = [name for name in headlines if name in results]
  parts = [
    f"<header><h1>{html.escape(title)}</h1>",
    *(f"<p>{html.escape(fact)}</p>" for fact in facts),
    "</header>",
  ]
  if shown:
    parts.append(f"<section><h2>Scores</h2>{_table(shown, results, items)}")
    rest = [name for name in results if name not in shown]
    parts.append(
      f"<details><summary>All {len(results)} numbers</summary>"
      f"{_table(rest, results, items)}</details></section>"
    )
  elif results:
    table = _table(list(results), results, items)
    parts.append(f"<section><h2>Scores</h2>{table}</section>")
  if points is not None and len(points.places) > 1:
    parts.append(_map(points))
  for name, content in (pictures or {}).items():
    data = base64.b64encode(content).decode()
    name = html.escape(name)
    parts.append(
      f'<section><h2>{name}</h2><div class=wide><img alt="{name}"'
      f' src="data:image/png;base64,{data}"></div></section>'
    )
  if command:
    parts.append(
      f"<section><h2>Command</h2><pre>{html.escape(command)}</pre></section>"
    )
  if config is not None:
    text = html.escape(json.dumps(config, indent=2))
    parts.append(
      "<section><details><summary>Configuration</summary>"
      f"<pre>{text}</pre></details></section>"
    )
  body = "\n".join(parts)
  return _PAGE.replace("{title}", html.escape(title)).replace("{body}", body)


def _table(
  names: Sequence[str], results: Mapping[str, float], items: Mapping[str, int]
) -> str:
  rows = []
  for name in names:
    value = results[name]
    text = f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"
    # A share is seen as a part of a line.
    share = value if name in items and 0 <= value <= 1 else 0.0
    count = f"{items[name]:,}" if name in items else ""
    rows.append(
      f"<tr><td>{html.escape(name)}</td><td class=n>{text}</td>"
      f"<td class=n>{count}</td>"
      f'<td class=bar><i style="width:{100 * share:.1f}%"></i></td></tr>'
    )
  return (
    "<div class=wide><table><thead><tr><th>score</th><th class=n>value</th>"
    f"<th class=n>items</th><th></th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
  )


def _map(points: Points) -> str:
  """A canvas with the points, whose pictures show under the pointer."""
  places = points.places - points.places.min(axis=0)
  places = places / np.maximum(places.max(axis=0), 1e-9)
  data = {
    "xy": [[round(float(v), 4) for v in row] for row in places],
    "titles": list(points.titles),
    "groups": list(points.groups),
    "side": _SIDE,
    "columns": _SPRITES,
  }
  # "</" would end the script.
  text = json.dumps(data, ensure_ascii=True).replace("</", "<\\/")
  sheet = base64.b64encode(_sheet(points.pictures)).decode()
  return (
    "<section><h2>Map of the test images</h2><p>Two main axes of the embeddings;"
    " point at or touch one to see it.</p><div id=map><canvas></canvas>"
    "<figure hidden><div></div><figcaption></figcaption></figure></div><p id=legend></p>"
    f"<script>const DATA={text};"
    f'const SHEET="data:image/jpeg;base64,{sheet}";{_SCRIPT}</script></section>'
  )


def _sheet(pictures: np.ndarray) -> bytes:
  """All pictures in one, line by line, as JPEG."""
  from PIL import Image

  lines = -(-len(pictures) // _SPRITES)
  sheet = Image.new("RGB", (_SPRITES * _SIDE, lines * _SIDE), "white")
  for number, picture in enumerate(pictures):
    small = Image.fromarray(picture).resize((_SIDE, _SIDE))
    line, column = divmod(number, _SPRITES)
    sheet.paste(small, (column * _SIDE, line * _SIDE))
  file = io.BytesIO()
  sheet.save(file, format="JPEG", quality=80)
  return file.getvalue()


_SCRIPT = """
(() => {
const box = document.getElementById("map"), canvas = box.querySelector("canvas");
const card = box.querySelector("figure"), shot = card.querySelector("div");
const text = card.querySelector("figcaption"), pen = canvas.getContext("2d");
const palette = ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377",
  "#ee8866", "#44bb99", "#997700"];
const counts = {};
for (const g of DATA.groups) if (g) counts[g] = (counts[g] || 0) + 1;
const common = Object.keys(counts).sort((a, b) => counts[b] - counts[a]).slice(0, 9);
const colour = g => palette[common.indexOf(g)] || "#bbbbbb";
shot.style.backgroundImage = `url(${SHEET})`;
for (const g of common) {
  const item = document.createElement("span"), dot = document.createElement("i");
  dot.style.background = colour(g);
  item.append(dot, g);
  document.getElementById("legend").append(item);
}
let size = [1, 1];
const at = i => [12 + DATA.xy[i][0] * (size[0] - 24), 12 + DATA.xy[i][1] * (size[1] - 24)];
function draw(chosen) {
  const scale = window.devicePixelRatio || 1;
  size = [box.clientWidth, Math.round(Math.min(box.clientWidth * 0.65, 560))];
  canvas.width = size[0] * scale; canvas.height = size[1] * scale;
  canvas.style.height = size[1] + "px";
  pen.scale(scale, scale);
  DATA.xy.forEach((_, i) => {
    const [x, y] = at(i);
    pen.globalAlpha = i === chosen ? 1 : 0.75;
    pen.fillStyle = colour(DATA.groups[i]);
    pen.beginPath(); pen.arc(x, y, i === chosen ? 7 : 4, 0, 7); pen.fill();
  });
}
function show(event) {
  const r = canvas.getBoundingClientRect();
  const px = event.clientX - r.left, py = event.clientY - r.top;
  let best = -1, least = 400;
  DATA.xy.forEach((_, i) => {
    const [x, y] = at(i), d = (x - px) ** 2 + (y - py) ** 2;
    if (d < least) { least = d; best = i; }
  });
  card.hidden = best < 0;
  draw(best);
  if (best < 0) return;
  shot.style.backgroundSize = `${DATA.columns * 96}px auto`;
  shot.style.backgroundPosition =
    `-${best % DATA.columns * 96}px -${Math.floor(best / DATA.columns) * 96}px`;
  text.textContent = DATA.titles[best];
  const [x, y] = at(best);
  card.style.left = Math.min(Math.max(x - 60, 0), size[0] - 130) + "px";
  card.style.top = (y > size[1] / 2 ? y - 150 : y + 14) + "px";
}
canvas.addEventListener("pointermove", show);
canvas.addEventListener("pointerdown", show);
canvas.addEventListener("pointerleave", () => { card.hidden = true; draw(-1); });
window.addEventListener("resize", () => draw(-1));
draw(-1);
})();
"""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff;
  max-width: 62rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; margin: .5rem 0; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
header p { margin: .1rem 0; color: #555; }
.wide { overflow-x: auto; }
img { width: 100%; min-width: 34rem; height: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid #e5e5e5;
  white-space: nowrap; }
.n { text-align: right; font-variant-numeric: tabular-nums; }
.bar { width: 30%; min-width: 5rem; }
.bar i { display: block; height: .6rem; background: #4477aa; border-radius: .2rem; }
details { margin: .75rem 0; }
summary { cursor: pointer; color: #225; }
pre { overflow-x: auto; background: #f6f6f6; padding: .75rem; border-radius: .3rem;
  font-size: .85rem; }
#map { position: relative; border: 1px solid #ddd; border-radius: .3rem; }
#map canvas { display: block; width: 100%; touch-action: pan-y; }
#map figure { position: absolute; margin: 0; padding: .4rem; background: #fff;
  border: 1px solid #bbb; border-radius: .3rem; pointer-events: none; width: 112px;
  font-size: .8rem; text-align: center; overflow-wrap: anywhere; }
#legend { font-size: .85rem; color: #555; margin: .4rem 0; }
#legend span { margin-right: 1rem; display: inline-block; }
#legend i { display: inline-block; width: .7rem; height: .7rem; border-radius: 50%;
  margin-right: .3rem; }
#map figure div { width: 96px; height: 96px; margin: 0 auto; }
</style></head>
<body>
{body}
</body></html>
"""
