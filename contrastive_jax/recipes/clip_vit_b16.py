r"""CLIP ViT-B/16 on a TPU pod: bfloat16, rematerialised, batch 32,768.

python -m experiments.train --config=clip_vit_b16 \
    --config.data.path=DIR --workdir=runs/clip_vit_b16

Hardware: 256 chips of v5e or more. Compiled ahead of time for the topologies in
experiments/results/pod.md, not run.
"""

from contrastive_jax.training import config as config_lib


def get_config() -> config_lib.ConfigDraft:
  """The recipe."""
  config = config_lib.default_config()
  config.steps = 100_000
  config.batch_size = 32_768
  config.log_every = 50
  config.checkpoint_every = 1000
  config.data = "folder"
  config.data.path = "pairs"
  config.model.preset = "vit_b16"
  config.model.image_size = 224
  config.model.context_length = 77
  config.model.dtype = "bfloat16"
  config.model.remat = True
  config.augment.crop_scale = (0.5, 1.0)
  config.augment.color_jitter = 0.0
  config.optimizer.learning_rate = 1e-3
  config.optimizer.weight_decay = 0.2
  config.optimizer.warmup_share = 0.02
  config.evaluation.retrieval.every = 5000
  return config
