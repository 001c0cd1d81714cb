"""The programs that a user starts."""
