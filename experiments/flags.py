"""Flags of the programs: a config file, overrides, readable help and errors."""

from collections.abc import Callable, Sequence
import pathlib
import sys
from typing import Any, NoReturn

from absl import app
from absl import flags
from absl import logging
from ml_collections import config_flags

from contrastive_jax.training import config as config_lib

DEFAULT_CONFIG = str(
    pathlib.Path(__file__).parent / "configs" / "clip_emoji.py"
)
# Mistakes of the user: told in a sentence, without a stack trace.
_EXPECTED = (ValueError, FileNotFoundError, PermissionError)


def define_config() -> flags.FlagHolder[Any]:
  """Defines --config: a recipe whose fields --config.NAME=VALUE change."""
  return config_flags.DEFINE_config_file(
      "config", DEFAULT_CONFIG, "The recipe; --config.NAME=VALUE changes it."
  )


def run(main: Callable[[], None], *, usage: str) -> NoReturn:
  """Parses the command line and calls `main`.

  Mistakes in flags, configuration or data end the program with one sentence
  on standard error and exit code 2.

  Args:
    main: the program.
    usage: what `--help` prints first.
  """

  def checked(argv: Sequence[str]) -> None:
    if len(argv) > 1:
      _stop(f"unexpected argument {argv[1]!r}; all arguments are --flags.")
    # Libraries report every file that they touch; a run has its own lines.
    logging.set_verbosity(logging.ERROR)
    try:
      main()
    except _EXPECTED as error:
      _stop(str(error))
    except KeyboardInterrupt:
      _stop("interrupted; the same command resumes at the last checkpoint.")

  app.run(checked, flags_parser=lambda argv: _parse(argv, usage))


def _parse(argv: Sequence[str], usage: str) -> list[str]:
  if any(a in ("--help", "-help", "-h", "--helpfull", "-?") for a in argv):
    print(usage.rstrip() + "\n\n" + _field_help())
    sys.exit(0)
  argv = [_expand(a) for a in argv]
  _check_names(argv)
  try:
    return flags.FLAGS(argv)
  except flags.UnrecognizedFlagError as error:
    hint = f" Did you mean --{error.suggestions[0]}?" if (
        error.suggestions
    ) else " See --help."
    _stop(f"--{error.flagname} is no flag.{hint}")
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as e:
    _stop(f"{e} See --help.")
  except (FileNotFoundError, ImportError, SyntaxError) as error:
    _stop(f"--config cannot be read: {error}")


def _expand(argument: str) -> str:
  """--config.data=folder means --config.data.name=folder."""
  for section in ("data", "loss"):
    prefix = f"--config.{section}="
    if argument.startswith(prefix):
      return f"--config.{section}.name={argument.removeprefix(prefix)}"
  return argument


def _check_names(argv: Sequence[str]) -> None:
  """Refuses overrides of fields that do not exist, naming the nearest."""
  known = {name for name, _, _ in config_lib.fields()}
  sections = {name.split(".")[0] for name in known if "." in name}
  for argument in argv:
    if not argument.lstrip("-").startswith("config."):
      continue
    name = argument.lstrip("-").removeprefix("config.").split("=")[0]
    if name in sections:
      _stop(
          f"--config.{name} is a group of fields; set one of them, such as"
          f" --config.{config_lib.nearest(name + '.')}."
      )
    if name not in known:
      _stop(
          f"--config.{name} is not a field; did you mean"
          f" --config.{config_lib.nearest(name)}? See --help."
      )


def _field_help() -> str:
  lines = ["Fields (--config.NAME=VALUE), with their library defaults:"]
  section = None
  for name, default, doc in config_lib.fields():
    if name.split(".")[0] != section and "." in name:
      section = name.split(".")[0]
      lines.append("")
    lines.append(f"  {name:<34} {default!r:<20} {doc}")
  return "\n".join(lines)


def _stop(message: str) -> NoReturn:
  print(f"Error: {message}", file=sys.stderr)
  sys.exit(2)
