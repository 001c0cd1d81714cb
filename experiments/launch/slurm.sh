#!/usr/bin/env bash
# One process a host, all of its GPUs in it, under SLURM.
#
#   sbatch --nodes=4 --gpus-per-node=8 experiments/launch/slurm.sh \
#     --workdir=DIR [--config.x=y ...]
#
# DIR is one that all hosts see. When its time is over the job finishes its step,
# saves, and ends with code 75: the same command again goes on from there. SIGTERM
# comes 60 s before the end; raise that where a step and a checkpoint take longer.
# Not tried on a cluster.
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@60
#SBATCH --job-name=contrastive_jax
set -euo pipefail

srun python -m experiments.train --coordinator=auto "$@"
