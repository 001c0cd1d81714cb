"""Mistakes that the user can put right."""


class UserError(ValueError):
  """A mistake that the user can put right, told in one sentence.

  Programs print it without a stack trace; any other `ValueError` is a bug.
  """


class ConfigError(UserError):
  """A field of the configuration is unknown or has a wrong value."""
