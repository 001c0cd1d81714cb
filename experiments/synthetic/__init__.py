"""Studies on models so small that every quantity is known."""
