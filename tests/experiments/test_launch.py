"""The launch scripts, with stand-ins for what starts processes elsewhere."""

import os
import pathlib
import subprocess
import time

import pytest
import yaml

from contrastive_jax import recipes
from contrastive_jax.programs import train

LAUNCH = pathlib.Path(__file__).parents[2] / "experiments" / "launch"
SSH = "ssh pod --zone=z --worker=all"


@pytest.fixture(name="home")
def fixture_home(tmp_path):
  """A folder of stand-ins that come first on the path; each writes its arguments."""
  (tmp_path / "bin").mkdir()
  return tmp_path


def stand_in(home, name, body=""):
  path = home / "bin" / name
  path.write_text(f'#!/bin/bash\necho "{name} $*" >> {home}/calls\n{body}\n')
  path.chmod(0o755)


def run(home, script, *arguments, **environment):
  path = f"{home / 'bin'}:{os.environ['PATH']}"
  return subprocess.run(
    ["bash", str(LAUNCH / script), *arguments],
    cwd=home,
    env={**os.environ, "PATH": path, "WAIT": "0", **environment},
    capture_output=True,
    text=True,
    timeout=60,
  )


def calls(home):
  return (home / "calls").read_text().splitlines()


@pytest.mark.parametrize("script", ["slurm.sh", "tpu_pod.sh", "hosts.sh"])
def test_usage(home, script):
  done = run(home, script)
  assert done.returncode == 2
  assert f"experiments/launch/{script}" in done.stderr


# --- SLURM --------------------------------------------------------------------


@pytest.mark.parametrize(
  "code, restarts, requeued",
  [
    (0, "0", False),
    (1, "0", False),
    (2, "0", False),
    (75, "0", True),
    (134, "3", True),
    (137, "3", True),
    (75, "100", False),
  ],
)
def test_slurm_goes_on_unless_it_is_a_mistake(home, code, restarts, requeued):
  stand_in(home, "srun", f"exit {code}")
  stand_in(home, "scontrol")
  done = run(
    home,
    "slurm.sh",
    "--workdir=a b",
    SLURM_JOB_ID="17",
    SLURM_RESTART_COUNT=restarts,
  )
  first, *others = calls(home)
  assert first == (
    "srun python -m experiments.train --coordinator=auto --workdir=a b"
  )
  assert others == (["scontrol requeue 17"] if requeued else [])
  assert done.returncode == (0 if requeued else code)


# --- TPU ----------------------------------------------------------------------

_SSH = """
for argument in "$@"; do
  case $argument in --command=*) cd "$HOST_HOME"; bash -c "${argument#--command=}" ;; esac
done
"""


def wait_for(path):
  for _ in range(200):
    if path.exists() and path.read_text().strip():
      return path.read_text().strip()
    time.sleep(0.05)
  raise AssertionError(f"{path} did not come.")


@pytest.fixture(name="host")
def fixture_host(home):
  """The one host of a slice: its commands run here."""
  host = home / "host"
  (host / "contrastive_jax").mkdir(parents=True)
  stand_in(home, "gcloud", _SSH)
  stand_in(home, "pip")
  stand_in(home, "git")
  return host


def test_a_tpu_run_goes_on_by_itself(home, host):
  body = f"""
echo "a line"
echo x >> {home}/starts
[ $(wc -l < {home}/starts) -lt 3 ] && exit 75
exit 0"""
  stand_in(home, "python3", body)
  options = {"HOST_HOME": str(host)}
  done = run(
    home,
    "tpu_pod.sh",
    *("start", "pod", "z", "url", "gs dir", "--config.x=a b"),
    **options,
  )
  assert done.returncode == 0, done.stderr
  assert wait_for(host / "run.code") == "0"
  starts = [line for line in calls(home) if line.startswith("python3")]
  expected = (
    "python3 -m experiments.train --coordinator=auto --workdir=gs dir"
    " --config.x=a b"
  )
  assert starts == [expected] * 3
  assert "git" not in {line.split()[0] for line in calls(home)}
  logs = run(home, "tpu_pod.sh", "logs", "pod", "z", **options)
  assert logs.stdout.count("a line") == 3
  status = run(home, "tpu_pod.sh", "status", "pod", "z", **options)
  assert "ended with code 0" in status.stdout and "a line" in status.stdout


@pytest.mark.parametrize("code", [1, 2])
def test_a_mistake_ends_a_tpu_run(home, host, code):
  stand_in(home, "python3", f"exit {code}")
  run(
    home,
    "tpu_pod.sh",
    *("start", "pod", "z", "url", "dir"),
    HOST_HOME=str(host),
  )
  assert wait_for(host / "run.code") == str(code)
  starts = [line for line in calls(home) if line.startswith("python3")]
  assert len(starts) == 1


def test_a_tpu_run_is_stopped_after_its_step(home, host):
  body = f"""
trap 'exit 75' TERM
echo x > {home}/begun
while :; do sleep 0.05; done"""
  stand_in(home, "python3", body)
  options = {"HOST_HOME": str(host)}
  run(home, "tpu_pod.sh", *("start", "pod", "z", "url", "dir"), **options)
  wait_for(home / "begun")
  run(home, "tpu_pod.sh", "stop", "pod", "z", **options)
  assert wait_for(host / "run.code") == "75"
  starts = [line for line in calls(home) if line.startswith("python3")]
  assert len(starts) == 1


def test_a_slice_is_waited_for(home):
  body = f"""
case "$*" in *describe*)
  echo x >> {home}/asked
  [ $(wc -l < {home}/asked) -lt 3 ] && echo PROVISIONING || echo "$END" ;;
esac"""
  stand_in(home, "gcloud", body)
  arguments = "create", "pod", "z", "v5litepod-64", "v2-alpha"
  assert run(home, "tpu_pod.sh", *arguments, END="ACTIVE").returncode == 0
  assert "--accelerator-type=v5litepod-64" in calls(home)[0]
  assert len(calls(home)) == 4
  assert run(home, "tpu_pod.sh", *arguments, END="FAILED").returncode == 1


# --- Kubernetes ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["jobset_gpu.yaml", "jobset_tpu.yaml"])
def test_a_jobset_tells_a_mistake_from_what_goes_on(name):
  manifest = yaml.safe_load((LAUNCH / name).read_text())
  assert manifest["kind"] == "JobSet"
  policy = manifest["spec"]["failurePolicy"]
  assert policy["rules"][0]["action"] == "FailJobSet"
  assert policy["rules"][0]["onJobFailureReasons"] == ["PodFailurePolicy"]
  (job,) = manifest["spec"]["replicatedJobs"]
  job_spec = job["template"]["spec"]
  assert job_spec["parallelism"] == job_spec["completions"]
  assert job_spec["backoffLimit"] == 0
  (rule,) = job_spec["podFailurePolicy"]["rules"]
  assert rule["action"] == "FailJob"
  assert rule["onExitCodes"] == {
    "containerName": "train",
    "operator": "In",
    "values": [1, 2],
  }
  pod = job_spec["template"]["spec"]
  (container,) = pod["containers"]
  assert container["command"][:3] == ["python", "-m", "experiments.train"]
  flags = dict(
    argument.removeprefix("--").split("=", 1)
    for argument in container["command"][3:]
  )
  known = {*train._FLAGS}
  assert all(n in known or n.startswith("config.") for n in flags)
  assert flags.get("config", "clip_emoji") in recipes.names()
  if "process_count" in flags:
    assert int(flags["process_count"]) == job_spec["parallelism"]
    name = manifest["metadata"]["name"]
    assert flags["coordinator"].startswith(f"{name}-{job['name']}-0-0.{name}:")
  mounted = {mount["name"] for mount in container["volumeMounts"]}
  assert mounted == {volume["name"] for volume in pod["volumes"]}
