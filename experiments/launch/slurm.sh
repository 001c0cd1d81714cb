#!/usr/bin/env bash
# One process a host, all of its GPUs in it, under SLURM.
#
#   sbatch --nodes=4 --gpus-per-node=8 experiments/launch/slurm.sh \
#     --workdir=DIR [--config.x=y ...]
#
# DIR is one that all hosts see. When its time is over the job finishes its step, saves,
# and is put into the queue again, where it goes on; so it is when a host is lost.
# SIGTERM comes 60 s before the end; raise that where a step and a checkpoint take
# longer. A mistake (exit codes 1 and 2) ends it. RESTARTS=N (100) limits the starts.
# Tried with stand-ins for srun and scontrol, not on a cluster.
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@60
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --job-name=contrastive_jax
set -uo pipefail

if [ $# -lt 1 ]; then
  sed -n '2,12s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi

srun python -m experiments.train --coordinator=auto "$@"
code=$?
# 75 is saved; 128 and more are signals, as of a host that is gone.
if [ "$code" -eq 75 ] || [ "$code" -ge 128 ]; then
  if [ "${SLURM_RESTART_COUNT:-0}" -lt "${RESTARTS:-100}" ]; then
    echo "Ended with code $code: job ${SLURM_JOB_ID} goes into the queue again." >&2
    scontrol requeue "$SLURM_JOB_ID" && exit 0
  fi
fi
exit "$code"
