"""Recipes; each opens with its command, hardware, duration and score."""
