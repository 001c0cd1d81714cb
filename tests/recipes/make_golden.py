"""Writes golden_steps.json: the numbers of two steps of every recipe, at a tiny size.

    python -m tests.recipes.make_golden

They change where the numbers of a step are meant to change, and nowhere else.
"""

import json

from tests import conftest as conftest  # Compiles as the tests do.
from tests.recipes import tiny_runs


def main():
  """Writes the file."""
  golden = {
    run: tiny_runs.summary(*tiny_runs.steps_of(run)[2:])
    for run in tiny_runs.RUNS
  }
  text = json.dumps(golden, indent=1, sort_keys=True)
  tiny_runs.GOLDEN.write_text(f"{text}\n", encoding="utf-8")
  print(f"Wrote {len(golden)} runs to {tiny_runs.GOLDEN.name}.")


if __name__ == "__main__":
  main()
