"""Starts `contrastive_jax.programs.export`, whose flags it takes."""

from contrastive_jax.programs import export

if __name__ == "__main__":
  export.start()
