"""Starts `contrastive_jax.programs.train`, whose flags it takes."""

from contrastive_jax.programs import train

if __name__ == "__main__":
  train.start()
