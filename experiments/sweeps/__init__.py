"""Sweeps as Python files: what a study runs."""
