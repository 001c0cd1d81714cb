"""Starts `contrastive_jax.programs.evaluate`, whose flags it takes."""

from contrastive_jax.programs import evaluate

if __name__ == "__main__":
  evaluate.start()
