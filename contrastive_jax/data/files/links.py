"""Links in a folder that somebody else made."""

import os
import pathlib


def leading_out(folder: pathlib.Path) -> pathlib.Path | None:
  """A link that leads out of a folder, where writing would follow it.

  Args:
    folder: an existing directory, which may be a link itself.

  Returns:
    The first such link; None if there is none. One in a circle is one.
  """
  root = folder.resolve()
  for where, folders, files in os.walk(root):
    for name in (*folders, *files):
      path = pathlib.Path(where, name)
      if path.is_symlink() and not _is_inside(path, root):
        return path
  return None


def _is_inside(path: pathlib.Path, root: pathlib.Path) -> bool:
  try:
    return path.resolve().is_relative_to(root)
  except (OSError, RuntimeError):
    return False
