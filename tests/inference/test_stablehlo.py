"""Encoders as programs: the same embeddings, without this package."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from jax import export

from contrastive_jax import inference
from contrastive_jax.inference import stablehlo
from tests.inference import tiny_model

_ALONE = """
import sys
import jax, numpy as np, safetensors.numpy
from jax import export
folder = sys.argv[1]
weights = safetensors.numpy.load_file(f"{folder}/model.safetensors")
inputs = np.load(f"{folder}/inputs.npz")
out = {}
for side in ("image", "text"):
  with open(f"{folder}/encode_{side}.stablehlo", "rb") as file:
    program = export.deserialize(bytearray(file.read()))
  for rows in (1, 3):
    out[f"{side}{rows}"] = np.asarray(program.call(weights, inputs[side][:rows]))
np.savez(f"{folder}/outputs.npz", **out)
assert not [name for name in sys.modules if name.startswith("contrastive_jax")]
assert "flax" not in sys.modules
"""


def open_model(folder):
  return inference.load(folder, devices=jax.devices()[:1])


def test_they_run_without_the_package(tmp_path):
  folder = tiny_model.write(tmp_path / "model")
  files = stablehlo.save(folder)
  assert [path.name for path in files] == [
    "encode_image.stablehlo",
    "encode_text.stablehlo",
  ]
  model = open_model(folder)
  pictures = tiny_model.pictures(tmp_path / "pictures", 3)
  texts = ["a", "a b", "b b a"]
  tokens = model.tokenizer.encode(texts, 12)
  squares = model.preprocess(pictures)
  np.savez(folder / "inputs.npz", image=squares, text=tokens)
  done = subprocess.run(
    [sys.executable, "-I", "-c", _ALONE, str(folder)],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  expected = {
    "image": model.encode_image(pictures),
    "text": model.encode_text(texts),
  }
  with np.load(folder / "outputs.npz") as found:
    for side, value in expected.items():
      for rows in (1, 3):
        np.testing.assert_allclose(
          found[f"{side}{rows}"], value[:rows], atol=1e-6
        )


def test_they_are_for_every_platform_and_head(tmp_path):
  folder = tiny_model.write(tmp_path / "model", independent_head="linear")
  names = {path.stem for path in stablehlo.save(folder)}
  assert names == {
    f"encode_{side}{head}"
    for side in ("image", "text")
    for head in ("", "_independent")
  }
  data = (folder / "encode_text_independent.stablehlo").read_bytes()
  program = export.deserialize(bytearray(data))
  assert program.platforms == stablehlo.PLATFORMS
  model = open_model(folder)
  weights = {
    name: np.asarray(x)
    for name, x in stablehlo.layers.by_path(model.variables).items()
  }
  found = program.call(weights, model.tokenizer.encode(["a b"], 12))
  np.testing.assert_allclose(
    found, model.encode_text("a b", head="independent"), atol=1e-6
  )


def test_a_model_without_an_encoder(tmp_path, monkeypatch):
  folder = tiny_model.write(tmp_path / "model")
  monkeypatch.setattr(inference.Model, "heads", ())
  with pytest.raises(inference.ModelError, match="no encoder"):
    stablehlo.save(folder)
