"""Types that all of training shares."""

from collections.abc import Callable, Mapping
from typing import Any

# A pytree of arrays, by name at its top: parameters, or the state of an objective.
Params = Mapping[str, Any]
# Arrays of JAX or NumPy by name, with a row an example each.
Batch = Mapping[str, Any]
# Receives lines for the user.
Report = Callable[[str], None]
