"""Studies of what can go wrong: numbers, processes, files."""
