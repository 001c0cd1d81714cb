"""Published weights into a workdir, out again, and into training."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from contrastive_jax import models
from contrastive_jax.models import pretrained
from contrastive_jax.programs import export, import_weights
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.runs import results_file, runner
from contrastive_jax.training.trainer import nonfinite
from tests.models import small_clip
from tests.programs import calling
from tests.training import tiny

OVERRIDES = {
  "embed_dim": 24,
  "image": {"width": 32, "depth": 1, "num_heads": 2},
  "text": {"width": 32, "depth": 1, "num_heads": 2},
}


def quiet(line):
  del line


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
  tiny.use_devices(monkeypatch, 1)


@pytest.fixture(name="weights", scope="module")
def fixture_weights(tmp_path_factory):
  """A small CLIP's weights, and the folder of images that it is for."""
  root = tmp_path_factory.mktemp("weights")
  tiny.write_folder(root / "data", 24)
  path = root / "clip.safetensors"
  small_clip.write(path, OVERRIDES)
  return path, root / "data"


def recipe(path, **changes):
  values = config_lib.default_config()
  values.override(
    {
      "data": "folder",
      "data.path": str(path),
      "batch_size": 8,
      "log_every": 1,
      "evaluation.plots": False,
      "evaluation.batch_size": 8,
      "model.overrides": OVERRIDES,
      **changes,
    }
  )
  return values


def begun_with(path):
  return {"initial": "weights", "initial.weights": str(path)}


def imported(weights, workdir, **changes):
  path, data = weights
  config = import_weights.configure(
    recipe(data, **changes),
    preset="vit_b32",
    weights=str(path),
    tokenizer="clip",
  )
  return runner.train(config, workdir, report=quiet)


def test_a_workdir_of_published_weights(weights, tmp_path, monkeypatch):
  results = imported(weights, tmp_path / "run")
  assert results["train/steps"] == 0
  assert any("retrieval" in name for name in results)
  run, state = runner.restore(tmp_path / "run", report=quiet)
  assert int(state.step) == 0
  assert run.data.tokenizer.kind == "clip"
  # Evaluated again it is the same.
  assert run.evaluate(state).items() <= results.items()
  # Neither does the way out need the data.
  data = weights[1]
  shutil.move(data, tmp_path / "elsewhere")
  calling.run(
    monkeypatch,
    export,
    workdir=tmp_path / "run",
    out=tmp_path / "out",
    format="weights",
  )
  shutil.move(tmp_path / "elsewhere", data)
  written = pretrained.read_tensors(tmp_path / "out" / "published.safetensors")
  original = pretrained.read_tensors(weights[0])
  assert set(written) == set(original)
  for name, value in original.items():
    np.testing.assert_array_equal(written[name], value, err_msg=name)


def test_zero_shot_on_a_folder_in_the_format_of_coco(weights, tmp_path):
  data = tmp_path / "coco"
  (data / "val2017").mkdir(parents=True)
  images, annotations = [], []
  for i in range(5):
    name = f"{i:012}.jpg"
    Image.new("RGB", (40, 30), (50 * i, 0, 99)).save(data / "val2017" / name)
    images.append({"id": i, "file_name": name})
    annotations += [
      {"image_id": i, "caption": f"caption {k} of image {i}"} for k in range(2)
    ]
  (data / "captions_val2017.json").write_text(
    json.dumps({"images": images, "annotations": annotations})
  )
  lines = []
  config = import_weights.configure(
    recipe(
      data,
      **{"data": "official", "data.format": "coco"},
    ),
    preset="vit_b32",
    weights=str(weights[0]),
    tokenizer="clip",
  )
  assert config.data.fit == "crop"
  assert config.evaluation.evaluators["benchmarks"].fit == "crop"
  assert [*config.evaluation.evaluators][-1] == "benchmarks"
  results = runner.train(config, tmp_path / "run", report=lines.append)
  name = "retrieval/{}/recall_at_{}"
  assert results[name.format("image_to_text", 10)] == 1.0
  assert 0 <= results[name.format("text_to_image", 1)] <= 1
  assert "Note: there is no split test; scores are of validation." in lines


def test_training_begins_with_weights(weights, tmp_path):
  path, data = weights
  values = recipe(
    data,
    **{
      "steps": 1,
      "optimizer.learning_rate": 0.0,
      "ema_decay": 0.5,
      "structure": "consistency",
      "structure.consistency.weight": 0.1,
      "other_view": "momentum",
      "model.preset": "vit_b32",
      "tokenizer": "clip",
      **begun_with(path),
    },
  )
  runner.train(config_lib.parse(values), tmp_path, report=quiet)
  _, state = runner.restore(tmp_path, report=quiet)
  expected = pretrained.read_tensors(path)["visual.conv1.weight"]
  for params in (
    state.params,
    state.ema_params,
    state.objective_state["momentum"]["params"],
  ):
    kernel = np.asarray(params["image"]["patch_embedding"]["kernel"])
    np.testing.assert_allclose(
      kernel, expected.transpose(2, 3, 1, 0), atol=1e-7
    )


@pytest.mark.exhaustive  # A whole run like others.
def test_a_tower_alone(tmp_path):
  tiny.write_folder(tmp_path / "data", 24)
  tower = models.ViT(
    image_size=16, patch_size=8, width=32, depth=1, num_heads=2
  )
  variables = tower.init(jax.random.key(3), jnp.zeros((1, 16, 16, 3)))
  pretrained.save(tower, variables, tmp_path / "vit.safetensors")
  image = {
    "patch_size": 8,
    "embedding_norm": False,
    "patch_bias": True,
    "activation": "gelu",
  }
  values = recipe(
    tmp_path / "data",
    **{
      "steps": 0,
      "model.preset": "vit_b32",
      "model.image_size": 16,
      "model.context_length": 12,
      "model.overrides": {
        **OVERRIDES,
        "image": {**OVERRIDES["image"], **image},
      },
      "data.vocab_size": 300,
      "initial": "weights",
      "initial.image_weights": str(tmp_path / "vit.safetensors"),
    },
  )
  runner.train(config_lib.parse(values), tmp_path / "run", report=quiet)
  _, state = runner.restore(tmp_path / "run", report=quiet)
  tiny.assert_same(state.params["image"], variables["params"])


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"initial.weights": "none.pt"}, "initial.weights: none.pt "),
    ({"tokenizer": ""}, r"misshapen \(1\): token_embedding.weight"),
    ({"tokenizer": "none.txt"}, "config.tokenizer: none.txt "),
    (
      {"initial.image_weights": "x", "initial.weights": ""},
      "initial.image_weights: x ",
    ),
    (
      {"model.preset": "rn50", "model.overrides": {}},
      "initial.weights: .*missing",
    ),
  ],
  ids=str,
)
def test_mistakes_do_not_claim_the_workdir(weights, changes, message, tmp_path):
  path, data = weights
  values = recipe(
    data,
    **{
      "steps": 0,
      "model.preset": "vit_b32",
      "tokenizer": "clip",
      **begun_with(path),
      **changes,
    },
  )
  config = config_lib.parse(values)
  with pytest.raises(config_lib.ConfigError, match=message):
    runner.train(config, tmp_path / "run", report=quiet)
  assert not (tmp_path / "run" / "config.json").exists()


def test_a_vocabulary_that_pads_otherwise_is_refused(weights, tmp_path):
  import tokenizers

  backend = tokenizers.Tokenizer(
    tokenizers.models.WordLevel({"<pad>": 0, "</s>": 1, "a": 2}, "a")
  )
  backend.save(str(tmp_path / "tokenizer.json"))
  fields = {
    "model.preset": "vit_b32",
    "tokenizer": str(tmp_path / "tokenizer.json"),
  }
  config = config_lib.parse(recipe(weights[1], **fields))
  with pytest.raises(config_lib.ConfigError, match="id 1, .*config.tokenizer"):
    runner.train(config, tmp_path / "run", report=quiet)
  fields = {
    "objective": "albef",
    "model.preset": "albef_tiny",
    "tokenizer": "clip",
    "model.overrides": {},
  }
  config = config_lib.parse(recipe(weights[1], **fields))
  with pytest.raises(config_lib.ConfigError, match="config.tokenizer.*clip's"):
    runner.train(config, tmp_path / "other", report=quiet)


def test_weights_that_are_not_finite_make_no_run(weights, tmp_path):
  path, data = weights
  tensors = pretrained.read_tensors(path)
  tensors["visual.proj"] = np.full_like(tensors["visual.proj"], np.nan)
  pretrained.write_safetensors(tmp_path / "nan.safetensors", tensors)
  with pytest.raises(nonfinite.NonFiniteError, match="image_projection"):
    imported((tmp_path / "nan.safetensors", data), tmp_path / "run")
  assert results_file.read(tmp_path / "run") is None


def test_flags_that_are_missing_or_mistyped():
  values = config_lib.default_config()
  with pytest.raises(config_lib.UserError, match="--weights"):
    import_weights.configure(
      values, preset="vit_b32", weights="", tokenizer="clip"
    )
  values.tokenizer = "clip"
  with pytest.raises(config_lib.UserError, match="--weights and --tokenizer"):
    import_weights.configure(
      values, preset="vit_b32", weights="x", tokenizer="clip"
    )
  with pytest.raises(config_lib.UserError, match="--preset .*'vit_b33'"):
    import_weights.configure(
      values, preset="vit_b33", weights="x", tokenizer="clip"
    )
