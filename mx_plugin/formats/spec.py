"""What a format *is*: element type, block size, scale type - and the names by which they go.

Constants are those of the OCP Microscaling Formats (MX) Specification v1.0, section 5 (tables of
element formats and of E8M0); nothing here touches a tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from ..errors import FormatError, nearest

BLOCK_SIZE = 32
ROUNDINGS = ("nearest", "stochastic")
SCALE_RULES = ("floor", "rceil", "even")


@dataclass(frozen=True)
class Element:
    """An element type: sign, ``exponent_bits``, ``mantissa_bits``.

    ``exponent_bits == 0`` is the two's-complement INT8 element of MX, whose implied scale is
    2**-6: on a grid it behaves as a type with six mantissa bits and only "subnormals".
    ``emax`` and ``emin`` are the exponents of the largest and smallest normal number, ``max`` the
    largest magnitude that a cast produces (MXINT8 is clamped symmetrically, to 127/64).
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    emax: int
    emin: int
    max: float

    @property
    def bits(self) -> int:
        """Storage width of one element, in bits."""
        if self.exponent_bits == 0:
            return 8
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def is_integer(self) -> bool:
        return self.exponent_bits == 0


@dataclass(frozen=True)
class Format:
    """A block format: ``block_size`` elements of type ``element`` share one ``scale_type`` scale."""

    name: str
    element: Element
    block_size: int = BLOCK_SIZE
    scale_type: str = "E8M0"
    scale_bits: int = 8

    @property
    def bits_per_element(self) -> float:
        """Storage per element with its share of the scale, e.g. 4.25 for MXFP4."""
        return self.element.bits + self.scale_bits / self.block_size

    def __str__(self) -> str:
        return self.name


E4M3 = Element("E4M3", 4, 3, emax=8, emin=-6, max=448.0)
E5M2 = Element("E5M2", 5, 2, emax=15, emin=-14, max=57344.0)
E2M3 = Element("E2M3", 2, 3, emax=2, emin=0, max=7.5)
E3M2 = Element("E3M2", 3, 2, emax=4, emin=-2, max=28.0)
E2M1 = Element("E2M1", 2, 1, emax=2, emin=0, max=6.0)
INT8 = Element("INT8", 0, 6, emax=0, emin=0, max=127 / 64)

FP16 = "FP16"
"""The project's word for "not quantised: the model's own dtype"."""

_FORMATS: dict[str, Format] = {}
_ALIASES: dict[str, str] = {}


def register_format(fmt: Format, *aliases: str) -> Format:
    """Make ``fmt`` known by its name and aliases (a plugin's way to add e.g. NVFP4).

    Raises:
        FormatError: a name is already taken by a different format.
    """
    for name in (fmt.name, *aliases):
        taken = _FORMATS.get(_ALIASES.get(name, name))
        if name == FP16 or (taken is not None and taken != fmt):
            raise FormatError(f"format name {name!r} is already taken; choose another name")
    _FORMATS[fmt.name] = fmt
    for alias in aliases:
        _ALIASES[alias] = fmt.name
    get_format.cache_clear()
    return fmt


def format_names() -> tuple[str, ...]:
    """Names of all registered formats (aliases left out), without ``FP16``."""
    return tuple(_FORMATS)


@cache
def get_format(name: str) -> Format:
    """Return the format of that name or alias; names are case-insensitive.

    Raises:
        FormatError: no such format; the message names the nearest valid word. ``FP16`` is not a
            block format and raises too.
    """
    if isinstance(name, Format):
        return name
    folded = {k.upper(): k for k in (*_FORMATS, *_ALIASES)}
    key = folded.get(str(name).strip().upper())
    if key is None:
        raise FormatError(f"unknown MX format {name!r}: {nearest(str(name), (*_FORMATS, *_ALIASES))}")
    return _FORMATS[_ALIASES.get(key, key)]


def is_unquantised(name: str) -> bool:
    """True for ``FP16`` (any case), the word for the model's own dtype."""
    return name.strip().upper() == FP16


@dataclass(frozen=True)
class Pair:
    """Formats of a product's two operands by canonical name: ``weights/activations``.

    ``FP16`` on either side leaves that operand alone; ``F/FP16`` is weight-only.
    """

    weights: str
    activations: str

    @property
    def quantised(self) -> bool:
        return self.weights != FP16 or self.activations != FP16

    def __str__(self) -> str:
        return FP16 if not self.quantised else f"{self.weights}/{self.activations}"


def canonical(name: str) -> str:
    """Canonical spelling of a format name or of ``FP16``.

    Raises:
        FormatError: not a known format.
    """
    if is_unquantised(name):
        return FP16
    try:
        return get_format(name.strip()).name
    except FormatError:
        known = (FP16, *_FORMATS, *_ALIASES)
        raise FormatError(f"unknown format {name!r}: {nearest(name, known)}") from None


def parse_pair(text: str, activations: str = "MXFP8") -> Pair:
    """Read ``"MXFP4/MXFP8"``, or a single name, which takes ``activations``; ``FP16`` stays alone.

    Raises:
        FormatError: a side is not a known format, or there are more than two sides.
    """
    sides = str(text).split("/")
    if len(sides) == 1:
        weights = canonical(sides[0])
        return Pair(weights, FP16 if weights == FP16 else canonical(activations))
    if len(sides) != 2:
        raise FormatError(f"{text!r} is not a pair: write weights/activations, e.g. 'MXFP4/MXFP8'")
    return Pair(canonical(sides[0]), canonical(sides[1]))


MXFP8 = register_format(Format("MXFP8", E4M3), "MXFP8_E4M3")
MXFP8_E5M2 = register_format(Format("MXFP8_E5M2", E5M2))
MXFP6 = register_format(Format("MXFP6", E2M3), "MXFP6_E2M3")
MXFP6_E3M2 = register_format(Format("MXFP6_E3M2", E3M2))
MXFP4 = register_format(Format("MXFP4", E2M1), "MXFP4_E2M1")
MXINT8 = register_format(Format("MXINT8", INT8))
