"""Mistakes that the user can put right, and a run that was asked to stop."""


class UserError(ValueError):
  """A mistake that the user can put right, told in one sentence.

  Programs print it without a stack trace; any other `ValueError` is a bug.
  """


class ConfigError(UserError):
  """A field of the configuration is unknown or has a wrong value."""


class Stopped(Exception):  # noqa: N818  It is no error.
  """A run has saved and ended early, because a signal asked it to."""
