"""Grids of configurations over seeds: `python -m experiments.sweep --help`."""

from experiments.sweep.types import Arm, Job, Runs, Sweep

__all__ = ["Arm", "Job", "Runs", "Sweep"]
