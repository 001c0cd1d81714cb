"""Evaluators: each measures a state on a data set."""
