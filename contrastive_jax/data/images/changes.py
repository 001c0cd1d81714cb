"""Random changes of images, as a run asks for them: without JAX."""

import dataclasses

from contrastive_jax.choices import field


@dataclasses.dataclass(frozen=True)
class Changes:
  """Random changes of images. One whose probability or strength is 0 is free."""

  random_resized_crop: bool = field(
    True, "Whether a random box of the image is cropped and resized."
  )
  crop_scale: tuple[float, float] = field(
    (0.5, 1.0), "Range of the crop's share of the area."
  )
  crop_ratio: tuple[float, float] = field(
    (0.75, 1.3333333), "Range of the crop's width / height."
  )
  flip: float = field(0.0, "Probability of a left-right flip.", low=0, high=1)
  color_jitter: float = field(
    0.8, "Probability of the colour jitter.", low=0, high=1
  )
  brightness: float = field(
    0.3, "Maximum relative change of brightness.", low=0, high=10
  )
  contrast: float = field(
    0.3, "Maximum relative change of contrast.", low=0, high=10
  )
  saturation: float = field(
    0.3, "Maximum relative change of saturation.", low=0, high=10
  )
  hue: float = field(
    0.0, "Maximum change of the hue, in turns.", low=0, high=0.5
  )
  grayscale: float = field(
    0.0, "Probability that an image becomes grey.", low=0, high=1
  )
  blur: float = field(0.0, "Probability of Gaussian blur.", low=0, high=1)
  solarize: float = field(
    0.0, "Probability that bright pixels are inverted.", low=0, high=1
  )
  randaugment_num_ops: int = field(
    0, "Operations of RandAugment; 0 has none.", low=0
  )
  randaugment_magnitude: float = field(
    7.0, "Magnitude of RandAugment, out of 10.", low=0, high=10
  )
