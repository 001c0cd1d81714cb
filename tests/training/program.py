"""The training program, started as processes of their own."""

import os
import socket
import subprocess
import sys

from tests import compiling

STEPS = 3


def free_port():
  """A port that nothing listens on."""
  with socket.socket() as s:
    s.bind(("localhost", 0))
    return s.getsockname()[1]


def fields_of(folder, *, fsdp):
  """Fields of a tiny run of CLIP on a folder, by dotted name."""
  return {
    "steps": STEPS,
    "batch_size": 16,
    "fsdp": fsdp,
    "log_every": 1,
    "checkpoint_every": 2,
    "data": "folder",
    "data.path": str(folder),
    "data.vocab_size": 300,
    "objective.captions_per_example": 1,
    "model.image_size": 16,
    "model.context_length": 12,
    "model.overrides": {
      "image": {"widths": (8, 16), "depths": (1, 1)},
      # Large enough to be split: 300 x 256.
      "text": {"width": 256, "depth": 1, "num_heads": 4},
      "embed_dim": 16,
    },
    "evaluation.retrieval.every": 2,
    "evaluation.plots": False,
    "evaluation.batch_size": 8,
  }


def command(fields, workdir, *more):
  """The command that trains with these fields."""
  return [
    sys.executable,
    "-m",
    "experiments.train",
    *(f"--config.{k}={_text(v)}" for k, v in fields.items()),
    f"--workdir={workdir}",
    *more,
  ]


def start(commands, devices, **variables):
  """Runs commands at once, each with so many simulated devices."""
  env = {
    **os.environ,
    **variables,
    "XLA_FLAGS": compiling.xla_flags(devices),
    "JAX_PLATFORMS": "cpu",
  }
  return [
    subprocess.Popen(
      c, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    for c in commands
  ]


def unscored(fields):
  """The same without evaluators: neither validations nor scores."""
  others = {k: v for k, v in fields.items() if not k.endswith(".every")}
  return others | {"evaluation": ()}


def _text(value):
  return ",".join(value) if isinstance(value, tuple) else str(value)
