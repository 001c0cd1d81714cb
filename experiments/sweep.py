"""Starts `contrastive_jax.programs.sweep`, whose flags it takes."""

from contrastive_jax.programs.sweep import program

SHIPPED = """
Sweeps (experiments/sweeps/):
  clip_small_batches            InfoNCE, DCL, the augmented loss at three batch sizes
  fine_tuning:emoji             maps on published towers against CLIP from scratch
  fine_tuning:openclipart       the same on Open Clip Art
  fusion_structure              ALBEF with regularisers, and without each of its losses
  fusion_structure:nlvr2        its regularisers for statements about two images
  latent_structure              regularisers on four terms with a plain first view
  latent_structure:augmented    the same with both views changed; two seeds so far
  latent_structure:two_terms    CLIP with each regulariser, weights tuned
  latent_structure:ablation     each regulariser without each of its terms
  latent_structure:bridge       Brownian bridges with a momentum encoder
  latent_structure:momentum     regularisers with features of a momentum encoder
  latent_structure:openclipart  regularisers on Open Clip Art
  modality_gap                  CLIP with a loss that closes the gap
  ssl_small_batches:simclr      SimCLR with each loss at five batch sizes
  ssl_small_batches:moco_v3     the same with MoCo v3
  ssl_small_batches:simclr_emoji, ssl_small_batches:moco_v3_emoji
                                on emoji, two artists' drawings as views
"""

if __name__ == "__main__":
  program.start(SHIPPED)
