"""Types that all of training shares."""

from collections.abc import Callable, Mapping

import jax

from contrastive_jax._types import Batch as Batch
from contrastive_jax._types import Params as Params

# Unit-norm features by name, [N, d] or [N, K, d].
Features = Mapping[str, jax.Array]
# Numbers of a step by name.
Metrics = dict[str, jax.Array]
# Receives lines for the user.
Report = Callable[[str], None]
