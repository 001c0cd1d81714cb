"""Compiles a recipe's train step for a TPU pod, on a machine without one.

python -m experiments.benchmarks.pod --topology=v5e:16x16 --config=clip_vit_b16

Needs the extra `tpu`. The step is the one that `experiments.train` runs; it is
compiled, not run: memory and collectives are the compiler's, time is a bound. Fields
of the recipe such as --config.batch_size=32768 change it; one whose data is a folder
takes any --config.data.path.
"""

import collections
import functools
import json
import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from contrastive_jax.programs import command_line as flags_lib
from contrastive_jax.programs import reporting
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.distributed import sharding
from contrastive_jax.training.objectives.choices import OBJECTIVES
from contrastive_jax.training.objectives.contrasts import LOSSES
from contrastive_jax.training.runs import build
from contrastive_jax.training.trainer import loop
from contrastive_jax.training.trainer import state as state_lib
from experiments import studies
from experiments.benchmarks import flops as flops_lib
from experiments.benchmarks import hlo, timing

_FLAGS = flags.FlagValues()
_string = functools.partial(flags.DEFINE_string, flag_values=_FLAGS)
_integer = functools.partial(flags.DEFINE_integer, flag_values=_FLAGS)
_CONFIG = flags_lib.define_config(flag_values=_FLAGS)
_TOPOLOGY = _string("topology", "v5e:16x16", "v5e:AxB, v6e:AxB or v5p:AxBxC.")
_VOCABULARY = _integer("vocabulary", 49408, "Tokens; CLIP has 49408.")
_STORED = _integer(
  "stored", 256, "Side of the images that the step receives, pixels."
)
_EXAMPLES = _integer(
  "examples",
  1_281_167,
  "Training examples, an entry each in the augmented loss's tables; ImageNet has"
  " 1281167.",
)
_EFFORT = flags.DEFINE_float(
  "effort",
  0.0,
  "Effort of the compiler's optimisation: -1 takes minutes where 0 takes a quarter"
  " of an hour and more.",
  lower_bound=-1.0,
  upper_bound=1.0,
  flag_values=_FLAGS,
)
_RECORD = _string("record", "", "JSON file that the numbers are added to.")

# Published peaks of a chip: bfloat16 FLOP/s, HBM bytes, HBM bytes/s, and bytes/s
# between chips (all links together).
CHIPS = {
  "v5e": (197e12, 16 * 2**30, 819e9, 200e9),
  "v5p": (459e12, 95 * 2**30, 2765e9, 600e9),
  "v6e": (918e12, 32 * 2**30, 1640e9, 448e9),
}


def topology_devices(name: str) -> list[Any]:
  """Devices of a TPU topology such as "v5e:16x16", for compiling alone.

  Raises:
    config_lib.UserError: if the topology is unknown or libtpu is not installed.
  """
  kind = name.split(":")[0]
  if kind not in CHIPS or ":" not in name:
    raise config_lib.UserError(
      f"--topology must be KIND:AxB[xC] with KIND one of {', '.join(CHIPS)};"
      f" got {name!r}."
    )
  # Nobody is asked which machine this is.
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
  # Compiling needs no chip for itself: several processes may do it at once.
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "true")
  from jax.experimental import topologies

  try:
    described = topologies.get_topology_desc(name, "tpu")
  except Exception as error:  # Whatever libtpu, or its absence, raises.
    raise config_lib.UserError(
      f"--topology={name} cannot be compiled for ({error}); is libtpu"
      ' installed (pip install ".[tpu]")?'
    ) from error
  return list(described.devices)


def compile_step(
  config: config_lib.Config,
  devices: list[Any],
  *,
  vocabulary: int,
  stored: int,
  examples: int = 1,
) -> tuple[Any, float, float]:
  """The train step of a run on these devices.

  Args:
    config: the run.
    devices: real ones, or those of a topology.
    vocabulary: tokens.
    stored: side of the images that the step receives.
    examples: of the data, an entry each in the augmented loss's tables.

  Returns:
    The compiled step, seconds that it took, and FLOPs of its products over all
    devices.
  """
  mesh = sharding.make_mesh(devices)
  objective = build.build_objective(
    config, vocab_size=vocabulary, num_examples=examples, mesh=mesh
  )
  given = timing.trainer_arguments(config, objective)
  settings = given["settings"]
  sharding.check_batch_size(settings.batch_size, settings.microbatches, mesh)
  step = state_lib.make_train_step(objective, **given)
  state = loop.abstract_state(settings, objective, given["optimizer"], mesh)
  rows = sharding.batch_sharding(mesh)
  batch = {
    name: jax.ShapeDtypeStruct(form.shape, form.dtype, sharding=rows)
    for name, form in batch_forms(config, stored).items()
  }
  began = time.monotonic()
  with jax.sharding.set_mesh(mesh):
    traced = jax.jit(step, donate_argnums=0).trace(state, batch)
    compiled = traced.lower().compile()
  seconds = time.monotonic() - began
  return compiled, seconds, flops_lib.products(traced.jaxpr)


def batch_forms(
  config: config_lib.Config, stored: int
) -> dict[str, jax.ShapeDtypeStruct]:
  """The arrays that a train step takes, by name; `stored` is the images' side."""
  length, texts = config.model.context_length, config.captions_per_example
  # Types and last axes; all have a row an example.
  forms: dict[str, tuple[Any, ...]] = {
    "image": (jnp.uint8, stored, stored, 3),
    "index": (jnp.int32,),
  }
  objective: Any = config.objective
  if objective.task in ("vqa", "nlvr2", "entailment"):
    texts = objective.texts_per_image
    if objective.task == "nlvr2":
      forms["image"] = (jnp.uint8, 2, stored, stored, 3)
    if objective.task == "vqa":
      answers = texts, objective.answers_per_question
      forms["answers"] = (jnp.int32, *answers, objective.answer_length)
      forms["weights"] = (jnp.float32, *answers)
    else:
      forms["label"] = (jnp.int32, texts)
  else:
    forms["concept_id"] = (jnp.int32,)
  forms["tokens"] = (jnp.int32, texts, length)
  return {
    name: jax.ShapeDtypeStruct((config.batch_size, *shape), dtype)
    for name, (dtype, *shape) in forms.items()
  }


def describe(
  compiled: Any, kind: str, devices: int, products: float
) -> dict[str, Any]:
  """Numbers of a compiled program, of one of so many chips of a kind.

  Args:
    compiled: the program.
    kind: a name in `CHIPS`.
    devices: how many.
    products: FLOPs of the products, over all devices.

  Returns:
    Memory by kind, FLOPs, collectives by kind and bounds of the step's time.
  """
  memory = compiled.memory_analysis()
  kinds = {
    "arguments": memory.argument_size_in_bytes,
    "outputs": memory.output_size_in_bytes,
    "shared by both": -memory.alias_size_in_bytes,
    "temporary": memory.temp_size_in_bytes,
    "code": memory.generated_code_size_in_bytes,
  }
  sent: dict[str, list[float]] = collections.defaultdict(lambda: [0, 0.0])
  try:
    text = compiled.as_text()
  except jax.errors.JaxRuntimeError as error:
    # Some versions of XLA cannot print what they have compiled.
    print(
      f"Note: the compiled text cannot be read, collectives are unknown"
      f" ({str(error).splitlines()[0][:100]})."
    )
    text = ""
  for collective in hlo.collectives(text):
    sent[collective.kind][0] += 1
    sent[collective.kind][1] += collective.sent
  cost = compiled.cost_analysis() or {}
  # The traced program knows how often a loop runs; XLA counts its body once.
  flops, moved = products / devices, cost.get("bytes accessed", 0.0)
  peak, capacity, bandwidth, links = CHIPS[kind]
  seconds = {
    "products": flops / peak,
    "memory": moved / bandwidth,
    "links": sum(b for _, b in sent.values()) / links,
  }
  return {
    "devices": devices,
    "memory": kinds,
    "memory_total": sum(kinds.values()),
    "memory_of_chip": capacity,
    "flops": flops,
    "bytes_accessed": moved,
    "collectives": {k: {"count": c, "sent": b} for k, (c, b) in sent.items()},
    "seconds_at_least": seconds,
  }


def page(numbers: Mapping[str, Any]) -> str:
  """The numbers as text."""
  gibi = 2**30
  total, capacity = numbers["memory_total"], numbers["memory_of_chip"]
  fits = "fits" if total <= capacity else "DOES NOT FIT"
  return "\n".join(
    [
      "memory of a chip, GiB",
      *(f"  {k:<16}{v / gibi:10.3f}" for k, v in numbers["memory"].items()),
      f"  {'all':<16}{total / gibi:10.3f} of {capacity / gibi:.0f}: {fits}",
      f"FLOPs of products   {numbers['flops']:.3e}",
      "collectives (count, MB sent by a chip)",
      *(
        f"  {kind:<20}{found['count']:4}{found['sent'] / 1e6:12.1f}"
        for kind, found in sorted(numbers["collectives"].items())
      ),
      "step, at least (seconds)",
      *(f"  {k:<16}{v:10.4f}" for k, v in numbers["seconds_at_least"].items()),
    ]
  )


def record_page(rows: Sequence[Mapping[str, Any]]) -> str:
  """Recorded numbers as a Markdown table."""
  kinds = ("all-gather", "all-reduce", "reduce-scatter")
  names = ("preset", "objective", "loss", "structure")
  table = []
  for row in rows:
    sent = {
      kind: f"{found['count']} ({found['sent'] / 1e6:.0f} MB)"
      for kind, found in row["collectives"].items()
    }
    seconds = dict(row["seconds_at_least"])
    hurried = row.get("effort", 0.0) < 0
    if hurried:
      del seconds["memory"]
    bound = max(seconds, key=seconds.__getitem__)
    table.append(
      [
        ", ".join(row[name] for name in names if row.get(name)),
        f"{row['batch_size']:,}",
        f"{row['microbatches']}",
        row["topology"],
        f"{row['devices']:,}",
        "yes" if row["fsdp"] else "no",
        f"{row['memory_total'] / 2**30:.2f}",
        f"{row['memory_of_chip'] / 2**30:.0f}",
        f"{row['flops']:.2e}",
        *(sent.get(kind, "–") for kind in kinds),
        f"{seconds[bound]:.2f} ({bound}{'; little effort' if hurried else ''})",
      ]
    )
  return studies.page(
    "# Train steps on TPU pods, compiled ahead of time",
    "Compiled, not run. Numbers of one chip: memory, FLOPs of products, megabytes"
    " sent by collectives, and the largest of the bounds of a step's time"
    " (products, memory, links; peaks as published). FLOPs count a loop as often"
    " as it runs, collectives and bytes of memory traffic once. A dash: none"
    " found, or (v6e, v5p) XLA could not print its text, so unknown. Rows of little"
    " effort were compiled with --effort=-1: their memory is what that program needs;"
    " its traffic, which fewer fusions inflate, is no bound.",
    studies.shell(
      "python -m experiments.benchmarks.pod --topology=T --config.batch_size=N \\",
      "  --config=NAME --record=experiments/results/pod.json",
    ),
    "NAME is a recipe: clip_vit_b16 where the preset stands alone, else the one whose"
    " objective and loss stand beside it; the last word names a term of"
    " config.structure.",
    reporting.table(
      [
        *("preset", "batch", "microbatches", "topology", "chips", "FSDP"),
        *("memory, GiB", "of", "FLOPs", *kinds, "step, s, at least"),
      ],
      table,
    ),
  )


def _names(config: config_lib.Config) -> dict[str, str]:
  """A run's objective, its loss and the terms of its structure, if it has any."""
  loss, structure = config.loss, config.structure
  terms = [*structure.terms] if structure else []
  if structure and not structure.augmented_sides and "consistency" in terms:
    terms[terms.index("consistency")] += " without augmentation"
  four = " of four terms" if getattr(loss, "in_modal", False) else ""
  return {
    "objective": OBJECTIVES.name_of(config.objective),
    "loss": LOSSES.name_of(loss) + four if loss else "",
    "structure": " + ".join(terms),
  }


def main() -> None:
  """Runs the program."""
  config = config_lib.parse(_CONFIG.value)
  jax.config.update("jax_exec_time_optimization_effort", _EFFORT.value)
  devices = topology_devices(_TOPOLOGY.value)
  print(f"{_TOPOLOGY.value}: {len(devices)} devices; compiling ...", flush=True)
  compiled, seconds, products = compile_step(
    config,
    devices,
    vocabulary=_VOCABULARY.value,
    stored=_STORED.value,
    examples=_EXAMPLES.value,
  )
  kind = _TOPOLOGY.value.split(":")[0]
  numbers = describe(compiled, kind, len(devices), products)
  print(f"Compiled in {seconds:.0f} s (compiled, not run).")
  print(page(numbers))
  if _RECORD.value:
    path = pathlib.Path(_RECORD.value)
    rows = json.loads(path.read_text("utf-8")) if path.exists() else []
    rows.append(
      {
        "topology": _TOPOLOGY.value,
        "batch_size": config.batch_size,
        "microbatches": config.microbatches or 1,
        "preset": config.model.preset,
        **_names(config),
        "fsdp": config.fsdp,
        "effort": _EFFORT.value,
        "compile_seconds": seconds,
        **numbers,
      }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(record_page(rows), encoding="utf-8")


if __name__ == "__main__":
  flags_lib.run(main, flag_values=_FLAGS, usage=__doc__)
