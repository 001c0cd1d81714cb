"""Sets that TFDS has prepared: scored by runs and by evaluate, or left out."""

import json
import pathlib
import shutil
import types

import pytest

from contrastive_jax.data import benchmarks
from contrastive_jax.data.sets.folder import folder_rows
from contrastive_jax.programs import command_line, evaluate
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.evaluators import benchmark_suites, embeddings
from contrastive_jax.training.runs import runner
from tests.data.tfds_sets import write_sets
from tests.training import tiny


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
  tiny.use_devices(monkeypatch, 1)


@pytest.fixture(name="root", scope="module")
def fixture_root(tmp_path_factory):
  return write_sets(tmp_path_factory.mktemp("tfds"))


def scoring(sets, **fields):
  """The usual evaluators, and sets by name."""
  usual = ("retrieval", "zero_shot", "classification", "geometry")
  return {**dict.fromkeys(usual, {}), "benchmarks": {"sets": sets, **fields}}


def test_a_set_with_a_broken_image_is_left_out(trained, monkeypatch):
  workdir, results, _ = trained
  lines = []
  run, state = runner.restore(workdir, report=lines.append)

  def broken(self, index):
    raise benchmarks.BenchmarkError(f"Image {index} cannot be read.")

  monkeypatch.setattr(benchmarks.BenchmarkSource, "__getitem__", broken)
  again = run.evaluate(state)
  assert not any(name.startswith("benchmark_") for name in again)
  assert any("cifar10. Image 0 cannot" in line for line in lines)
  name = "retrieval/image_to_text/recall_at_1"
  assert again[name] == results[name]


@pytest.fixture(name="trained", scope="module")
def fixture_trained(root, tmp_path_factory):
  """A run that scores both sets and one that is not there."""
  workdir = tmp_path_factory.mktemp("run") / "run"
  lines = []
  config = tiny.make_config(
    steps=2,
    data={
      "name": "folder",
      "path": str(
        tiny.write_folder(tmp_path_factory.mktemp("images"), 24, labels=True)
      ),
    },
    evaluation__plots=False,
    evaluation__evaluators=scoring(
      ("cifar10", "imagenet_a", "dtd"), data_dir=str(root)
    ),
  )
  with pytest.MonkeyPatch.context() as patch:
    tiny.use_devices(patch, 1)
    return workdir, runner.train(config, workdir, report=lines.append), lines


def test_scores(trained):
  _, results, lines = trained
  found = {k: v for k, v in results.items() if k.startswith("benchmark_")}
  assert found["benchmark_cifar10/linear_probe/accuracy"] == 1.0
  assert 0 <= found["benchmark_cifar10/zero_shot/accuracy_top1"] <= 1
  assert found["benchmark_cifar10/zero_shot/accuracy_top3"] == 1
  # Three of the four classes occur, and only those are choices.
  assert found["benchmark_imagenet_a/zero_shot/accuracy_top3"] == 1
  assert not any(k.startswith("benchmark_imagenet_a/linear") for k in found)
  left_out = [line for line in lines if "dtd" in line]
  assert len(left_out) == 1 and left_out[0].startswith("Left out: dtd. ")


def test_evaluate_takes_other_sets(trained, root):
  workdir, results, _ = trained
  run, state = runner.restore(workdir, report=lambda line: None)
  evaluate._FLAGS(["evaluate", "--benchmarks=cifar10, cifer10"])
  with pytest.raises(config_lib.UserError, match="got 'cifer10'"):
    evaluate._evaluators(run.config)
  evaluate._FLAGS(["evaluate", "--benchmarks=cifar10"])
  evaluators = evaluate._evaluators(run.config)
  assert evaluators["benchmarks"].sets == ("cifar10",)
  assert evaluators["benchmarks"].data_dir == str(root)
  again = run.evaluate(state, run.build(evaluators))
  assert not any(k.startswith("benchmark_imagenet") for k in again)
  name = "benchmark_cifar10/zero_shot/mean_per_class_accuracy"
  assert again[name] == results[name]
  kept = json.loads((workdir / "results.json").read_text())
  assert kept[name] == results[name]


def test_evaluate_scores_a_suite(trained, root, capsys):
  workdir, results, _ = trained
  evaluate._FLAGS(
    [
      "evaluate",
      f"--workdir={workdir}",
      "--suite=zero_shot",
      f"--suite_dir={root}",
    ]
  )
  evaluate.main()
  evaluate.main()
  out = capsys.readouterr().out
  assert "Left out: dtd." in out and "cifar10 (8 of 21): known" in out
  scores = json.loads((workdir / "suite_zero_shot_2.json").read_text())
  name = "zero_shot/accuracy_top1"
  assert scores["cifar10"][name] == results[f"benchmark_cifar10/{name}"]
  assert set(scores) == {"cifar10", "imagenet_a", "voc2007"}
  assert "| cifar10 |" in (workdir / "suite_zero_shot_2.md").read_text()


def _evaluate(*arguments):
  """Runs the program; gives what it writes."""
  evaluate._FLAGS.unparse_flags()
  for name in ("suite", "suite_dir", "benchmarks"):
    evaluate._FLAGS[name].unparse()
  command_line.parse(["evaluate", *arguments], None, evaluate._FLAGS)
  evaluate.main()


def test_published_sets_are_scored_without_the_runs_own_data(
  trained, root, tmp_path, capsys
):
  workdir, results, _ = trained
  own = pathlib.Path(
    json.loads((workdir / "config.json").read_text())["data"]["path"]
  )
  at = f"--workdir={workdir}"
  moved = shutil.move(own, tmp_path / "moved")
  try:
    _evaluate(at, "--benchmarks=cifar10")
    assert "left out" in capsys.readouterr().out
    scores = json.loads((workdir / "evaluation_2.json").read_text())
    assert scores and scores.items() <= results.items()
    assert all(name.startswith("benchmark_cifar10/") for name in scores)
    (workdir / "suite_zero_shot_2.json").unlink(missing_ok=True)
    _evaluate(at, "--suite=zero_shot", f"--suite_dir={root}")
    assert (workdir / "suite_zero_shot_2.json").exists()
    with pytest.raises(folder_rows.DataError):
      _evaluate(at)
    # All that the run has is scored where the data are now.
    _evaluate(at, f"--config.data.path={moved}")
    scores = json.loads((workdir / "evaluation_2.json").read_text())
    assert {k for k in results if not k.startswith("train/")} == set(scores)
    assert scores.items() <= results.items()
    for field in ("seed=1", "data.fit=crop", "model.preset=vit_b32"):
      name = field.partition("=")[0].replace(".", r"\.")
      with pytest.raises(config_lib.ConfigError, match=name):
        _evaluate(at, f"--config.{field}")
  finally:
    shutil.move(moved, own)


def test_a_frozen_image_tower_is_not_fine_tuned(tmp_path):
  encoder = object.__new__(embeddings.Encoder)
  encoder.has_text, encoder.trains_images = True, False
  config = tiny.make_config()
  run = types.SimpleNamespace(
    encoder=encoder,
    chosen=config.objective,
    objective=types.SimpleNamespace(frozen=("image",)),
  )
  with pytest.raises(config_lib.UserError, match="frozen=.*'image'"):
    evaluate._score_suite("elevater_fine_tune", run, None, tmp_path)


@pytest.mark.parametrize(
  "flags, message",
  [
    (["--suite=zeroshot"], "--suite .*zero_shot, .*'zeroshot'"),
    (["--suite=probe"], "--suite_dir, .*''"),
    (["--suite=probe", "--suite_dir=nowhere"], "got 'nowhere'"),
  ],
)
def test_mistakes_in_a_suite(flags, message):
  evaluate._FLAGS(["evaluate", "--suite_dir=", *flags])
  with pytest.raises(config_lib.UserError, match=message):
    evaluate._suites()


@pytest.mark.parametrize(
  "flags, fit, file",
  [
    ([], "stretch", "suite_probe_7.json"),
    (["--fit=stretch"], "stretch", "suite_probe_7.json"),
    # Beside those of the run's own squares, which are kept.
    (["--fit=crop"], "crop", "suite_probe_7_crop.json"),
  ],
)
def test_evaluate_takes_other_squares(tmp_path, monkeypatch, flags, fit, file):
  config = tiny.make_config(
    evaluation__evaluators=scoring(("cifar10",), fit="stretch"),
    data={"name": "folder", "path": "photos", "fit": "pad"},
  )
  evaluate._FLAGS.unparse_flags()
  evaluate._FLAGS["fit"].unparse()
  evaluate._FLAGS(["evaluate", "--benchmarks=dtd", *flags])
  chosen = evaluate._evaluators(config)["benchmarks"]
  assert chosen.sets == ("dtd",) and chosen.fit == fit
  scored = []
  monkeypatch.setattr(
    benchmark_suites,
    "run",
    lambda *args, **kwargs: scored.append((args, kwargs)) or {},
  )
  encoder = object.__new__(embeddings.Encoder)
  run = types.SimpleNamespace(
    config=config,
    encoder=encoder,
    chosen=config.objective,
    image_size=16,
    seed=0,
  )
  state = types.SimpleNamespace(step=7)
  evaluate._score_suite("probe", run, state, tmp_path)
  ((args, kwargs),) = scored
  assert kwargs["fit"] == fit and args[-1] == tmp_path / file
  assert (tmp_path / file).with_suffix(".md").exists()


def test_squares_without_a_set_to_score():
  evaluate._FLAGS(["evaluate", "--fit=crop", "--benchmarks="])
  config = tiny.make_config(
    evaluation__evaluators=scoring(("cifar10",), fit="crop")
  )
  with pytest.raises(config_lib.UserError, match="--fit .*'crop'"):
    evaluate._evaluators(config)
  # Fields of the run for sets that are not scored now are no mistake.
  evaluate._FLAGS["fit"].unparse()
  assert "benchmarks" not in evaluate._evaluators(config)


def test_a_mistyped_set():
  with pytest.raises(config_lib.ConfigError, match="'cifar100'"):
    tiny.make_config(evaluation__evaluators=scoring(("cifar10", "cifer100")))
