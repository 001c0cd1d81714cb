"""The command line of the programs: recipes, fields, readable help and errors.

Neither JAX nor anything else that is slow is imported before flags are checked.
"""

import contextlib
import difflib
import json
import math
import os
import re
import signal
import sys
import textwrap
import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from absl import app, flags, logging

from contrastive_jax import recipes
from contrastive_jax.data.files import stores
from contrastive_jax.training import config as config_lib
from contrastive_jax.training.config import errors, help, names

DEFAULT_RECIPE = "clip_emoji"
# The exit code by which schedulers know that the same command goes on.
_RETRY = 75
_HELP = re.compile(r"--?(?:help|helpfull|h|\?)(?:=(.*))?$")
_FIELD = re.compile(r"--?(no)?config\.([^=]*)(?:=(.*))?$", re.DOTALL)


class _Terminated(BaseException):
  """SIGTERM, where nothing would be saved by waiting."""


class ConfigFlag:
  """The flag --config of a program, and the fields that follow it.

  Attributes:
    recipe: the recipe that was named; "" of a program that takes fields alone.
    value: the configuration, a `ConfigDraft`, once flags are parsed.
    fields: the fields that were given, texts by dotted names.
  """

  recipe: str = DEFAULT_RECIPE
  value: Any = None
  fields: Mapping[str, str] = types.MappingProxyType({})


# The configuration of each program's flags, by their identity.
_CONFIGS: dict[int, ConfigFlag] = {}


def define_config(*, flag_values: flags.FlagValues) -> ConfigFlag:
  """Defines --config, a recipe whose fields --config.NAME=VALUE change."""
  flags.DEFINE_string(
    "config",
    DEFAULT_RECIPE,
    "Recipe by name (--list_recipes tells all) or a Python file; --print_config"
    " prints the whole configuration and stops.",
    flag_values=flag_values,
  )
  found = _CONFIGS[id(flag_values)] = ConfigFlag()
  return found


def define_fields(*, flag_values: flags.FlagValues) -> ConfigFlag:
  """Lets a program take --config.NAME=VALUE, without a recipe."""
  found = _CONFIGS[id(flag_values)] = ConfigFlag()
  found.recipe = ""
  return found


def run(
  main: Callable[[], None],
  *,
  flag_values: flags.FlagValues,
  usage: str | None,
  interrupted: str = "",
  addresses: Sequence[str] = (),
) -> NoReturn:
  """Parses the command line and calls `main`.

  Mistakes in flags, configuration or data end the program with one sentence
  on standard error and exit code 2; a run that became NaN with code 1. A signal
  ends training after the step, with a checkpoint and code 75, by which schedulers
  know that the same command goes on; a program without steps ends at once, by Ctrl-C
  with 130 and by SIGTERM with 143, as shells have it.

  Args:
    main: the program.
    flag_values: its flags, which are its own: programs that are imported
      together may have flags of the same name.
    usage: what `--help` prints first.
    interrupted: what a user who stops the program should know.
    addresses: flags that take the address of something in an object store.
  """

  def guarded(argv: Sequence[str]) -> None:
    if len(argv) > 1:
      _stop(f"unexpected argument {argv[1]!r}; all arguments are --flags.")
    # Libraries report every file that they touch; a run has its own lines. What
    # they report as an error they raise as well.
    logging.set_verbosity(logging.FATAL)
    signal.signal(signal.SIGTERM, _terminate)
    hint = f"; {interrupted}" if interrupted else ""
    try:
      main()
    except _Terminated:
      _stop(f"terminated{hint}.", code=128 + signal.SIGTERM)
    except KeyboardInterrupt:
      _stop(f"interrupted{hint}.", code=130)
    except errors.Stopped as stopped:
      _stop(str(stopped), code=_RETRY, kind="Stopped")
    except Exception as error:
      code = _code_of(error)
      if code is None:  # A bug, of ours or of a library, keeps its trace.
        raise
      _stop(str(error), code=code)

  def parsed(argv: Sequence[str]) -> list[str]:
    rest = parse(argv, usage, flag_values, addresses)
    flags.FLAGS.mark_as_parsed()  # The libraries' flags have defaults.
    return rest

  app.run(guarded, flags_parser=parsed)


def parse(
  argv: Sequence[str],
  usage: str | None,
  flag_values: flags.FlagValues,
  addresses: Sequence[str] = (),
) -> list[str]:
  """The program and what is no flag of a command line; a mistake ends the program."""
  config = _CONFIGS.get(id(flag_values))
  program, *arguments = argv
  topics = [m.group(1) or "" for a in arguments if (m := _HELP.match(a))]
  arguments = [a for a in arguments if not _HELP.match(a)]
  wishes = {"--print_config", "--list_recipes"} & {*arguments}
  fields: dict[str, str] = {}
  if config is not None:
    fields, arguments = _take_fields(arguments)
    config.fields = fields
  if config is not None and config.recipe:
    arguments = [a for a in arguments if a not in wishes]
    if "--list_recipes" in wishes and not topics:
      _print_and_exit(
        "\n".join(f"{n:<24} {recipes.description(n)}" for n in recipes.names())
      )
  usage = (usage or "").rstrip()  # Without docstrings, as of -OO, it is None.
  usage += _flag_help(usage, flag_values)
  if topics and not (config and config.recipe):
    _print_and_exit(usage)
  try:
    rest = flag_values([program, *arguments])
    _check_finite(flag_values)
    _check_places(flag_values, fields, addresses)
  except flags.UnrecognizedFlagError as error:
    _stop(_unknown(error.flagname, flag_values, config is not None))
  except flags.Error as error:
    _stop(f"{_last_line(str(error))}; see --help.")
  if config is None or not config.recipe:
    return rest
  config.recipe = str(flag_values["config"].value)
  config.value = _load(config.recipe)
  if topics and topics[0]:
    _print_and_exit(_described(config, topics[0]))
  try:
    config.value.override(fields)
    # A help text shows a configuration that lacks what its user has to add.
    if not topics:
      checked = config_lib.checked(config.value)
  except errors.ConfigError as error:
    _stop(f"{error} See --help.")
  if topics:
    _print_and_exit(_overview(usage, config))
  if wishes:
    _print_and_exit(json.dumps(checked.to_dict(), indent=2))
  return rest


def failure(path: str, error: Exception) -> str:
  """The error that a user's program raised, and the line of its file."""
  reason = _last_line(f"{type(error).__name__}: {error}")
  if isinstance(error, SyntaxError):
    return reason  # It says where.
  lines = [
    frame.lineno
    for frame in traceback.extract_tb(error.__traceback__)
    if os.path.abspath(frame.filename) == os.path.abspath(path)
  ]
  return f"{reason} (line {lines[-1]})" if lines else reason


def _terminate(number: int, frame: Any) -> NoReturn:
  del number, frame
  raise _Terminated


def _code_of(error: Exception) -> int | None:
  """The exit code of a mistake of the user's or of the world; None of a bug."""
  if isinstance(error, (errors.UserError, OSError)):
    return 2
  from contrastive_jax.data.sets.folder.folder_rows import DataError
  from contrastive_jax.training.trainer.nonfinite import NonFiniteError

  if isinstance(error, DataError):
    return 2
  return 1 if isinstance(error, NonFiniteError) else None


def _take_fields(
  arguments: Sequence[str],
) -> tuple[dict[str, str], list[str]]:
  """--config.NAME=VALUE by name, and the other arguments."""
  fields, rest = {}, []
  remaining = list(arguments)
  while remaining:
    argument = remaining.pop(0)
    found = _FIELD.match(argument)
    if found is None:
      rest.append(argument)
      continue
    no, name, value = found.groups()
    if no:
      value = "False"
    elif value is None:
      # `--config.fsdp` alone is true; another field's value comes next.
      follows = remaining and not remaining[0].startswith("--")
      value = remaining.pop(0) if follows else "True"
    fields[name] = value
  return fields, rest


def _load(recipe: str) -> Any:
  path = recipes.path_of(recipe)
  if path is None:
    near = difflib.get_close_matches(recipe, recipes.names(), n=1, cutoff=0.0)
    _stop(
      f"--config={recipe} is neither the name of a recipe nor a Python file; did"
      f" you mean --config={near[0]}? See --list_recipes."
    )
  try:
    draft = recipes.load(recipe)
  # A recipe is a program: it may raise anything.
  except Exception as error:
    _stop(f"--config={recipe} failed: {failure(str(path), error)}.")
  if not isinstance(draft, config_lib.ConfigDraft):
    _stop(
      f"--config={recipe} must return a config.default_config() that it changed;"
      f" got {type(draft).__name__}."
    )
  return draft


def command(program: str) -> str:
  """How a user of this installation starts another program of the package."""
  if sys.argv and os.path.basename(sys.argv[0]).startswith("contrastive-jax"):
    return f"contrastive-jax {program}"
  return f"python -m experiments.{program}"


def _flag_help(usage: str, flag_values: flags.FlagValues) -> str:
  """The flags that a program's usage does not explain, with their texts."""
  lines = []
  for name in flag_values:
    flag = flag_values[name]
    if re.search(rf"^ +--{name}\b", usage, re.MULTILINE):
      continue
    text, default = flag.help.rstrip("."), flag.default
    if isinstance(default, list):
      default = ", ".join(default)
    if default not in (None, "", False):
      text += f"; default {default}"
    head = f"  --{name:<15} "
    lines += textwrap.wrap(
      f"{text}.", 86, initial_indent=head, subsequent_indent=" " * len(head)
    )
  return "\n\nFlags:\n" + "\n".join(lines) if lines else ""


def _overview(usage: str, config: ConfigFlag) -> str:
  return (
    f"{usage}\n\nFields of the recipe {config.recipe}"
    " (--config.NAME=VALUE changes one, --help=NAME\ntells more of a group):\n"
    f"{help.overview(config.value)}"
  )


def _described(config: ConfigFlag, topic: str) -> str:
  found = help.describe(config.value, topic)
  if found is None:
    near = names.nearest(config_lib.Config, f"config.{topic}")
    _stop(
      f"--help={topic} is not a field; did you mean"
      f" --help={near.removeprefix('config.')}? Groups are"
      f" {', '.join(help.groups())}."
    )
  return found


def _check_finite(flag_values: flags.FlagValues) -> None:
  """Refuses what no bound does: NaN is neither below nor above one."""
  for name in flag_values:
    value = flag_values[name].value
    if isinstance(value, float) and not math.isfinite(value):
      _stop(f"--{name} must be a finite number; got {value}. See --help.")


def _check_places(
  flag_values: flags.FlagValues,
  fields: Mapping[str, str],
  addresses: Sequence[str],
) -> None:
  """Refuses addresses of object stores where they would become folders of this host.

  Likewise those of stores that nothing here speaks to.
  """
  places = {
    path
    for path, f in names.paths(config_lib.Config)
    if f.metadata.get("place")
  }
  given = {name: flag_values[name].value for name in flag_values}
  given |= {f"config.{name}": value for name, value in fields.items()}
  for name, value in given.items():
    several = value if isinstance(value, list) else str(value).split(",")
    for each in filter(stores.is_address, several):
      if name not in addresses and name not in places:
        _stop(
          f"--{name}={each} is an address, and this is a path of this host: mount the"
          " bucket (gcsfuse, mount-s3) and name the folder. See --help."
        )
      try:
        stores.check(each)
      except stores.StoreError as error:
        _stop(f"--{name}={error}")


def _unknown(name: str, flag_values: flags.FlagValues, has_config: bool) -> str:
  if has_config:
    field = names.nearest(config_lib.Config, f"config.{name}")
    wanted = names.known_as(name)
    if field.split(".")[-1] == wanted or name.startswith("config"):
      return f"--{name} is not a flag; did you mean --{field}? See --help."
  near = difflib.get_close_matches(name, list(flag_values), n=1)
  hint = f"did you mean --{near[0]}? See --help." if near else "see --help."
  return f"--{name} is not a flag; {hint}"


def _last_line(message: str) -> str:
  """The last line, where a stack trace is quoted before it."""
  return message.strip().splitlines()[-1].rstrip(".:")


def _print_and_exit(text: str) -> NoReturn:
  try:
    print(text)
    sys.stdout.flush()
  except BrokenPipeError:
    # Piped into `head`: text that is not read need not be flushed at exit.
    with contextlib.suppress(OSError):
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  sys.exit(0)


def _stop(message: str, *, code: int = 2, kind: str = "Error") -> NoReturn:
  sys.stdout.flush()
  # Names of files and flags may hold what a terminal would obey.
  shown = "".join(
    c if c.isprintable() else c.encode("unicode_escape").decode()
    for c in message
  )
  print(f"{kind}: {shown}", file=sys.stderr)
  sys.exit(code)
