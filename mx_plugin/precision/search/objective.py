"""What is to be made small: the price of running a layer in a format, in bytes, joules or seconds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from ...formats.packing import row_bytes
from ...formats.spec import FP16, get_format, parse_pair
from .shapes import Shape


@dataclass(frozen=True)
class Place:
    """Where a format would run: the layers that a name of the matrix stands for, in one phase, for one role."""

    layer: str
    phase: str
    role: str
    shapes: tuple[Shape, ...]
    forward_only: bool = False


class Objective(ABC):
    """Prices formats. ``name`` as on the command line, ``unit`` of a price."""

    name: str = "?"
    unit: str = "?"

    @abstractmethod
    def price(self, place: Place, format: str) -> float:
        """The price of a pair such as ``MXFP4/MXFP8``, or of ``FP16``, at a place; a finite number of 0 or more.

        Raises:
            MXError: what the price stands on is missing; says what and how to get it.
        """

    def notes(self) -> list[str]:
        """What a reader of the total should know."""
        return []


def packed_bytes(shape: Shape, format: str) -> int:
    """Bytes of a weight (out, in) packed along ``in``, scales included; FP16 in the model's own dtype."""
    weights = parse_pair(format).weights
    if weights == FP16:
        return shape.elements * shape.itemsize
    fmt = get_format(weights)
    scale_bytes = -(-shape.in_features // fmt.block_size) * -(-fmt.scale_bits // 8)
    return shape.out_features * (row_bytes(shape.in_features, fmt.element.bits) + scale_bytes)


class Bytes(Objective):
    """Bytes of weights: the copy that each phase reads, packed in its format.

    A copy that two phases share counts in both. In ``gradient`` no packed copy is kept: operands are cast from the
    full-precision weight each time, so that its bytes are the model's own in every format.
    """

    name = "bytes"
    unit = "bytes"

    def __init__(self) -> None:
        self._gradient = False

    def price(self, place: Place, format: str) -> float:
        """See the class."""
        if place.phase == "gradient":
            self._gradient = True
            format = FP16
        return float(sum(packed_bytes(shape, format) for shape in place.shapes))

    def notes(self) -> list[str]:
        if not self._gradient:
            return []
        return [
            "gradient keeps no packed weights, so no format saves bytes there and its layers stay FP16; "
            "search gradient with --objective energy"
        ]
