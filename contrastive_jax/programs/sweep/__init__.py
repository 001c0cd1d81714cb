"""Grids of configurations over seeds: `contrastive-jax sweep --help`."""

from contrastive_jax.programs.sweep.program import start
from contrastive_jax.programs.sweep.types import Arm, Job, Runs, Sweep

__all__ = ["Arm", "Job", "Runs", "Sweep", "start"]
