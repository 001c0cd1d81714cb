"""Starts `contrastive_jax.programs.search`, whose flags it takes."""

from contrastive_jax.programs import search

if __name__ == "__main__":
  search.start()
