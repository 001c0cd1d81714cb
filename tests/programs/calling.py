"""Programs called in this process, with flags."""


def run(patch, program, **values):
  """Calls a program's `main`; flags that are not named have their defaults."""
  program._FLAGS.unparse_flags()
  program._FLAGS(["program"])
  for name, value in values.items():
    known = value if isinstance(value, (list, int)) else str(value)
    patch.setattr(program._FLAGS[name], "value", known)
  program.main()
