"""A network that predicts an anchor's log-partition from its embedding."""

import jax.numpy as jnp
from flax import linen as nn

from contrastive_jax._types import Array


class PartitionNetwork(nn.Module):
  r"""Three-layer MLP with a residual connection (AmorLIP).

  .. math:: x \leftarrow \mathrm{relu}\big( x + N(\mathrm{relu}(W_2 \,
    N(\mathrm{relu}(W_1 x)))) \big), \qquad f = w_3^T x

  with layer normalisation N, and a bias in every layer. One for each direction:
  it sees the anchor alone, so it can know what all negatives add up to, and not
  the positive, which the caller subtracts.

  Attributes:
    width: width of the hidden layer over that of the embedding, > 0; AmorLIP takes
      0.5 and 1.
    blocks: residual blocks of two layers each; AmorLIP has one, and with the last
      layer three in all. 0 is the last layer alone.

  References: Sun et al., "AmorLIP: efficient language-image pretraining via
  amortization", 2025, and its code (`ResidualMLP`).

  >>> import jax, jax.numpy as jnp
  >>> network = PartitionNetwork(width=0.5)
  >>> out, variables = network.init_with_output(jax.random.key(0), jnp.ones((2, 8)))
  >>> out.shape, sorted(variables["params"])
  ((2,), ['fc1_0', 'fc2_0', 'norm1_0', 'norm2_0', 'out'])
  """

  width: float = 1.0
  blocks: int = 1

  @nn.compact
  def __call__(self, features: Array) -> Array:
    """Maps floating [..., d] to float32 [...].

    Args:
      features: unit-norm embeddings; they get a gradient unless it is stopped.

    Raises:
      ValueError: if a field is out of its range, naming it.
    """
    if not self.width > 0:
      raise ValueError(f"width must be > 0; got {self.width}.")
    if self.blocks < 0:
      raise ValueError(f"blocks must be >= 0; got {self.blocks}.")
    x = jnp.asarray(features, jnp.float32)
    dim = x.shape[-1]
    hidden = max(int(dim * self.width), 1)
    for i in range(self.blocks):
      y = x
      for layer, size in enumerate((hidden, dim), start=1):
        y = nn.relu(nn.Dense(size, name=f"fc{layer}_{i}")(y))
        y = nn.LayerNorm(epsilon=1e-5, name=f"norm{layer}_{i}")(y)
      x = nn.relu(x + y)
    return nn.Dense(1, name="out")(x)[..., 0]
