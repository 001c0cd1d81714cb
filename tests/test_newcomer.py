"""A newcomer's path: train, load, embed, search, export, begin another run, go on.

The guide use.md tells it. After training nothing knows where its data were.
"""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

import contrastive_jax
from contrastive_jax.programs import embed, export, search
from contrastive_jax.training.runs import runner
from tests.inference import tiny_model
from tests.programs.calling import run
from tests.training import tiny

_ALONE = """
import sys
import jax, numpy as np, safetensors.numpy
folder = sys.argv[1]
weights = safetensors.numpy.load_file(f"{folder}/model.safetensors")
with open(f"{folder}/encode_image.stablehlo", "rb") as file:
  program = jax.export.deserialize(bytearray(file.read()))
np.save(f"{folder}/out.npy", program.call(weights, np.load(f"{folder}/in.npy")))
"""


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
  tiny.use_devices(monkeypatch, 1)


def train(data, workdir, **changes):
  config = tiny.make_config(
    data="folder",
    data__path=str(data),
    data__vocab_size=tiny.VOCABULARY,
    **{"steps": 20, "evaluation": (), "evaluation__plots": False, **changes},
  )
  return runner.train(config, workdir, report=lambda line: None)


def test_from_the_first_step_to_the_next_run(tmp_path, monkeypatch, capsys):
  data = tiny.write_folder(tmp_path / "data", 30)
  train(data, tmp_path / "run")
  data.rename(tmp_path / "moved away")

  model = contrastive_jax.load(tmp_path / "run", devices=jax.devices()[:1])
  photos = tmp_path / "photos"
  pictures = tiny_model.pictures(photos, 100)
  embeddings = model.encode_image(photos)
  assert embeddings.shape == (100, 16)
  texts = model.encode_text(["red thing 1", "une tasse rouge"])
  assert model.similarity(embeddings, texts).shape == (100, 2)
  assert len(model.classify(embeddings, ["cup", "dog"]).names) == 100

  common = {"model": tmp_path / "run"}
  out = tmp_path / "embedded"
  run(monkeypatch, embed, inputs=[str(photos)], out=out, **common)
  run(
    monkeypatch,
    search,
    embeddings=out,
    image=[str(pictures[42])],
    query=["red thing 1"],
    k=1,
    out=tmp_path / "found.jsonl",
    **common,
  )
  found = [
    json.loads(line)["found"][0]
    for line in (tmp_path / "found.jsonl").read_text().splitlines()
  ]
  assert found[1]["key"] == str(pictures[42])
  best = int(np.argmax(embeddings @ texts[0]))
  assert found[0]["key"] == str(pictures[best])

  folder = tmp_path / "exported"
  run(
    monkeypatch,
    export,
    workdir=tmp_path / "run",
    out=folder,
    format="stablehlo",
  )
  np.save(folder / "in.npy", model.preprocess(pictures[:5]))
  command = [sys.executable, "-I", "-c", _ALONE, str(folder)]
  subprocess.run(command, check=True, capture_output=True)
  np.testing.assert_allclose(
    np.load(folder / "out.npy"), embeddings[:5], atol=1e-6
  )

  other = tiny.write_folder(tmp_path / "other", 24)
  begun = {
    "initial": "run",
    "initial__workdir": str(folder),
    "optimizer__learning_rate": 0.0,
    "ema_decay": 0.0,
  }
  train(other, tmp_path / "second", steps=1, **begun)
  second = contrastive_jax.load(tmp_path / "second", devices=jax.devices()[:1])
  np.testing.assert_array_equal(second.encode_image(photos), embeddings)
  assert train(other, tmp_path / "second", steps=3, **begun)["train/steps"] == 3
  del capsys
