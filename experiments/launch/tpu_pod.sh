#!/usr/bin/env bash
# Starts a run on all hosts of a TPU pod slice (Google Cloud).
#
#   experiments/launch/tpu_pod.sh NAME ZONE GIT_URL WORKDIR [--config.x=y ...]
#
# WORKDIR is one that all hosts see (a mounted bucket or disk). The same command
# again resumes there. Not tried on a pod.
set -euo pipefail

if [ $# -lt 4 ]; then
  sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
name=$1 zone=$2 url=$3 workdir=$4
shift 4

run="python3 -m experiments.train --coordinator=auto --workdir=$(printf %q "$workdir")"
for argument in "$@"; do
  run+=" $(printf %q "$argument")"
done
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="
  set -e
  [ -d contrastive_jax ] || git clone -q $(printf %q "$url") contrastive_jax
  cd contrastive_jax
  pip install -q -e '.[train,tpu]'
  $run"
