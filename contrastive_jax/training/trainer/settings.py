"""The numbers by which the loop trains, logs and saves."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class TrainerSettings:
  """Numbers of the loop; `config.Config` has fields of the same names."""

  steps: int
  batch_size: int
  seed: int = 0
  microbatches: int = 1
  images_per_concept: int = 1
  fsdp: bool = False
  ema_decay: float = 0.0
  skip_nonfinite: int = 0
  log_every: int = 20
  checkpoint_every: int = 200
  keep_checkpoints: int = 2
  keep_every: int = 0
  keep_best: bool = False
