"""Sets that TFDS has prepared: read without its code, scored, or left out."""

import dataclasses
import io
import json
import types

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from contrastive_jax.data import benchmarks
from contrastive_jax.programs import evaluate
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.evaluators import benchmark_suites, embeddings
from contrastive_jax.training.runs import runner
from tests.training import tiny

with tfds.core.registered.skip_registration():

  class Tiny(tfds.core.GeneratorBasedBuilder):
    """A set of squares: the colour is the class."""

    VERSION = tfds.core.Version("1.2.0")

    def __init__(self, *, classes, sizes, **kwargs):
      self._classes, self._sizes = classes, sizes
      super().__init__(**kwargs)

    def _info(self):
      label = tfds.features.ClassLabel(names=self._classes)
      return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict(
          {"image": tfds.features.Image(encoding_format="png"), "label": label}
        ),
      )

    def _split_generators(self, dl_manager):
      return {
        name: self._generate_examples(size)
        for name, size in self._sizes.items()
      }

    def _generate_examples(self, size):
      for i in range(size):
        label = i % min(3, len(self._classes))
        file = io.BytesIO()
        colour = tuple(int(c == label) * 200 + i % 50 for c in range(3))
        Image.new("RGB", (40, 20), colour).save(file, "png")
        file.seek(0)
        yield i, {"image": file, "label": label}

  class TinySeveral(Tiny):
    """Its images show one class or two, some another that is difficult."""

    def _info(self):
      several = tfds.features.Sequence(
        tfds.features.ClassLabel(names=self._classes)
      )
      return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict(
          {
            "image": tfds.features.Image(encoding_format="png"),
            "labels": several,
            "labels_no_difficult": several,
          }
        ),
      )

    def _generate_examples(self, size):
      for i in range(size):
        shown = [i % 3] if i % 2 else [i % 3, (i + 1) % 3]
        image = np.zeros((20, 40, 3), np.uint8)
        for side, label in ((0, shown[0]), (1, shown[-1])):
          image[:, 20 * side : 20 * side + 20, label] = 200 + i % 50
        file = io.BytesIO()
        Image.fromarray(image).save(file, "png")
        file.seek(0)
        difficult = [(i + 2) % 3] if i % 5 == 0 else []
        yield (
          i,
          {
            "image": file,
            "labels": sorted({*shown, *difficult}),
            "labels_no_difficult": shown if i else [],
          },
        )


def prepare(root, name, classes, *, builder_class=Tiny, **sizes):
  """A set in the place where TFDS keeps that of this name."""
  with tfds.core.registered.skip_registration():
    builder = builder_class(
      classes=classes,
      sizes=sizes,
      data_dir=root / "made",
      file_format="array_record",
    )
  builder.download_and_prepare()
  target = root / name
  target.mkdir(parents=True)
  (root / "made" / builder.name / "1.2.0").rename(target / "1.2.0")


@pytest.fixture(name="root", scope="module")
def fixture_root(tmp_path_factory):
  root = tmp_path_factory.mktemp("tfds")
  names = ["red_thing", "green", "blue"]
  prepare(root, "cifar10", names, train=40, test=12)
  imagenet = ["n01440764", "n01443537", "n01484850", "n01491361"]
  prepare(root, "imagenet_a", imagenet, test=9)
  several = {"builder_class": TinySeveral, "validation": 10}
  prepare(root, "voc/2007", names, **several, train=20, test=12)
  return root


def test_splits(root):
  found = benchmarks.load("cifar10", str(root), image_size=16)
  assert found.classes == ("red thing", "green", "blue")
  assert [
    len(part) for part in (found.train, found.validation, found.test)
  ] == [
    36,
    4,
    12,
  ]
  record = found.test[5]
  assert record["image"].shape == (16, 16, 3)
  # Fitted on white, the colour that of the class.
  np.testing.assert_array_equal(record["image"][0], 255)
  assert record["image"][8, 8].argmax() == record["label"]
  assert found.test.fields(5)["label"] == record["label"]
  seen = sum((found.train[i]["image"][8, 8].tolist() for i in range(36)), [])
  assert len(set(seen)) > 30


def test_images_of_several_classes(root):
  found = benchmarks.load("voc2007", str(root), image_size=16)
  assert found.classes == ("red thing", "green", "blue")
  sizes = [len(part) for part in (found.train, found.validation, found.test)]
  assert sizes == [20, 10, 12]
  rows = [found.test[i] for i in range(12)]
  labels = np.stack([row["label"] for row in rows])
  assert labels.dtype == np.int8 and labels.shape == (12, 3)
  for row, label in zip(rows, labels):
    shown = {c for c in range(3) if row["image"][8, :, c].max() > 150}
    assert set(np.flatnonzero(row["image"][8].min(0) > 250)) == set()
    colours = {int(row["image"][8, x].argmax()) for x in (2, 13)}
    assert colours <= shown
    if (label == 1).any():
      assert set(np.flatnonzero(label == 1)) == colours
    assert (label == -1).sum() in (0, 1, 3)
  # One has difficult objects alone, and two a difficult one beside others.
  assert sorted((labels == -1).sum(1).tolist())[-3:] == [1, 1, 3]
  fields = benchmarks.load("voc2007", str(root), image_size=16).test.fields(3)
  np.testing.assert_array_equal(fields["label"], labels[3])


def test_pictures_of_a_set_become_squares_as_asked(root):
  found = {
    fit: benchmarks.load("cifar10", str(root), image_size=16, fit=fit).test[0]
    for fit in ("pad", "crop", "stretch")
  }
  assert (found["pad"]["image"][0] == 255).all()
  for fit in ("crop", "stretch"):
    assert (found[fit]["image"].min(axis=-1) < 255).all()


def test_names_of_imagenet(root):
  found = benchmarks.load("imagenet_a", str(root), image_size=16)
  assert found.classes == (
    "tench",
    "goldfish",
    "great white shark",
    "tiger shark",
  )
  assert found.train is None
  names = benchmarks.imagenet_names()
  assert len(names) == len(set(names.values())) == 1000
  assert list(names) == sorted(names)


@pytest.mark.parametrize("version", ["1.10.0", "not.a.version"])
def test_the_newest_version_is_read(root, tmp_path, version):
  folder = tmp_path / "cifar10"
  folder.mkdir()
  for name in ("1.2.0", version):
    (folder / name).symlink_to(root / "cifar10/1.2.0")
  expected = max(("1.2.0", "1.10.0")[: 1 + (version == "1.10.0")], key=len)
  assert benchmarks._version(folder, "").name == expected


def test_what_is_not_there(tmp_path):
  with pytest.raises(
    benchmarks.BenchmarkError, match="tfds build dtd --file_f"
  ):
    benchmarks.load("dtd", str(tmp_path), image_size=16)
  with pytest.raises(benchmarks.BenchmarkError, match="choose of imagenet, im"):
    benchmarks.load("voc", str(tmp_path), image_size=16)


def test_a_format_without_random_access(root, tmp_path):
  folder = tmp_path / "cifar10/1.2.0"
  folder.mkdir(parents=True)
  for file in (root / "cifar10/1.2.0").iterdir():
    text = file.read_bytes()
    (folder / file.name).write_bytes(text.replace(b"array_record", b"tfrecord"))
  with pytest.raises(benchmarks.BenchmarkError, match="at random.*tfds build"):
    benchmarks.load("cifar10", str(tmp_path), image_size=16)


def test_a_broken_image(root):
  class Broken(list):
    pass

  source = benchmarks.BenchmarkSource(
    Broken([{"image": b"\x89PNG no", "label": 1}]), 16, "cifar10's split test"
  )
  assert source.fields(0)["label"] == 1
  with pytest.raises(benchmarks.BenchmarkError, match="Image 0 of cifar10's"):
    source[0]


def test_a_set_with_a_broken_image_is_left_out(trained, monkeypatch):
  workdir, results, _ = trained
  run, state = runner.restore(workdir, report=lambda line: None)

  def broken(self, index):
    raise benchmarks.BenchmarkError(f"Image {index} cannot be read.")

  monkeypatch.setattr(benchmarks.BenchmarkSource, "__getitem__", broken)
  lines = []
  again = run.evaluate(state, report=lines.append)
  assert not any(name.startswith("benchmark_") for name in again)
  assert "Left out: cifar10. Image 0 cannot be read." in lines
  name = "retrieval/image_to_text/recall_at_1"
  assert again[name] == results[name]


@pytest.fixture(name="trained", scope="module")
def fixture_trained(root, tmp_path_factory):
  """A run that scores both sets and one that is not there."""
  workdir = tmp_path_factory.mktemp("run") / "run"
  lines = []
  config = tiny.make_config(
    steps=2,
    data__name="folder",
    data__path=str(
      tiny.write_folder(tmp_path_factory.mktemp("images"), 24, labels=True)
    ),
    evaluation__plots=False,
    evaluation__benchmarks="cifar10, imagenet_a,dtd",
    evaluation__benchmarks_dir=str(root),
  )
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
  evaluate._FLAGS(["evaluate", "--benchmarks=cifar10"])
  with pytest.raises(config_lib.UserError, match="got 'cifer10'"):
    evaluate._check_benchmarks("cifar10, cifer10")
  config = evaluate._with_benchmarks(run.config)
  assert config.evaluation.benchmark_names == ("cifar10",)
  assert config.evaluation.benchmarks_dir == str(root)
  again = dataclasses.replace(run, config=config).evaluate(state)
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


def test_a_frozen_image_tower_is_not_fine_tuned(tmp_path):
  encoder = object.__new__(embeddings.Encoder)
  encoder.has_text, encoder.trains_images = True, False
  run = types.SimpleNamespace(encoder=encoder, config=tiny.make_config())
  with pytest.raises(
    config_lib.UserError, match="needs an image tower that is"
  ):
    evaluate._score_suite("elevater_fine_tune", run, None, tmp_path)


@pytest.mark.parametrize(
  "flags, message",
  [
    (["--suite=zeroshot"], "must be some of zero_shot, .*; got 'zeroshot'"),
    (["--suite=probe"], "--suite needs --suite_dir, .*; got ''"),
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
    evaluation__benchmarks="cifar10", data__fit="stretch"
  )
  evaluate._FLAGS.unparse_flags()
  evaluate._FLAGS["fit"].unparse()
  evaluate._FLAGS(["evaluate", "--benchmarks=dtd", *flags])
  changed = evaluate._with_benchmarks(config)
  assert changed.evaluation.benchmark_names == ("dtd",)
  assert changed.data.fit == fit
  scored = []
  monkeypatch.setattr(
    benchmark_suites,
    "run",
    lambda *args, **kwargs: scored.append((args, kwargs)) or {},
  )
  encoder = object.__new__(embeddings.Encoder)
  run = types.SimpleNamespace(config=config, encoder=encoder)
  state = types.SimpleNamespace(step=7)
  evaluate._score_suite("probe", run, state, tmp_path)
  ((args, kwargs),) = scored
  assert kwargs["fit"] == fit and args[-1] == tmp_path / file
  assert (tmp_path / file).with_suffix(".md").exists()


def test_squares_without_a_set_to_score():
  evaluate._FLAGS(["evaluate", "--fit=cover"])
  with pytest.raises(config_lib.UserError, match="pad, crop, stretch; got 'co"):
    evaluate._check_fit()
  evaluate._FLAGS(["evaluate", "--fit=crop", "--benchmarks="])
  config = tiny.make_config(evaluation__benchmarks="cifar10", data__fit="crop")
  with pytest.raises(config_lib.UserError, match="got 'crop' without --suite"):
    evaluate._with_benchmarks(config)
  # What the run has for sets that are not scored now is no mistake.
  evaluate._FLAGS["fit"].unparse()
  assert not evaluate._with_benchmarks(config).evaluation.benchmark_names


def test_a_mistyped_set():
  with pytest.raises(config_lib.ConfigError, match="Did you mean 'cifar100'"):
    tiny.make_config(evaluation__benchmarks="cifar10,cifer100")
