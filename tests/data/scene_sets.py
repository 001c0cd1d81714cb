"""Small sets of scenes, for tests."""

import hashlib
import json

from contrastive_jax.data.sets import scenes
from contrastive_jax.data.sets.scenes import generation, rendering

SIZES = scenes.Sizes(train=20, validation=3, test=4, test_unseen_pairs=5)
SETTINGS = scenes.SceneSettings(sizes=SIZES)


def digest(settings, split="train"):
  """Digest of the first block of every task, its texts and drawings."""
  out = hashlib.sha256()
  for task in generation.TASKS:
    for row in generation.rows(settings, task, split, generation.BLOCK):
      out.update(json.dumps(row.texts).encode())
      for scene in row.scenes:
        out.update(scene.dumps().encode())
        out.update(rendering.render(scene, settings.image_size).tobytes())
  return out.hexdigest()
