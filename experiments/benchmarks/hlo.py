"""Traffic of a compiled program: collectives by kind, with their bytes."""

import dataclasses
import math
import re
from collections.abc import Iterator

_KINDS = (
  "all-gather",
  "all-reduce",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
)
_CALL = re.compile(
  rf"= (?P<result>.+?) (?P<kind>{'|'.join(_KINDS)})(?:-start)?\("
  r"(?P<operands>.*?)\)(?P<rest>.*)"
)
_SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective operation of a program.

  Attributes:
    kind: its name in HLO.
    group: devices that take part together.
    bytes: of the largest side (an all-gather's result, a reduce-scatter's
      operand), on one device.
  """

  kind: str
  group: int
  bytes: int

  @property
  def sent(self) -> float:
    """Bytes that a device sends, in the ring form of the operation."""
    share = (self.group - 1) / self.group
    if self.kind == "collective-permute":
      return float(self.bytes)
    return self.bytes * share * (2 if self.kind == "all-reduce" else 1)


def collectives(text: str) -> Iterator[Collective]:
  """The collectives in the text of a compiled program, `compiled.as_text()`.

  One that is in the body of a loop counts once.
  """
  for line in text.splitlines():
    found = _CALL.search(line)
    if not found:
      continue
    kind, rest = found["kind"], found["rest"]
    result = sum(_sizes(found["result"]))
    if "-start(" in line and kind != "all-reduce":
      # Its result is a tuple of operand and result.
      result = max(_sizes(found["result"]))
    group = _group(rest)
    if kind == "reduce-scatter":
      result *= group
    yield Collective(kind, group, result)


def _sizes(text: str) -> list[int]:
  sizes = []
  for kind, dims in _SHAPE.findall(text):
    count = math.prod(map(int, filter(None, dims.split(","))))
    # A pred takes a byte; f32 and its like tell their bits.
    bits = 8 if kind == "pred" else int(re.sub(r"\D", "", kind) or 32)
    sizes.append(count * bits // 8)
  return sizes or [0]


def _group(text: str) -> int:
  """Devices of a group, from `replica_groups` in either notation."""
  found = re.search(r"replica_groups=\[(\d+),(\d+)\]", text)
  if found:
    return int(found[2])
  found = re.search(r"replica_groups=\{\{([\d,]*)\}", text)
  return len(found[1].split(",")) if found else 2
