"""The names that a package exports, for tests that walk over them."""

import types


def public_names(package):
  """Names of a package's list of exports, without its modules."""
  return {
    name
    for name, value in vars(package).items()
    if not name.startswith("_") and not isinstance(value, types.ModuleType)
  }
