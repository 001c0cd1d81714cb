"""Writes golden_steps.json: the numbers of two steps of every recipe, at a tiny size.

    python -m tests.recipes.make_golden

They change where the numbers of a step are meant to change, and nowhere else.
"""

import json

from tests import conftest as conftest  # Compiles as the tests do.
from tests.recipes import test_recipes


def main():
  """Writes the file."""
  golden = {
    run: test_recipes.summary(*test_recipes.steps_of(run)[2:])
    for run in test_recipes.RUNS
  }
  text = json.dumps(golden, indent=1, sort_keys=True)
  test_recipes.GOLDEN.write_text(f"{text}\n", encoding="utf-8")
  print(f"Wrote {len(golden)} runs to {test_recipes.GOLDEN.name}.")


if __name__ == "__main__":
  main()
