"""Recipes; each opens with its use, command, hardware, duration and score."""
