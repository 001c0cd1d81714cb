"""Types that all of training shares."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  import jax

# A pytree of arrays, by name at its top: parameters, or the state of an objective.
Params = Mapping[str, Any]
# Arrays with a row an example, by name.
Batch = Mapping[str, "jax.Array"]
# Receives lines for the user.
Report = Callable[[str], None]
