"""WebDataset's shards: tar archives whose neighbouring members are an example."""

import io
import json
import lzma
import pathlib
import tarfile
import zlib
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from contrastive_jax.data.sets.records import items

_IMAGES = (
  *("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "jp2"),
  *("ppm", "pgm", "image"),
)
_TEXTS = ("txt", "text", "caption")
_JSON_CAPTIONS = ("captions", "caption", "text", "title")
_BLOCK = tarfile.BLOCKSIZE
# Most bytes of a member that is no image; the numbers of a long JSON take many
# times as much.
_MAX_TEXT = 2**24
# Most bytes of a header with only a long name; tarfile reads it in one piece.
_MAX_HEADER = 2**20
_HEADERS = (
  tarfile.GNUTYPE_LONGNAME,
  tarfile.GNUTYPE_LONGLINK,
  tarfile.XHDTYPE,
  tarfile.XGLTYPE,
  tarfile.SOLARIS_XHDTYPE,
)
# Fields of headers that are no numbers are ValueErrors.
_BROKEN = (
  *(tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError),
  *(ValueError, OverflowError),
)


class _Header(tarfile.TarInfo):
  """A member's header, which must not be a file of its own."""

  def _proc_member(self, tarfile_: Any) -> Any:
    if self.type in _HEADERS and self.size > _MAX_HEADER:
      raise tarfile.ReadError(f"a header of {self.size:,} bytes")
    found: Any = super()
    return found._proc_member(tarfile_)


class _Names(NamedTuple):
  """Extensions of the members that are read."""

  images: tuple[str, ...]
  texts: tuple[str, ...]

  @classmethod
  def of(cls, how: items.Reading) -> "_Names":
    """The extensions that are asked for, or else the usual ones."""
    image, text = how.image_member.lower(), how.caption_member.lower()
    return cls((image,) if image else _IMAGES, (text,) if text else _TEXTS)

  @property
  def known(self) -> tuple[str, ...]:
    """All of them."""
    return (*self.images, *self.texts, "json", "cls")


class _Member(NamedTuple):
  key: str
  extension: str
  data: bytes


def read(path: pathlib.Path, how: items.Reading = items.PAIRS) -> items.Found:
  """The examples of a tar archive, plain or compressed.

  Members with equal names up to the first dot, one after the other, are an
  example: an image, `.txt` (the caption) or `.json` (`caption`, `captions`,
  `text` or `title`), and perhaps `.cls` (the class). With `how.images_alone` there
  need be no caption. Nothing is unpacked to disk, so that names of members have no
  power. Behind damaged bytes reading goes on at the next sound member.
  """
  parts: dict[str, bytes] = {}
  current: str | None = None
  for member in _members(path, _Names.of(how)):
    if isinstance(member, items.Problem):
      yield member
      continue
    if member.key != current and current is not None:
      yield _example(current, parts, how)
      parts = {}
    current = member.key
    if member.extension in parts:
      yield items.Problem(
        current, f"repeated member: a second .{member.extension}"
      )
    else:
      parts[member.extension] = member.data
  if current is not None:
    yield _example(current, parts, how)
  else:
    yield items.Problem(path.name, "empty archive: no member is known", None)


def _example(
  key: str, parts: dict[str, bytes], how: items.Reading
) -> items.Item | items.Problem:
  names = _Names.of(how)
  image = next((parts[name] for name in names.images if name in parts), None)
  captions: list[Any] = [parts[name] for name in names.texts if name in parts]
  label: Any = parts.get("cls")
  if "json" in parts and (not captions or label is None):
    try:
      fields = json.loads(parts["json"])
    except (ValueError, RecursionError) as error:
      if not captions and not how.images_alone:
        return items.Problem(key, f"broken JSON: {error}")
      fields = None
    if isinstance(fields, dict):
      if not captions:
        found = next((fields[k] for k in _JSON_CAPTIONS if fields.get(k)), [])
        captions = found if isinstance(found, list) else [found]
      label = fields.get("label") if label is None else label
      label = None if isinstance(label, list | dict) else label
  return items.make(key, image, captions, label, how)


def _members(
  path: pathlib.Path, names: _Names
) -> Iterator[_Member | items.Problem]:
  """The regular members in order, with what is damaged between them."""
  with open(path, "rb") as file:
    try:
      with tarfile.open(
        fileobj=file, mode="r:*", ignore_zeros=True, tarinfo=_Header
      ) as archive:
        yield from _walk(path, file, archive, names)
    except _BROKEN as error:
      yield items.Problem(
        path.name,
        f"broken archive: it ends here ({error or 'too early'})",
        None,
      )


def _walk(
  path: pathlib.Path, file: IO[bytes], archive: Any, names: _Names
) -> Iterator[_Member | items.Problem]:
  plain = archive.fileobj is file
  expected, unknown = 0, _Unknown()
  for member in archive:
    # Headers that make no sense are passed over in silence: look for them. In a
    # compressed archive its own checksum tells.
    if plain and _damaged(file, expected, member.offset):
      yield _gap(path, expected, member.offset)
    size = max(member.size, 0)
    expected = member.offset_data + -(-size // _BLOCK) * _BLOCK
    archive.members = []  # It would keep them all.
    if size > items.MAX_BYTES and not plain:
      # To pass it, all of it would have to be expanded.
      yield items.Problem(member.name, f"too large: {size:,} bytes")
      yield items.Problem(path.name, "broken archive: left out from here", None)
      return
    key, extension = _split_name(member.name)
    unknown.see(key, extension, member.name, names)
    if not key or extension not in names.known:
      continue
    if not member.isfile():
      yield items.Problem(member.name, "no regular file: left out")
    elif size > (items.MAX_BYTES if extension in names.images else _MAX_TEXT):
      yield items.Problem(member.name, f"too large: {size:,} bytes")
    else:
      content = archive.extractfile(member).read()
      yield _Member(key, extension, content)
  unknown.end()
  if unknown.count:
    yield items.Problem(
      path.name,
      f"dots in names: {unknown.count:,} images, such as {unknown.example}, of which"
      " what follows the first dot is taken for the extension",
      unknown.count,
    )
  if plain:
    end = file.seek(0, io.SEEK_END)
    if _damaged(file, expected, end):
      yield _gap(path, expected, end)


class _Unknown:
  """Counts images with dots in their names, which make up no example.

  A mask `a.seg.png` beside `a.jpg` is none of them: its example has an image.
  """

  def __init__(self):
    self.count, self.example = 0, ""
    self._key, self._has_image, self._names = "", False, list[str]()

  def see(self, key: str, extension: str, name: str, names: _Names) -> None:
    """Takes the next member."""
    if key != self._key:
      self.end()
      self._key = key
    self._has_image |= extension in names.images
    if key and "." in extension and extension.rpartition(".")[2] in _IMAGES:
      self._names.append(name)

  def end(self) -> None:
    """No more members of the last key."""
    if self._names and not self._has_image:
      self.count += len(self._names)
      self.example = self.example or self._names[0]
    self._has_image, self._names = False, []


def _split_name(name: str) -> tuple[str, str]:
  """A member's key and extension: those of `a/b.seg.png` are `a/b`, `seg.png`."""
  folder, _, base = name.rpartition("/")
  stem, _, extension = base.partition(".")
  key = f"{folder}/{stem}" if folder and stem else stem
  return key, extension.lower()


def _damaged(file: IO[bytes], start: int, stop: int) -> bool:
  """Whether a part that holds no member holds anything but zeros."""
  place, found = file.tell(), False
  file.seek(start)
  while not found and start < stop:
    part = file.read(min(stop - start, 2**20))
    found = bool(part.strip(b"\0"))
    start = start + len(part) if part else stop
  file.seek(place)
  return found


def _gap(path: pathlib.Path, start: int, stop: int) -> items.Problem:
  return items.Problem(
    path.name,
    f"damaged archive: bytes {start:,} to {stop:,} are no members",
    None,
  )
