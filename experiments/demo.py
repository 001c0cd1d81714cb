"""Starts `contrastive_jax.programs.demo`, whose flags it takes."""

from contrastive_jax.programs import demo

if __name__ == "__main__":
  demo.start()
