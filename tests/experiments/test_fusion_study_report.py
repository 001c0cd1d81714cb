"""Tests of experiments.fusion_study_report."""

import json
import pathlib
import subprocess
import sys

import pytest

from contrastive_jax.programs import reporting
from contrastive_jax.recipes import _fusion
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.config import workdirs
from experiments import fusion_study, fusion_study_report


@pytest.fixture(name="workdir")
def fixture_workdir(tmp_path):
  """A pre-training and one task, as the trainer leaves them."""
  stages = fusion_study.stages(tmp_path, ["vqa", "nlvr2"], seed=3)
  recall = "image_to_text/recall_at_1"
  results = {
    "pretraining": {
      f"retrieval/{recall}": 0.25,
      "retrieval/text_to_image/recall_at_1": 0.125,
      f"retrieval_reranked/{recall}": 0.5,
      "retrieval_reranked/text_to_image/recall_at_1": 0.375,
      "train/seconds": 90.0,
    },
    "vqa": {
      "vqa/accuracy": 0.75,
      "vqa/accuracy/colour": 0.5,
      "vqa/accuracy/shape": 0.875,
      "vqa/text_only_accuracy": 0.3,
      "vqa_validation/text_only_accuracy": 0.4,
      "vqa_validation/accuracy": 0.8,
      "train/seconds": 120.0,
    },
  }
  metrics = {
    "pretraining": [
      {"step": 60, "train/examples_per_second": 32.0},
      {"step": 60, f"retrieval_validation/{recall}": 0.1},
      {"step": 120, "train/examples_per_second": 16.0},
      {"step": 120, f"retrieval_validation/{recall}": 0.2},
    ],
    "vqa": [
      {
        "step": 30,
        "train/examples_per_second": 8.0,
        "vqa_validation/accuracy": 0.7,
        "vqa_validation/accuracy/colour": 0.1,
      }
    ],
  }
  for name, config in stages.items():
    folder = tmp_path / name
    folder.mkdir()
    workdirs.write_json(folder / "config.json", config.to_dict())
    if name in results:
      workdirs.write_json(folder / "results.json", results[name])
      rows = "".join(json.dumps(row) + "\n" for row in metrics[name])
      (folder / "metrics.jsonl").write_text(rows)
  return tmp_path


def test_minutes_are_those_of_training(workdir):
  record = fusion_study_report.collect(workdir)
  # Batches of 32, then of 16: a second a step, then two; and two again.
  assert list(record["stages"]) == ["pretraining", "vqa"]
  assert record["stages"]["pretraining"]["config"]["batch_size"] == 32
  assert record["stages"]["pretraining"]["curve"] == [(1.0, 0.1), (3.0, 0.2)]
  # The last score is in the results.
  assert record["stages"]["vqa"]["curve"] == [(1.0, 0.7), (1.0, 0.8)]


def test_the_page_tells_what_was_reached(workdir):
  page = fusion_study_report.page("x", fusion_study_report.collect(workdir))
  assert "python -m experiments.fusion_study --tasks=vqa --seed=3" in page
  assert (
    "| the caption of an image, among 500 images' | 0.250 | 0.500 |" in page
  )
  assert "| the image of a caption, among 500 images' | 0.125 | 0.375 |" in page
  steps = f"{_fusion.STEPS['vqa']:,}"
  assert f"| questions (VQA) | {steps} | 2.0 | 0.750 | – | 0.300 |" in page
  assert page.index("| shape | 0.875 |") < page.index("| colour | 0.500 |")
  assert "nlvr2" not in page.lower()


@pytest.mark.parametrize(
  "factors, command",
  [
    ({"pretraining": 2, "vqa": 2}, "--tasks=vqa --seed=3 --times=2"),
    ({"pretraining": 2}, "# Each stage by hand, with the steps of the table."),
  ],
)
def test_the_page_tells_of_other_steps(workdir, factors, command):
  record = fusion_study_report.collect(workdir)
  for name, factor in factors.items():
    record["stages"][name]["config"]["steps"] *= factor
  assert command in fusion_study_report.page("x", record)


def test_record_and_picture_are_written(workdir, tmp_path):
  out = tmp_path / "out"
  out.mkdir()
  digest = reporting.digest(fusion_study_report.collect(workdir))
  (out / "x.reading.md").write_text(
    f"<!-- record {digest} -->\nBeside other work.\n"
  )
  done = subprocess.run(
    [
      sys.executable,
      "-m",
      "experiments.fusion_study_report",
      f"--workdir={workdir}",
      "--name=x",
      f"--out={out}",
    ],
    cwd=pathlib.Path(__file__).parents[2],
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
  assert f"Wrote x.json, .md and .png to {out}." in done.stdout
  assert (out / "x.png").read_bytes().startswith(b"\x89PNG")
  record = json.loads((out / "x.json").read_text())
  assert record["stages"]["vqa"]["results"]["vqa/accuracy"] == 0.75
  # Nothing tells where it was made.
  assert str(workdir) not in (out / "x.json").read_text()
  page = (out / "x.md").read_text()
  assert "0.875" in page and "```\n\nBeside other work.\n\n|" in page


def test_without_a_finished_pretraining(workdir):
  (workdir / "pretraining" / "results.json").unlink()
  with pytest.raises(config_lib.UserError, match="pretraining"):
    fusion_study_report.collect(workdir)
