"""Runs: data opened, a model built, trained and evaluated in a workdir."""
