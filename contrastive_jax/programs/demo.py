r"""Shows a trained model on a page in the browser.

  python -m experiments.demo --model=runs/clip_emoji --pictures=photos
  python -m experiments.demo --model=runs/clip_emoji --embeddings=embedded

One searches the pictures by a sentence, finds those that are like another, and
classifies a picture by typed labels; of a fusion model one asks what it was trained for.
The extra demo installs Gradio. The page is for this computer alone, unless --host=0.0.0.0
offers it to the network.
"""

import contextlib
import functools
import pathlib
import tempfile
from typing import Any

from absl import flags

from contrastive_jax.data.files import stores
from contrastive_jax.programs import command_line, model_flags
from contrastive_jax.training.config import errors

_FLAGS = flags.FlagValues()
_MODEL = model_flags.model(_FLAGS)
_PICTURES = flags.DEFINE_list(
  "pictures",
  [],
  "Folders of pictures to search, or what else embed takes as --inputs; they are"
  " embedded first.",
  flag_values=_FLAGS,
)
_EMBEDDINGS = flags.DEFINE_string(
  "embeddings",
  "",
  "Folder that embed has written, instead of --pictures; with --pictures what they"
  " become is kept there.",
  flag_values=_FLAGS,
)
_HOST = flags.DEFINE_string(
  "host",
  "127.0.0.1",
  "Address of this computer that the page is offered at.",
  flag_values=_FLAGS,
)
_PORT = flags.DEFINE_integer(
  "port",
  7860,
  "Port of the page; the next free one if it is taken.",
  lower_bound=1,
  upper_bound=65_535,
  flag_values=_FLAGS,
)
_BROWSER = flags.DEFINE_bool(
  "browser", True, "Whether a browser is opened.", flag_values=_FLAGS
)
_PORTS = 20  # That are tried.


def main() -> None:
  """Runs the program."""
  with contextlib.ExitStack() as stack:
    blocks = _page(stack)
    _show(blocks)


def _page(stack: contextlib.ExitStack) -> Any:
  """The page; what is embedded for it is kept until the stack is closed."""
  from contrastive_jax import inference
  from contrastive_jax.inference import embedding_files, page, search

  try:
    page.check()
    model = inference.load(_MODEL.value)
    find, head, folder = None, "shared", stores.local(_EMBEDDINGS.value)
    if _PICTURES.value:
      folder = folder or stack.enter_context(tempfile.TemporaryDirectory())
      counts = embedding_files.embed(model, _PICTURES.value, folder)
      print(f"{counts['pictures']:,} pictures can be searched.")
    if folder:
      head = embedding_files.about(folder)["head"]
      embedding_files.check_model(folder, model)
      find = functools.partial(search.in_folder, folder)
    name = pathlib.Path(_MODEL.value).expanduser().resolve()
    title = name.parent.name if name.name == "model" else name.name
    blocks = page.build(model, find, head=head, title=title)
  except ValueError as error:
    raise errors.UserError(str(error)) from error
  if not blocks.fns:
    raise errors.UserError(
      "A model of images alone has nothing to show without --pictures or"
      " --embeddings."
    )
  return blocks


def _show(blocks: Any) -> None:
  """Shows the page until the program is stopped."""
  from contrastive_jax.inference import page

  for port in range(_PORT.value, min(_PORT.value + _PORTS, 65_536)):
    with contextlib.suppress(OSError):
      url = page.launch(
        blocks,
        server_name=_HOST.value,
        server_port=port,
        inbrowser=_BROWSER.value,
      )
      break
  else:
    raise errors.UserError(
      f"No port from --port={_PORT.value} on is free at --host={_HOST.value}."
    )
  print(f"The page is at {url} Ctrl-C ends it.", flush=True)
  try:
    blocks.block_thread()
  finally:
    blocks.close(verbose=False)


def start() -> None:
  """Parses the command line and runs the program."""
  command_line.run(
    main, flag_values=_FLAGS, usage=__doc__, addresses=("model", "pictures")
  )


if __name__ == "__main__":
  start()
