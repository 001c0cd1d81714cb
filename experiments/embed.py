"""Starts `contrastive_jax.programs.embed`, whose flags it takes."""

from contrastive_jax.programs import embed

if __name__ == "__main__":
  embed.start()
