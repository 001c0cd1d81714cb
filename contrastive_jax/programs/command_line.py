"""Flags of the programs: a config file, overrides, readable help and errors."""

import difflib
import math
import os
import pathlib
import re
import signal
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from contrastive_jax.data.sets.folder import reading
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.config import errors
from contrastive_jax.training.distributed import processes
from contrastive_jax.training.trainer import nonfinite
from experiments import allocator

DEFAULT_CONFIG = str(
  pathlib.Path(__file__).parents[1] / "recipes" / "clip_emoji.py"
)
# What config_flags takes for the command line; `parse` fills it.
_ARGV: list[str] = []
# Mistakes of the user (or a full disk): a sentence without a stack trace. Any
# other ValueError is a bug, of ours or of a library, and keeps its trace.
_EXPECTED = (config_lib.UserError, reading.DataError, OSError)


class _Terminated(BaseException):
  """SIGTERM, where nothing would be saved by waiting."""


def _terminate(number: int, frame: Any) -> NoReturn:
  del number, frame
  raise _Terminated


def define_config(*, flag_values: flags.FlagValues) -> flags.FlagHolder[Any]:
  """Defines --config: a recipe whose fields --config.NAME=VALUE change."""
  # No default here: with one, the overrides of sys.argv would be read when
  # this is imported, before they are checked and written out.
  return config_flags.DEFINE_config_file(
    "config",
    None,
    "The recipe; --config.NAME=VALUE changes it.",
    flag_values=flag_values,
    sys_argv=_ARGV,
  )


def run(
  main: Callable[[], None],
  *,
  flag_values: flags.FlagValues,
  usage: str,
  interrupted: str = "",
  trains: bool = False,
) -> NoReturn:
  """Parses the command line and calls `main`.

  Mistakes in flags, configuration or data end the program with one sentence
  on standard error and exit code 2; a run that became NaN with code 1. A signal
  ends training after the step, with a checkpoint and code 75, by which schedulers
  know that the same command goes on; what has no steps ends at once, by Ctrl-C with
  130 and by SIGTERM with 143, as shells have it.

  Args:
    main: the program.
    flag_values: its flags, which are its own: programs that are imported
      together may have flags of the same name.
    usage: what `--help` prints first.
    interrupted: what a user who stops the program should know.
    trains: whether it trains, for which another use of memory is worth a restart.
  """

  def checked(argv: Sequence[str]) -> None:
    if len(argv) > 1:
      _stop(f"unexpected argument {argv[1]!r}; all arguments are --flags.")
    # Libraries report every file that they touch; a run has its own lines. What
    # they report as an error they raise as well.
    logging.set_verbosity(logging.FATAL)
    if trains:
      allocator.restart_with()
    signal.signal(signal.SIGTERM, _terminate)
    hint = f"; {interrupted}" if interrupted else ""
    try:
      main()
    except _EXPECTED as error:
      _stop(str(error))
    except nonfinite.NonFiniteError as error:
      _stop(str(error), code=1)
    except errors.Stopped as stopped:
      _stop(str(stopped), code=processes.EXIT_CODE, kind="Stopped")
    except _Terminated:
      _stop(f"terminated{hint}.", code=128 + signal.SIGTERM)
    except KeyboardInterrupt:
      _stop(f"interrupted{hint}.", code=130)

  def parsed(argv: Sequence[str]) -> list[str]:
    rest = parse(argv, usage, flag_values)
    flags.FLAGS.mark_as_parsed()  # Those of the libraries have defaults.
    return rest

  app.run(checked, flags_parser=parsed)


def parse(
  argv: Sequence[str],
  usage: str,
  flag_values: flags.FlagValues,
) -> list[str]:
  """Parses a command line; a mistake in it ends the program.

  Args:
    argv: program and arguments.
    usage: what `--help` prints first.
    flag_values: the flags that there are.

  Returns:
    The program and what is no flag.
  """
  if any(a in ("--help", "-help", "-h", "--helpfull", "-?") for a in argv):
    try:
      # Only a program that takes a configuration has its fields.
      fields = "\n\n" + _field_help() if "config" in flag_values else ""
      print(usage.rstrip() + fields)
      sys.stdout.flush()
    except BrokenPipeError:
      # Piped into `head`: what nobody reads need not be flushed at exit.
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)
  program, *arguments = map(_expand, argv)
  recipe = ""
  if "config" in flag_values:
    _check_names(arguments)
    recipe, arguments = _take_recipe(arguments)
    arguments = [f"--config={recipe}", *arguments]
  _ARGV[:] = [program, *arguments]
  try:
    rest = flag_values(_ARGV)
    _check_finite(flag_values)
    return rest
  except flags.UnrecognizedFlagError as error:
    _stop(_unknown(error.flagname, flag_values))
  except flags.Error as error:
    _stop(_illegal(str(error), recipe))
  # A recipe is a program: it may raise anything.
  except Exception as error:
    _stop(f"--config={recipe} failed: {failure(recipe, error)}.")


def failure(path: str, error: Exception) -> str:
  """What a program of the user's raised, and in which of its lines.

  Args:
    path: of the program.
    error: what it raised, or something that it called.
  """
  reason = _last_line(f"{type(error).__name__}: {error}")
  if isinstance(error, SyntaxError):
    return reason  # It says where.
  lines = [
    frame.lineno
    for frame in traceback.extract_tb(error.__traceback__)
    if os.path.abspath(frame.filename) == os.path.abspath(path)
  ]
  return f"{reason} (line {lines[-1]})" if lines else reason


def _check_finite(flag_values: flags.FlagValues) -> None:
  """Refuses what no bound does: NaN is neither below nor above one."""
  for name in flag_values:
    value = flag_values[name].value
    # Fields have checks of their own.
    if name.startswith("config.") or not isinstance(value, float):
      continue
    if not math.isfinite(value):
      _stop(f"--{name} must be a finite number; got {value}. See --help.")


def _unknown(name: str, flag_values: flags.FlagValues) -> str:
  near = difflib.get_close_matches(name, list(flag_values), n=1)
  hint = f"did you mean --{near[0]}? See --help." if near else "see --help."
  return f"--{name} is not a flag; {hint}"


def _last_line(message: str) -> str:
  """What says it, where a stack trace is quoted before."""
  return message.strip().splitlines()[-1].rstrip(".:")


def _illegal(message: str, recipe: str) -> str:
  if message.startswith("flag --config="):
    return f"--config={recipe} failed: {_last_line(message)}."
  found = re.match(r"flag --config\.([\w.]+)=(.*?): ", message)
  if found:
    name, value = found.groups()
    default = {n: d for n, d, _ in config_lib.fields()}.get(name)
    return (
      f"--config.{name} must be of type {type(default).__name__}; got"
      f" {value!r}. See --help."
    )
  return f"{_last_line(message)}; see --help."


def _take_recipe(arguments: Sequence[str]) -> tuple[str, list[str]]:
  """The value of --config (by default ours), and the other arguments.

  config_flags wants it before the fields that change it; users need not know.
  """
  rest, recipe = [], DEFAULT_CONFIG
  remaining = iter(arguments)
  for argument in remaining:
    if argument in ("--config", "-config"):
      recipe = next(remaining, "")
    elif argument.startswith(("--config=", "-config=")):
      recipe = argument.split("=", 1)[1]
    else:
      rest.append(argument)
  if not pathlib.Path(recipe.split(":")[0]).is_file():
    _stop(f"--config={recipe} is not a file; it must be a recipe in Python.")
  return recipe, rest


def _expand(argument: str) -> str:
  """--config.data=folder means --config.data.name=folder."""
  return re.sub(r"^--?config\.(data|loss)=", r"--config.\1.name=", argument)


def _check_names(argv: Sequence[str]) -> None:
  """Refuses overrides of fields that do not exist, naming the nearest."""
  ordered = [name for name, _, _ in config_lib.fields()]
  known = set(ordered)
  sections = {name.split(".")[0] for name in known if "." in name}
  for argument in argv:
    if not argument.lstrip("-").startswith("config."):
      continue
    name = argument.lstrip("-").removeprefix("config.").split("=")[0]
    if name in sections:
      example = next(n for n in ordered if n.startswith(f"{name}."))
      _stop(
        f"--config.{name} is a group of fields; set one of them, such as"
        f" --config.{example}."
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
    first, *rest = textwrap.wrap(doc, 62, break_on_hyphens=False)
    lines.append(f"  {name:<34} {default!r:<20} {first}")
    lines += [" " * 58 + line for line in rest]
  return "\n".join(lines)


def _stop(message: str, *, code: int = 2, kind: str = "Error") -> NoReturn:
  sys.stdout.flush()
  # Names of files and flags may hold what a terminal would obey.
  shown = "".join(
    c if c.isprintable() else c.encode("unicode_escape").decode()
    for c in message
  )
  print(f"{kind}: {shown}", file=sys.stderr)
  sys.exit(code)
