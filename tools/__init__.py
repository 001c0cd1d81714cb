"""Programs that made the data that ship with the package; not in its wheel."""
