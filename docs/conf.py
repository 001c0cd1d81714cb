"""The documentation site: guides, recipes and the API with its formulas.

pip install -e ".[docs]" && sphinx-build -W docs site
"""

import ast
import importlib.metadata
import pathlib

_ROOT = pathlib.Path(__file__).resolve().parents[1]

project = "contrastive_jax"
release = version = importlib.metadata.version("contrastive_jax")
extensions = [
  "myst_parser",
  "sphinx.ext.autodoc",
  "sphinx.ext.mathjax",
  "sphinx.ext.napoleon",
  "sphinx.ext.viewcode",
]
exclude_patterns = ["_generated/parts"]
html_theme = "furo"
html_title = "contrastive_jax"
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # Shapes and types are in the text.
napoleon_use_rtype = False
napoleon_use_ivar = True  # Fields of named tuples are documented by themselves.
napoleon_google_docstring = True
napoleon_numpy_docstring = False
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
# Names of the package's own types in signatures are no pages.
nitpicky = False


def _recipes() -> str:
  """A page of all recipes: what each file says of itself."""
  lines = [
    "# Recipes",
    "",
    "A recipe is a Python file in `contrastive_jax/recipes`, found by its name"
    " (`--config=clip_emoji`); flags change its fields (`--config.steps=20`), and it"
    " opens with its command, duration and score.",
    "",
  ]
  for path in sorted((_ROOT / "contrastive_jax/recipes").glob("[a-z]*.py")):
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    title, _, rest = text.partition("\n")
    lines += [
      f"## `{path.stem}`",
      "",
      title,
      "",
      "```text",
      rest.strip(),
      "```",
      "",
    ]
  return "\n".join(lines)


def _results() -> str:
  """The README's table of results, with links to the records' pages."""
  text = (_ROOT / "README.md").read_text(encoding="utf-8")
  section = text.partition("\n## Results\n")[2].partition("\n## ")[0]
  web = "https://github.com/contrastive-jax/contrastive_jax/blob/main/"
  for folder in ("experiments/", "contrastive_jax/"):
    section = section.replace(f"]({folder}", f"]({web}{folder}")
  return f"# Results\n{section}"


_generated = pathlib.Path(__file__).parent / "_generated"
_generated.mkdir(exist_ok=True)
for _name, _text in (("recipes", _recipes()), ("results", _results())):
  (_generated / f"{_name}.md").write_text(_text, encoding="utf-8")


def _tables(app, what, name, obj, options, lines: list[str]) -> None:
  """Tables of docstrings, which are in Markdown, as reStructuredText has them."""
  del app, what, name, obj, options
  text: list[str] = []
  inside = False
  for line, after in zip(lines, [*lines[1:], ""]):
    begins = line.lstrip().startswith("|") and after.lstrip().startswith("|---")
    inside = begins or (inside and line.lstrip().startswith("|"))
    if not inside:
      text.append(line)
      continue
    if begins:
      text += ["", ".. list-table::", "   :header-rows: 1", ""]
    if line.lstrip().startswith("|---"):
      continue
    cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
    text += [
      f"   {'*' if i == 0 else ' '} - {cell}" for i, cell in enumerate(cells)
    ]
  lines[:] = text


def setup(app) -> None:
  """Called by Sphinx."""
  app.connect("autodoc-process-docstring", _tables)
