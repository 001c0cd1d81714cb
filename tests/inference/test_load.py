"""A trained model without its run: opened, asked, refused."""

import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import contrastive_jax
from contrastive_jax import evaluation, inference
from contrastive_jax.training.config import workdirs
from contrastive_jax.training.runs import model_folder, runner
from tests.training import tiny

WORDS = ["red thing 1", "blue thing 5", "an unknown one"]
HEADS = ("shared", "independent", "both")


class Trained:
  """A finished run on a folder, and what its evaluation makes of it."""

  def __init__(self, root, **changes):
    data = tiny.write_folder(root / "data", 24, labels=True)
    config = tiny.make_config(
      data="folder",
      data__path=str(data),
      data__vocab_size=tiny.VOCABULARY,
      **{"steps": 4, "checkpoint_every": 2, "evaluation__plots": False},
      **changes,
    )
    self.workdir = root / "run"
    self.results = runner.train(config, self.workdir, report=lambda line: None)
    self.run, self.state = runner.restore(
      self.workdir, report=lambda line: None
    )
    self.source = self.run.data.splits["train"]
    self.files = list(self.source._paths["image"])

  def images(self, state=None, **head):
    encoder = self.run.encoder
    return encoder.images(state or self.state, self.source, **head).images

  def texts(self, **head):
    return self.run.encoder.texts(self.state, WORDS, **head)


@pytest.fixture(scope="module", name="trained")
def fixture_trained(tmp_path_factory):
  with pytest.MonkeyPatch.context() as patch:
    tiny.use_devices(patch, 1)
    yield Trained(tmp_path_factory.mktemp("clip"), structure__separation=0.5)


def load(folder, **options):
  options = {"batch_size": 8, "devices": jax.devices()[:1], **options}
  return contrastive_jax.load(folder, **options)


@pytest.fixture(scope="module", name="model")
def fixture_model(trained):
  return load(trained.workdir)


@pytest.fixture(name="folder")
def fixture_folder(trained, tmp_path):
  """A copy of the model's folder, to be sent or spoiled."""
  return shutil.copytree(trained.workdir / "model", tmp_path / "sent")


# --- As its run ---------------------------------------------------------------


def test_it_embeds_as_its_run_does(trained, folder):
  assert {path.name for path in folder.iterdir()} == {
    "README.md",
    "config.json",
    "model.safetensors",
    "tokenizer.json",
  }
  # Whoever may read one may read all.
  assert len({path.stat().st_mode for path in folder.iterdir()}) == 1
  model = load(folder)
  assert len(trained.files) > 2 * model.batch_size
  assert model.heads == HEADS
  for head in HEADS:
    # In every bit: batches have the same form.
    np.testing.assert_array_equal(
      model.encode_image(trained.files, head=head), trained.images(head=head)
    )
    np.testing.assert_allclose(
      model.encode_text(WORDS, head=head), trained.texts(head=head), atol=1e-6
    )
  params = trained.state.eval_params
  assert model.description.logit_scale == pytest.approx(
    np.exp(params["log_logit_scale"])
  )
  assert model.description.logit_bias == 0 and not model.description.sigmoid


def test_no_data_and_no_training_library_are_needed(folder):
  code = (
    "import sys, contrastive_jax\n"
    "model = contrastive_jax.load(sys.argv[1])\n"
    "assert model.encode_text('a').shape == (1, 16)\n"
    "unwanted = ('grain', 'orbax', 'tensorflow_datasets', 'optax')\n"
    "assert not [name for name in unwanted if name in sys.modules]\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", code, str(folder)], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("devices", [2, 8])
def test_devices_share_a_batch(trained, model, devices):
  other = load(trained.workdir, devices=jax.devices()[:devices], batch_size=5)
  assert other.batch_size % devices == 0
  files = trained.files[:11]
  np.testing.assert_allclose(
    other.encode_image(files), model.encode_image(files), atol=1e-6
  )
  np.testing.assert_allclose(
    other.encode_text(WORDS), model.encode_text(WORDS), atol=1e-6
  )


def test_bfloat16_is_near(trained, model):
  half = load(trained.workdir, dtype="bfloat16")
  found = half.encode_image(trained.files)
  assert found.dtype == np.float32
  exact = model.encode_image(trained.files)
  assert np.sum(found * exact, axis=1).min() > 0.99
  assert np.abs(found - exact).max() > 0


def test_an_earlier_checkpoint_without_data(trained, tmp_path):
  workdir = shutil.copytree(trained.workdir, tmp_path / "moved")
  changed = json.loads((workdir / "config.json").read_text())
  changed["data"]["path"] = "/gone"
  (workdir / "config.json").write_text(json.dumps(changed))
  assert model_folder.export(workdir, tmp_path / "out", step=2) == 2
  _, state = runner.restore(trained.workdir, step=2, report=lambda line: None)
  found = load(tmp_path / "out").encode_image(trained.files)
  np.testing.assert_array_equal(found, trained.images(state))
  assert np.abs(found - trained.images()).max() > 1e-4
  # The newest is that of the run's end, card and all.
  assert model_folder.export(workdir, tmp_path / "last") == 4
  for name in ("model.safetensors", "tokenizer.json"):
    last = (tmp_path / "last" / name).read_bytes()
    assert last == (trained.workdir / "model" / name).read_bytes()
  with pytest.raises(workdirs.WorkdirError, match="3"):
    model_folder.export(workdir, tmp_path / "none", step=3)


def test_the_card_has_scores_and_their_items(trained):
  card = (trained.workdir / "model" / "README.md").read_text()
  name = "retrieval/image_to_text/recall_at_1"
  items = len(trained.run.data.splits["test"])
  assert f"| `{name}` | {trained.results[name]:.3f} | {items} |" in card


# --- Inputs -------------------------------------------------------------------


def test_a_picture_in_any_form(trained, model, tmp_path):
  pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 3), np.uint8)
  folder = tmp_path / "pictures" / "inner"
  folder.mkdir(parents=True)
  Image.fromarray(pixels).save(folder / "b.png")
  Image.fromarray(pixels[::-1]).save(tmp_path / "pictures" / "a.PNG")
  (folder / "notes.txt").write_text("no picture")
  (folder / ".hidden.png").write_text("neither")
  path, image = folder / "b.png", Image.fromarray(pixels)
  expected = model.encode_image([str(path), path, image, pixels])
  assert np.ptp(expected, axis=0).max() == 0 and expected.shape == (4, 16)
  one = expected[:1]
  for single in (path, image, pixels, pixels[None], jax.numpy.asarray(pixels)):
    np.testing.assert_allclose(model.encode_image(single), one, atol=1e-6)
  both = model.encode_image(tmp_path / "pictures")
  assert inference.files_in(tmp_path / "pictures") == [
    tmp_path / "pictures" / "a.PNG",
    path,
  ]
  np.testing.assert_allclose(both[1:], one, atol=1e-6)
  squares = model.preprocess([image, pixels])
  size = model.description.pictures.stored_size
  assert squares.shape == (2, size, size, 3) and squares.dtype == np.uint8
  # Padded with white above and below.
  assert (squares[0][0] == 255).all() and (squares[0][size // 2] < 255).any()
  np.testing.assert_allclose(
    model.encode_image(squares), expected[:2], atol=1e-6
  )


def test_none_is_none(model):
  assert model.encode_image([]).shape == (0, 16)
  assert model.encode_text([]).shape == (0, 16)
  assert model.encode_text([], head="both").shape == (0, 32)
  assert model.preprocess([]).shape[0] == 0


def test_few_shapes_are_compiled(trained):
  model = load(trained.workdir)
  for count in (1, 2, 3, 4, 5, 7, 8, 9, 20):
    model.encode_text(["red"] * count)
  assert model._functions["text", "shared"]._cache_size() == 4  # 1, 2, 4, 8.


@pytest.mark.parametrize(
  "images, named",
  [
    (["/no/such.png"], [r"images\[0\]", "/no/such.png"]),
    ([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3))], [r"images\[1\]"]),
    ([np.zeros((4, 4), np.uint8)], [r"images\[0\]", r"\(4, 4\)"]),
    (np.zeros((4, 4), np.uint8), ["images", r"\(4, 4\)"]),
    ([3], [r"images\[0\]", "int"]),
    (3, ["images", "int"]),
  ],
)
def test_what_is_no_picture_is_named(model, images, named):
  with pytest.raises(ValueError, match=".*".join(named)):
    model.encode_image(images)


def test_a_broken_file_and_an_empty_folder_are_named(model, tmp_path):
  broken = tmp_path / "broken.png"
  broken.write_bytes(b"\x89PNG nothing")
  with pytest.raises(ValueError, match=r"images\[0\].*broken\.png"):
    model.encode_image([broken])
  broken.unlink()
  with pytest.raises(ValueError, match=str(tmp_path)):
    model.encode_image(tmp_path)


def test_texts_and_heads_are_checked(model):
  with pytest.raises(ValueError, match=r"texts\[1\].*int"):
    model.encode_text(["a", 3])
  with pytest.raises(ValueError, match="head.*shared, independent, both.*'no'"):
    model.encode_text("a", head="no")
  with pytest.raises(ValueError, match="batch_size"):
    inference.Model(model.description, model.variables, batch_size=0)


# --- Comparing ----------------------------------------------------------------


def test_similarity_and_classes(trained, model):
  images, texts = model.encode_image(trained.files), model.encode_text(WORDS)
  logits = model.similarity(images, texts)
  scale = model.description.logit_scale
  np.testing.assert_allclose(logits, scale * images @ texts.T, rtol=1e-5)
  names, templates = ["red", "blue"], ["{}", "a {} thing {x}"]
  found = model.classify(images, names, templates=templates)
  texts = [t.replace("{}", n) for n in names for t in templates]
  weights = evaluation.zero_shot_weights(
    model.encode_text(texts).reshape(2, 2, -1)
  )
  expected = jax.nn.softmax(scale * images @ weights.T, axis=1)
  np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
  assert found.names == [names[i] for i in np.argmax(expected, axis=1)]
  again = model.classify(trained.files, names, templates=templates)
  np.testing.assert_allclose(
    again.probabilities, found.probabilities, atol=1e-6
  )
  with pytest.raises(ValueError, match="images.*encode"):
    model.similarity(trained.files, texts)
  with pytest.raises(ValueError, match="templates.*'nothing'"):
    model.classify(images, names, templates=["nothing"])
  with pytest.raises(ValueError, match="labels"):
    model.classify(images, [])


def test_a_sigmoid_model_has_a_bias(tmp_path, monkeypatch):
  tiny.use_devices(monkeypatch, 1)
  trained = Trained(tmp_path, loss="sigmoid")
  model = load(trained.workdir)
  params = trained.state.eval_params
  assert model.description.sigmoid and model.heads == ("shared",)
  assert model.description.logit_bias == pytest.approx(
    float(params["logit_bias"])
  )
  images, names = model.encode_image(trained.files[:4]), ["red", "blue"]
  found = model.classify(images, names, templates=["{}"])
  logits = model.similarity(images, model.encode_text(names))
  np.testing.assert_allclose(
    found.probabilities, 1 / (1 + np.exp(-logits)), rtol=1e-4
  )


# --- Folders ------------------------------------------------------------------


def test_what_is_no_model_is_refused(tmp_path):
  with pytest.raises(inference.ModelError, match="model.safetensors"):
    load(tmp_path / "none")
  (tmp_path / "begun" / "checkpoints").mkdir(parents=True)
  with pytest.raises(inference.ModelError, match="export"):
    load(tmp_path / "begun")


def edited(folder, **changes):
  path = folder / "config.json"
  values = json.loads(path.read_text()) | changes
  path.write_text(json.dumps({k: v for k, v in values.items() if v != "gone"}))


@pytest.mark.parametrize(
  "changes, named",
  [
    ({"format": "other"}, ["config.json", "'other'"]),
    ({"preset": "no_such"}, ["no_such"]),
    ({"preset": "os:system"}, ["os:system"]),
    ({"overrides": {"image": {"no": 1}}}, ["no"]),
    ({"image_size": 0}, ["image_size", "0"]),
    ({"surprise": 1}, ["surprise"]),
    ({"kind": "other"}, ["kind", "other"]),
    ({"pictures": {"fit": "bend"}}, ["pictures", "fit", "bend"]),
    ({"pictures": 3}, ["pictures", "3"]),
    ({"logit_scale": "x"}, ["logit_scale", "x"]),
    ({"context_length": 10}, ["position_embedding", "12"]),
    ({"independent_head": ""}, ["independent"]),
  ],
)
def test_a_description_that_is_wrong_is_refused(folder, changes, named):
  edited(folder, **changes)
  with pytest.raises(inference.ModelError, match="(?s)" + ".*".join(named)):
    load(folder)


def test_damaged_files_are_refused(folder):
  whole = (folder / "model.safetensors").read_bytes()
  (folder / "model.safetensors").write_bytes(whole[:-10])
  with pytest.raises(inference.ModelError, match="model.safetensors"):
    load(folder)
  (folder / "model.safetensors").write_bytes(whole)
  (folder / "config.json").write_text("{")
  with pytest.raises(inference.ModelError, match="config.json"):
    load(folder)


def test_another_vocabulary_is_refused(folder):
  (folder / "tokenizer.json").write_text("{}")
  with pytest.raises(inference.ModelError, match="tokenizer.json"):
    load(folder)
  (folder / "tokenizer.json").unlink()
  with pytest.raises(inference.ModelError, match="tokenizer.json"):
    load(folder)


def test_weights_of_another_model_are_not_written(trained, model, tmp_path):
  variables = {"params": {"image": model.variables["params"]["image"]}}
  with pytest.raises(inference.ModelError, match="image_independent.*absent"):
    inference.save(tmp_path / "out", model.description, variables)
  assert not (tmp_path / "out").exists()
