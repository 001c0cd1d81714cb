"""Starts `contrastive_jax.programs.convert`, whose flags it takes."""

from contrastive_jax.programs import convert

if __name__ == "__main__":
  convert.start()
