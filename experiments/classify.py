"""Starts `contrastive_jax.programs.classify`, whose flags it takes."""

from contrastive_jax.programs import classify

if __name__ == "__main__":
  classify.start()
