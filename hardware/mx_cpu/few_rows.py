"""The cast of a few rows: at decode sizes the cost is calls, not elements, and numpy's calls are cheaper.

The arithmetic is that of ``mx_plugin.formats.arithmetic``, operation by operation, and gives the same bits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from mx_plugin.formats.rules import CastRule

AT_MOST = 8192
"""Elements up to which numpy wins; beyond, torch's own operations are as fast (measured on two AVX-512 cores)."""

_EXPONENT = np.int32(0x7F800000)
_SIGN_AND_EXPONENT = np.int32(-0x800000)
_LEAST_SCALE = np.int32(0x00400000)
_LARGEST_SCALE = np.int32(0x7F000000)

Floats = npt.NDArray[np.float32]


def takes(x: torch.Tensor, rule: CastRule) -> bool:
    """Whether ``x`` (..., in) is small enough, on the CPU and of whole blocks."""
    return 0 < x.numel() <= AT_MOST and x.is_cpu and x.shape[-1] % rule.block_size == 0 and not rule.stochastic


def cast_few_rows(x: torch.Tensor, rule: CastRule) -> torch.Tensor:
    """Quantise and decode ``x`` along its last dimension, in x's dtype: ``fake_quantize`` without autograd."""
    blocks = x.detach().to(torch.float32).reshape(-1, rule.block_size).numpy()
    y = torch.from_numpy(_cast(blocks, rule)).view(x.shape)
    return y if x.dtype == torch.float32 else y.to(x.dtype)


def _cast(v: Floats, rule: CastRule) -> Floats:
    work = np.abs(v)
    amax: Floats = np.maximum.reduce(work, axis=1, keepdims=True)
    bits = (amax + amax if rule.doubled else amax).view(np.int32) + np.int32(rule.offset)
    bits &= _SIGN_AND_EXPONENT
    np.maximum(bits, _LEAST_SCALE, out=bits)
    np.minimum(bits, _LARGEST_SCALE, out=bits)
    scale = bits.view(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        scale += amax * np.float32(0)  # NaN exactly where amax is not finite
        y = v / scale
        np.bitwise_and(y.view(np.int32), _EXPONENT, out=work.view(np.int32))
        np.maximum(work, np.float32(rule.least), out=work)
        work *= np.float32(rule.step)
        y /= work
        np.rint(y, out=y)
        y *= work
        np.minimum(y, np.float32(rule.max), out=y)
        np.maximum(y, np.float32(-rule.max), out=y)
        if rule.is_integer:
            y += np.float32(0)  # two's complement has no negative zero
        y *= scale
    return y
