"""`contrastive-jax PROGRAM --flags`: the programs of the package by their names."""

import difflib
import importlib
import sys

_PROGRAMS = {
  "train": "trains and evaluates a model",
  "evaluate": "scores a finished run on other data and published sets",
  "embed": "embeds many pictures with a trained model",
  "classify": "classifies pictures by the names of classes",
  "search": "searches embedded pictures by a sentence or a picture",
  "demo": "shows a trained model on a page in the browser",
  "sweep": "trains a grid of configurations over seeds, and compares them",
  "convert": "converts image-text pairs into ArrayRecord files",
  "import_weights": "makes a run of published weights",
  "export": "writes a run's model as a folder that stands by itself",
}


def main() -> None:
  """Runs the program that the first argument names."""
  name = sys.argv[1] if len(sys.argv) > 1 else "--help"
  if name in ("--help", "-h", "help"):
    print("contrastive-jax PROGRAM [--flags]; PROGRAM --help tells more.\n")
    for program, about in _PROGRAMS.items():
      print(f"  {program:<16} {about}")
    return
  if name not in _PROGRAMS:
    near = difflib.get_close_matches(name, _PROGRAMS, n=1, cutoff=0.0)[0]
    print(
      f"Error: {name!r} is not a program; did you mean {near!r}?",
      file=sys.stderr,
    )
    sys.exit(2)
  sys.argv[:2] = [f"contrastive-jax {name}"]
  # As `python -m` does, so that variants of the user's own are found.
  sys.path.insert(0, "")
  importlib.import_module(f"contrastive_jax.programs.{name}").start()


if __name__ == "__main__":
  main()
