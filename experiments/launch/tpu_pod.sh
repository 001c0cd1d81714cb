#!/usr/bin/env bash
# A run on all hosts of a TPU pod slice (Google Cloud), which goes on without this shell.
#
#   experiments/launch/tpu_pod.sh create NAME ZONE TYPE VERSION
#   experiments/launch/tpu_pod.sh start NAME ZONE GIT_URL WORKDIR [--config.x=y ...]
#   experiments/launch/tpu_pod.sh status NAME ZONE
#   experiments/launch/tpu_pod.sh logs NAME ZONE
#   experiments/launch/tpu_pod.sh stop NAME ZONE
#
# create asks for a slice (queued resources) such as TYPE v5litepod-64 with VERSION
# v2-alpha-tpuv5-lite, and waits for it. start clones and installs on every host and
# leaves the run there; a run that is saved (exit code 75) starts again by itself. WORKDIR
# is one that all hosts see (a mounted bucket or disk). logs prints what every host has
# said, status how far each is, stop ends the run after its step, saved.
# Tried with a stand-in for gcloud, not on a pod.
set -euo pipefail

usage() {
  sed -n '2,15s/^# \{0,1\}//p' "$0" >&2
  exit 2
}

least() {  # Arguments that there must be.
  [ "$1" -ge "$2" ] || usage
}

on_all() {  # Runs a command on every host of the slice $name in $zone.
  gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"
}

least $# 3
what=$1 name=$2 zone=$3
shift 3
case $what in
  create)
    least $# 2
    gcloud compute tpus queued-resources create "$name" --node-id="$name" \
      --zone="$zone" --accelerator-type="$1" --runtime-version="$2"
    while :; do
      state=$(gcloud compute tpus queued-resources describe "$name" --zone="$zone" \
        --format='value(state.state)')
      echo "$name: $state"
      case $state in
        ACTIVE) break ;;
        FAILED | SUSPENDED) exit 1 ;;
      esac
      sleep "${WAIT:-30}"
    done
    ;;
  start)
    least $# 2
    url=$1 workdir=$2
    shift 2
    run="python3 -m experiments.train --coordinator=auto --workdir=$(printf %q "$workdir")"
    for argument in "$@"; do
      run+=" $(printf %q "$argument")"
    done
    # A session of its own: it stays when the connection ends. The loop ends with the
    # exit code of the run in run.code.
    loop="code=75; while [ \$code -eq 75 ] && [ ! -e ../run.stop ]; do"
    loop+=" $run & echo \$! > ../run.pid; wait \$!; code=\$?; done; echo \$code > ../run.code"
    on_all "
      set -e
      [ -d contrastive_jax ] || git clone -q $(printf %q "$url") contrastive_jax
      cd contrastive_jax
      pip install -q -e '.[train,tpu]'
      rm -f ../run.code ../run.stop
      nohup setsid bash -c $(printf %q "$loop") > ../run.log 2>&1 < /dev/null &
      echo started"
    ;;
  status)
    on_all 'echo "$(hostname): $([ -e run.code ] && echo "ended with code $(cat run.code)" ||
      echo "at work"); $(tail -n 1 run.log | tr "\r" "\n" | tail -n 1)"'
    ;;
  logs)
    on_all 'sed "s/^/$(hostname): /" run.log'
    ;;
  stop)
    on_all 'touch run.stop; kill -TERM "$(cat run.pid)"'
    ;;
  *)
    usage
    ;;
esac
