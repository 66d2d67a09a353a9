"""Do results agree? Board and ``emulate`` bit for bit, another backend within what both promise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mx_plugin.formats import MXTensor
from mx_plugin.interfaces import Exactness

from . import arithmetic
from .activations import finish


@dataclass(frozen=True)
class Difference:
    """``count`` elements of a result differ; the first at (token, row), with both values. ``worst``: largest error in
    units of what is allowed."""

    count: int = 0
    compared: int = 0
    worst: float = 0.0
    first: str = ""


def compare_bits(board: NDArray[np.float32], emulated: NDArray[np.float32]) -> Difference:
    """Equal bits everywhere?"""
    wrong = board.view(np.uint32) != emulated.view(np.uint32)
    count = int(wrong.sum())
    first = ""
    if count:
        token, row = (int(i) for i in np.argwhere(wrong)[0])
        first = f"token {token}, row {row}: {_told(board[token, row])} instead of {_told(emulated[token, row])}"
    return Difference(count, board.size, float("inf") if count else 0.0, first)


def _told(value: np.float32) -> str:
    """A number; of NaN its bits too, since only one NaN is right."""
    return f"nan ({value.view(np.uint32):#010x})" if np.isnan(value) else repr(float(value))


def allowed_error(
    x: MXTensor, w: MXTensor, bias: torch.Tensor | None, exactness: Exactness, dtype: torch.dtype
) -> torch.Tensor:
    """Largest |difference| of a backend's result in ``dtype`` and the board's: float64 of shape (tokens, out).

    Both bounds are relative to sum |x||w|. A backend that is bit-exact to the reference multiplies as torch does, in
    any order: n products and sums within n 2**-24 of it (Higham, "Accuracy and Stability of Numerical Algorithms",
    3.1). On top comes what a narrower ``dtype`` rounds, once in the sum and once with the bias.
    """
    size = x.dequantize(torch.float32).abs().double() @ w.dequantize(torch.float32).abs().double().T
    length = x.shape[1]
    bound = length * 2.0**-24 if exactness.bound is None else exactness.bound
    largest = size if bias is None else size + bias.detach().abs().to(size)
    rounding = 2.0**-23 + (0.0 if dtype == torch.float32 else torch.finfo(dtype).eps)
    return (bound + arithmetic.error_bound(x.scales.shape[1])) * size + rounding * largest + torch.finfo(dtype).tiny


def compare_within(
    y: torch.Tensor, board: NDArray[np.float32], bias: torch.Tensor | None, allowed: torch.Tensor
) -> Difference:
    """Is ``y`` of shape (tokens, out) within ``allowed`` of the board's result?

    Where sum |x||w| comes near the largest number of y's dtype, infinities depend on the order of sums: not compared.
    """
    y = y.cpu()
    other = finish(torch.from_numpy(board), None if bias is None else bias.cpu(), y.dtype)
    comparable = torch.isfinite(allowed) & (allowed < torch.finfo(y.dtype).max * torch.finfo(y.dtype).eps)
    error = (y.double() - other.double()).abs() / allowed
    error[torch.isnan(y) & torch.isnan(other)] = 0.0
    error = torch.where(torch.isnan(error), torch.inf, error)
    wrong = comparable & (error > 1.0)
    count = int(wrong.sum())
    first = ""
    if count:
        token, row = (int(i) for i in wrong.nonzero()[0])
        first = (
            f"token {token}, row {row}: {y[token, row].item()!r}, the board {other[token, row].item()!r}, "
            f"{error[token, row].item():.3g} times what is allowed"
        )
    worst = float(error[comparable].max()) if bool(comparable.any()) else 0.0
    return Difference(count, int(comparable.sum()), worst, first)
