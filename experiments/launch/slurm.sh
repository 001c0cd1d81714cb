#!/usr/bin/env bash
# One process a host, all of its GPUs in it, under SLURM.
#
#   sbatch --nodes=4 --gpus-per-node=8 experiments/launch/slurm.sh \
#     --workdir=DIR [--config.x=y ...]
#
# DIR is one that all hosts see. The job ends its step and saves nothing by itself
# when its time is over: the same command again resumes at the last checkpoint.
# Not tried on a cluster.
#SBATCH --ntasks-per-node=1
#SBATCH --job-name=contrastive_jax
set -euo pipefail

srun python -m experiments.train --coordinator=auto "$@"
