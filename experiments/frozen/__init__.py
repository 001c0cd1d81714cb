"""Studies on frozen features: two linear maps, many runs at once."""
