"""Starts `contrastive_jax.programs.export_weights`, whose flags it takes."""

from contrastive_jax.programs import export_weights

if __name__ == "__main__":
  export_weights.start()
