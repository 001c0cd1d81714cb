"""Starts `contrastive_jax.programs.import_weights`, whose flags it takes."""

from contrastive_jax.programs import import_weights

if __name__ == "__main__":
  import_weights.start()
