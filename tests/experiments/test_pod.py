"""The ahead-of-time program, and what it reads from compiled text."""

import importlib.util

import jax
import pytest

from contrastive_jax.training import config as config_lib
from experiments.benchmarks import hlo, pod
from tests.training import tiny, tiny_tasks
from tests.training import tiny_albef as albef

TEXT = """
  %ag = bf16[64,512]{1,0:T(8,128)} all-gather(bf16[4,512]{1,0} %p), channel_id=1, replica_groups=[16,16]<=[256], dimensions={0}
  %rs = f32[4,512]{1,0} reduce-scatter(f32[64,512]{1,0} %x), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  %ar = (f32[8]{0}, f32[2,2]{1,0}) all-reduce(f32[8]{0} %a, f32[2,2]{1,0} %b), replica_groups=[1,8]<=[8], to_apply=%add
  %as = (f32[4]{0}, f32[16]{0}) all-gather-start(f32[4]{0} %c), replica_groups=[2,4]<=[8], dimensions={0}
  %ad = f32[16]{0} all-gather-done((f32[4]{0}, f32[16]{0}) %as)
  %dot = f32[4,4]{1,0} dot(f32[4,8]{1,0} %q, f32[8,4]{1,0} %k)
"""


def test_collectives_of_a_program():
  assert list(hlo.collectives(TEXT)) == [
    hlo.Collective("all-gather", 16, 64 * 512 * 2),
    hlo.Collective("reduce-scatter", 4, 4 * 4 * 512 * 4),
    hlo.Collective("all-reduce", 8, 4 * (8 + 4)),
    hlo.Collective("all-gather", 4, 4 * 16),
  ]


@pytest.mark.parametrize(
  "kind, group, size, sent",
  [
    ("all-gather", 4, 100, 75.0),
    ("reduce-scatter", 4, 100, 75.0),
    ("all-reduce", 4, 100, 150.0),
    ("collective-permute", 4, 100, 100.0),
    ("all-gather", 1, 100, 0.0),
  ],
)
def test_bytes_that_a_device_sends(kind, group, size, sent):
  assert hlo.Collective(kind, group, size).sent == sent


@pytest.mark.parametrize(
  "fsdp", [pytest.param(False, marks=pytest.mark.exhaustive), True]
)
def test_the_step_of_a_recipe_is_compiled_and_described(fsdp):
  config = tiny.make_config(fsdp=fsdp)
  compiled, seconds, products = pod.compile_step(
    config, jax.devices()[:8], vocabulary=4096, stored=16
  )
  numbers = pod.describe(compiled, "v5e", 8, products)
  assert numbers["flops"] == products / 8
  assert seconds > 0 and numbers["flops"] > 0
  assert numbers["memory_total"] < numbers["memory_of_chip"]
  # The embeddings (4,096 x 32) are large enough to be split.
  whole = 4 * 4096 * 32
  assert (numbers["memory"]["arguments"] < 2 * whole) == fsdp
  assert {"all-gather", "all-reduce"} <= numbers["collectives"].keys()
  assert "fits" in pod.page(numbers)
  row = {
    "preset": "tiny",
    "batch_size": 8,
    "microbatches": 2,
    "topology": "v5e:2x4",
    "fsdp": fsdp,
    **numbers,
  }
  line = pod.record_page([row]).splitlines()[-1]
  assert line.startswith("| tiny | 8 | 2 | v5e:2x4 | 8 |")
  assert "(memory)" in line
  # A program that little effort leaves unfused is no bound of the traffic.
  row["effort"] = -1.0
  line = pod.record_page([row]).splitlines()[-1]
  assert "(memory)" not in line and "; little effort) |" in line


@pytest.mark.parametrize("objective", ["albef", "vqa", "nlvr2", "entailment"])
def test_the_forms_of_a_batch_are_the_pipelines(objective):
  if objective == "albef":
    config, batch = albef.make_config(), albef.make_batch()
  else:
    more = {"objective__answers_per_question": 2} if objective == "vqa" else {}
    config = tiny_tasks.make_config(objective, **more)
    batch = tiny_tasks.batch_of(objective)
  forms = pod.batch_forms(config, 16)
  assert forms.keys() == batch.keys()
  for name, form in forms.items():
    assert form.shape == batch[name].shape, name
    # JAX makes int32 of the number of an example.
    if name != "index":
      assert form.dtype == batch[name].dtype, name


@pytest.mark.parametrize("name", ["v9:2x2", "v5e"])
def test_unknown_topologies(name):
  with pytest.raises(config_lib.UserError, match="--topology"):
    pod.topology_devices(name)


@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is not None, reason="libtpu is there"
)
def test_without_libtpu_it_says_what_to_install():
  with pytest.raises(config_lib.UserError, match=r'pip install "\.\[tpu\]"'):
    pod.topology_devices("v5e:2x4")
