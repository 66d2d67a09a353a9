"""Philox4x32-10 in plain torch, and the definition of every random bit that a cast draws.

This docstring is THE definition; native kernels must reproduce it bit for bit.

Generator: Philox4x32 with ten rounds, unsigned 32-bit words (Salmon, Moraes, Dror and Shaw,
"Parallel random numbers: as easy as 1, 2, 3", SC 2011; constants of the Random123 library).

Word ``i`` of a :class:`StochasticKey` in a ``domain`` is output word ``i % 4`` of Philox with

    counter = ((i // 4) mod 2**32, (i // 4) // 2**32, step, call | domain << 31)
    key     = (seed, stream)

``step`` is the training step, ``call`` tells repeated casts of one operand within a step apart, and
``stream`` is the CRC-32 of ``"<layer>/<product>"``. Two layers whose CRC-32 coincide share a stream;
all other fields occupy bits of their own, so nothing else can collide.

Domain 0, stochastic rounding: element ``i`` (linear index, C order, in the unpadded tensor that is
cast - whatever dimension is blocked) uses word ``i``. With ``t = (word >> 8) + 1`` the element's
magnitude in quanta, ``a``, becomes ``floor(a) + 1`` when ``(a - floor(a)) * 2**24 >= t``, else
``floor(a)``: rounding up has probability ``floor(frac * 2**24) / 2**24``.

Domain 1, signs of the random Hadamard transform: position ``k`` along the transformed dimension uses
bit ``k % 32`` (least significant first) of word ``k // 32``; a set bit means -1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from zlib import crc32

import torch

from ..errors import FormatError

ROUNDING, SIGNS = 0, 1

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF
_ROUNDS = 10

_GROUPS_AT_ONCE = 1 << 15
"""Counters per pass and CPU thread: their int64 words then stay in a second-level cache."""


@dataclass(frozen=True)
class StochasticKey:
    """Names one stream of random bits: same key, same bits, on any device or thread count.

    ``seed``, ``step`` and ``stream`` are unsigned 32-bit numbers, ``call`` an unsigned 31-bit one.

    Raises:
        FormatError: a field is out of range.
    """

    seed: int
    step: int
    stream: int
    call: int = 0

    def __post_init__(self) -> None:
        for name, value, bits in (
            ("seed", self.seed, 32),
            ("step", self.step, 32),
            ("stream", self.stream, 32),
            ("call", self.call, 31),
        ):
            if not 0 <= value < 1 << bits:
                raise FormatError(f"StochasticKey.{name} = {value} does not fit {bits} unsigned bits; reduce it first")

    @classmethod
    def of(cls, seed: int, step: int, layer: str, product: str, call: int = 0) -> StochasticKey:
        """The key of one operand of one product of one layer; ``stream`` is the CRC-32 of both names."""
        return cls(seed, step, stream_of(layer, product), call)


@lru_cache(maxsize=65536)
def stream_of(layer: str, product: str) -> int:
    """CRC-32 of ``"<layer>/<product>"`` in UTF-8."""
    return crc32(f"{layer}/{product}".encode())


def _product(multiplier: int, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """High and low 32 bits of the 64-bit product; int64 wraps, which leaves its bits right."""
    wide = x * multiplier
    return (wide >> 32).bitwise_and_(_WORD), wide.bitwise_and_(_WORD)


def philox4x32(counter: tuple[torch.Tensor, ...], key: tuple[int, int]) -> tuple[torch.Tensor, ...]:
    """Ten rounds over four int64 tensors (one shape) that hold 32-bit words; returns four such."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        high0, low0 = _product(_MULTIPLIERS[0], c0)
        high1, low1 = _product(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1.bitwise_xor_(c1).bitwise_xor_(k0), low1, high0.bitwise_xor_(c3).bitwise_xor_(k1), low0
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return c0, c1, c2, c3


def words(key: StochasticKey, count: int, device: torch.device | str = "cpu", domain: int = ROUNDING) -> torch.Tensor:
    """Words 0 .. count-1 of the key: int64 of shape (count,), each in 0 .. 2**32 - 1."""
    groups = -(-count // 4)
    out = torch.empty((groups, 4), dtype=torch.int64, device=device)
    last = key.call | domain << 31
    # On an accelerator one launch per operation is the cost, not the cache.
    step = _GROUPS_AT_ONCE * torch.get_num_threads() if out.device.type == "cpu" else max(groups, 1)
    for start in range(0, groups, step):
        stop = min(start + step, groups)
        group = torch.arange(start, stop, dtype=torch.int64, device=device)
        counter = (
            group & _WORD,
            group >> 32,
            torch.full_like(group, key.step),
            torch.full_like(group, last),
        )
        torch.stack(philox4x32(counter, (key.seed, key.stream)), dim=1, out=out[start:stop])
    return out.view(-1)[:count]


def thresholds(key: StochasticKey, shape: torch.Size, device: torch.device) -> torch.Tensor:
    """``((word >> 8) + 1) * 2**-24`` for every element: float32 in (0, 1], of that shape."""
    uniform = words(key, shape.numel(), device).bitwise_right_shift_(8).add_(1).to(torch.float32)
    return uniform.mul_(2.0**-24).view(shape)
