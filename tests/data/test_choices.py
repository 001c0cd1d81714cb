"""The table of data sets, and what they are asked."""

import ast
import dataclasses
import importlib.util
import pathlib

import pytest

from contrastive_jax.data import sources
from contrastive_jax.data.sets.choices import DATA_SETS, PAIRS, TASKS, Request
from contrastive_jax.data.text import tokenizer as tokenizer_lib
from tests.data import prepared

SLOW = ("jax", "flax", "grain", "numpy", "PIL", "tensorflow_datasets")


@pytest.mark.parametrize("name", DATA_SETS.variants)
def test_a_data_set(name):
  found = DATA_SETS.find(name)
  assert DATA_SETS.name_of(found) == name
  assert found.__doc__ and set(found.tasks) <= {*PAIRS, *TASKS}
  for field in dataclasses.fields(found):
    assert field.metadata["doc"].endswith(".")


def test_none_of_them_is_slow_to_import():
  """A command line is checked before what is slow is loaded."""
  modules = {place.partition(":")[0] for place in DATA_SETS.variants.values()}
  program = (
    f"import sys, {', '.join(sorted(modules))}\n"
    f"print([name for name in {SLOW} if name in sys.modules])"
  )
  done = prepared.run_python("-c", program)
  assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_data_and_evaluation_do_not_know_each_other():
  for room, other in (("data", "evaluation"), ("evaluation", "data")):
    spec = importlib.util.find_spec(f"contrastive_jax.{room}")
    for path in pathlib.Path(spec.origin).parent.rglob("*.py"):
      for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = []
        if isinstance(node, ast.Import):
          names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
          names = [f"{node.module}.{alias.name}" for alias in node.names]
        assert not any(
          name.startswith(f"contrastive_jax.{other}") for name in names
        ), path


def test_a_request_has_images_of_some_size():
  with pytest.raises(ValueError, match="^image_size .*0"):
    Request(image_size=0)


def test_a_vocabulary_is_learned_unless_it_is_given():
  def never():
    raise AssertionError("The texts are read.")
    yield

  learned = Request().learned(["a cup"], 270)
  assert learned.decode(learned.encode(["a cup"], 9)[0]) == "a cup"
  assert learned.vocab_size <= 270
  assert Request(tokenizer=learned).learned(never(), 270) is learned
  with pytest.raises(ValueError, match="^vocab_size .*9"):
    Request().learned(["a cup"], 9)


@dataclasses.dataclass(frozen=True)
class Mine:
  """A data set of the user's own."""

  tasks = PAIRS

  def open(self, request):
    """No examples."""
    return sources.PairData("mine", {}, (), request.learned(["a"], 260))


def test_a_data_set_of_the_users_own():
  found = DATA_SETS.find(f"{__name__}:Mine")
  data = found().open(Request())
  assert isinstance(data.tokenizer, tokenizer_lib.Tokenizer)
