"""Programs that measure: ratios in one run, never absolute times."""
