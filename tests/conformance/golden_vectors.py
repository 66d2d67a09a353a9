"""Writes mx_plugin/testing/golden/casts.json: blocks, and what independent libraries cast them to.

    python -m tests.conformance.golden_vectors

Elements are ml_dtypes' (MXINT8: numpy's), values and the scales of ``floor`` are gfloat's; both libraries must agree on
every value. The other scale rules are computed here from their definitions, in exact fractions. Nothing of mx_plugin
takes part.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path

import gfloat.formats
import ml_dtypes
import numpy as np
from gfloat import BlockFormatInfo, quantize_block
from gfloat.block import compute_scale_amax
from numpy.typing import NDArray

FILE = Path(__file__).parents[2] / "mx_plugin" / "testing" / "golden" / "casts.json"
COMMAND = "python -m tests.conformance.golden_vectors"
BLOCK = 32
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Kind:
    """An element type by the libraries' own tables; ``dtype`` None is MXINT8's, whole numbers of 1/64."""

    name: str
    block: BlockFormatInfo
    dtype: type | None
    emax: int
    emin: int
    mantissa_bits: int

    @property
    def grid(self) -> NDArray[np.float64]:
        """Every finite value, ascending; MXINT8 without -2, as the project clamps it symmetrically."""
        if self.dtype is None:
            return np.arange(-127, 128) / 64
        table = np.arange(1 << ml_dtypes.finfo(self.dtype).bits, dtype=np.uint8).view(self.dtype).astype(np.float64)
        return np.unique(table[np.isfinite(table)])

    @property
    def max(self) -> float:
        return float(self.grid[-1])

    def codes(self, scaled: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Rounded to nearest, ties to even, and saturated."""
        clipped = np.clip(scaled, -self.max, self.max)
        if self.dtype is None:
            return np.rint(clipped * 64).astype(np.int8).view(np.uint8)
        return clipped.astype(np.float32).astype(self.dtype).view(np.uint8)

    def decode(self, codes: NDArray[np.uint8]) -> NDArray[np.float64]:
        if self.dtype is None:
            return codes.view(np.int8) / 64
        return codes.view(self.dtype).astype(np.float64)


KINDS = (
    Kind("MXFP8", gfloat.formats.format_info_mxfp8_e4m3, ml_dtypes.float8_e4m3fn, 8, -6, 3),
    Kind("MXFP8_E5M2", gfloat.formats.format_info_mxfp8_e5m2, ml_dtypes.float8_e5m2, 15, -14, 2),
    Kind("MXFP6", gfloat.formats.format_info_mxfp6_e2m3, ml_dtypes.float6_e2m3fn, 2, 0, 3),
    Kind("MXFP6_E3M2", gfloat.formats.format_info_mxfp6_e3m2, ml_dtypes.float6_e3m2fn, 4, -2, 2),
    Kind("MXFP4", gfloat.formats.format_info_mxfp4_e2m1, ml_dtypes.float4_e2m1fn, 2, 0, 1),
    Kind("MXINT8", gfloat.formats.format_info_mxint8, None, 0, 0, 6),
)


# ---------------------------------------------------------------------------- scales


def floor_scale(kind: Kind, x: Floats) -> int:
    """gfloat's exponent: floor(log2(amax)) - emax, clamped to -127 .. 127; -127 for zeros."""
    return int(np.log2(compute_scale_amax(kind.emax, x.astype(np.float64))))


def rceil_scale(kind: Kind, x: Floats) -> int:
    """The least exponent e with amax / 2**e <= max, clamped."""
    amax, largest = Fraction(float(np.abs(x).max())), Fraction(kind.max)
    exponent = -127
    while amax > largest * Fraction(2) ** exponent and exponent < 127:
        exponent += 1
    return exponent


def even_scale(kind: Kind, x: Floats) -> int:
    """floor after amax was rounded (half up) to the element's mantissa bits, clamped."""
    amax = Fraction(float(np.abs(x).max()))
    exponent = -160
    while amax >= Fraction(2) ** (exponent + 1):
        exponent += 1
    quantum = Fraction(2) ** (exponent - kind.mantissa_bits)
    rounded = (amax / quantum + Fraction(1, 2)).__floor__() * quantum
    exponent += rounded >= Fraction(2) ** (exponent + 1)
    return max(-127, min(127, exponent - kind.emax))


SCALES: dict[str, Callable[[Kind, Floats], int]] = {"floor": floor_scale, "rceil": rceil_scale, "even": even_scale}


# ---------------------------------------------------------------------------- blocks


def blocks(kind: Kind, draw: np.random.Generator) -> Iterator[tuple[str, str, Floats]]:
    """(group, scale rule, 32 values). Each group shows one thing and leaves out what the others show."""
    top, least = 2.0**kind.emax, 2.0**kind.emin
    low = min(least, top / 4)
    grid = kind.grid[kind.grid >= 0]
    ties = (grid[1:] + grid[:-1]) / 2
    ties = ties[ties < kind.max]
    chosen = ties if len(ties) <= 62 else np.concatenate([ties[:16], draw.permutation(ties[16:-15])[:31], ties[-15:]])
    for exponent in (0, -9):
        size = np.exp2(draw.uniform(np.log2(low), np.log2(top), BLOCK - 1)) * draw.choice((-1, 1), BLOCK - 1)
        yield "ordinary", "floor", led(top, size, exponent)
    for part in np.array_split(chosen, -(-len(chosen) // (BLOCK - 1))):
        yield "ties", "floor", led(top, signed(part), 3)
    near = chosen[: BLOCK // 2 - 1].astype(np.float32)
    beside = np.concatenate([np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(0))])
    yield "beside_ties", "floor", led(top, signed(beside), 0)
    beyond = draw.uniform(kind.max, 2 * top, BLOCK - 2).astype(np.float32)
    greatest = np.nextafter(np.float32(2 * top), np.float32(0))
    yield "saturation", "floor", led(float(greatest), signed(np.minimum(beyond, greatest)), 0)
    small = np.concatenate([draw.uniform(0, least, 20), [0.0, least * 2.0**-20, 1e-30]])
    yield "subnormals", "floor", led(top, signed(small), 5)
    yield "zeros", "floor", np.zeros(BLOCK, np.float32)
    yield "zeros", "floor", np.copysign(np.zeros(BLOCK), np.tile((1, -1), BLOCK // 2)).astype(np.float32)
    tiny = draw.uniform(0, 1, BLOCK - 1) * draw.choice((-1, 1), BLOCK - 1)
    yield "smallest_scales", "floor", led(2.0**-126, tiny * 2.0**-126, 0)
    yield "smallest_scales", "floor", led(2.0**-133, tiny * 2.0**-133, 0)
    huge = np.float32(np.finfo(np.float32).max)
    yield "largest_scales", "rceil", led(float(huge), np.float32(tiny) * huge, 0)
    for rule in ("rceil", "even"):
        for amax in (0.9 * kind.max / top, min(1.02 * kind.max / top, 1.9999), 1.97):
            size = draw.uniform(0.3, 1, BLOCK - 1) * draw.choice((-1, 1), BLOCK - 1)
            yield f"rule_{rule}", rule, led(amax, amax * size, -2)


def led(first: float, rest: NDArray[np.floating], exponent: int) -> Floats:
    """``first``, ``rest`` and zeros, times 2**exponent."""
    x = np.zeros(BLOCK)
    x[0], x[1 : 1 + len(rest)] = first, rest
    return (x * 2.0**exponent).astype(np.float32)


def signed(x: NDArray[np.floating]) -> NDArray[np.floating]:
    """Every second value negated."""
    return x * np.where(np.arange(len(x)) % 2, -1, 1)


def cast(kind: Kind, x: Floats, exponent: int) -> tuple[NDArray[np.uint8], Floats]:
    """Element codes by ml_dtypes, values by gfloat; they must agree."""
    wide = x.astype(np.float64)
    codes = kind.codes(wide / 2.0**exponent)
    values = quantize_block(kind.block, wide, lambda emax, block: 2.0**exponent)
    limit = kind.max * 2.0**exponent
    with np.errstate(over="ignore"):
        narrow = np.clip(values, -limit, limit).astype(np.float32)  # MXINT8 has no -2 here; 2**128 is infinite
    assert np.array_equal(np.clip(values, -limit, limit), kind.decode(codes) * 2.0**exponent), (kind.name, x)
    return codes, narrow


def document() -> dict[str, object]:
    """Everything that the file holds."""
    vectors = []
    for kind in KINDS:
        draw = np.random.default_rng(2023)
        for group, rule, x in blocks(kind, draw):
            exponent = SCALES[rule](kind, x)
            codes, values = cast(kind, x, exponent)
            vectors.append(
                {
                    "format": kind.name,
                    "group": group,
                    "scale_rule": rule,
                    "input": x.astype(">f4").tobytes().hex(),
                    "scale": exponent + 127,
                    "elements": codes.tobytes().hex(),
                    "values": values.astype(">f4").tobytes().hex(),
                }
            )
    return {
        "origin": {
            "written by": COMMAND,
            "elements": f"ml_dtypes {version('ml_dtypes')}; of MXINT8 numpy {np.__version__}: rint(64 x), clamped",
            "values": f"gfloat {version('gfloat')}, quantize_block; equal to the decoded elements",
            "scales": f"floor: gfloat {version('gfloat')}, compute_scale_amax; rceil and even: fractions",
            "specification": "OCP Microscaling Formats (MX) Specification v1.0, section 6.3",
        },
        "encoding": "input, values: 32 float32, big-endian, in hexadecimal; elements: 32 codes; scale: E8M0 code",
        "vectors": vectors,
    }


def text() -> str:
    """The file: one line for each block."""
    plain = document()
    vectors = ",\n".join("  " + json.dumps(vector) for vector in plain.pop("vectors"))  # type: ignore[attr-defined]
    head = json.dumps(plain, indent=1).rstrip("\n}")
    return f'{head},\n "vectors": [\n{vectors}\n ]\n}}\n'


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
    print(f"{FILE.name}: {FILE.stat().st_size} bytes")
