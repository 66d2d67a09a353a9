"""From a layer's input to rows that a board multiplies, and back: cast, shapes, bias, dtype."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from mx_plugin import formats
from mx_plugin.errors import FormatError, nearest
from mx_plugin.formats import MXTensor
from mx_plugin.formats.spec import FP16, SCALE_RULES, canonical

from .elements import FORMATS

Product = Callable[[MXTensor], NDArray[np.float32]]
"""Activations of shape (tokens, in) -> float32 of shape (tokens, out)."""


def check_activations(name: str, scale_rule: str) -> str:
    """The canonical name of a format that a board can multiply.

    Raises:
        FormatError: unknown, or none that a board multiplies.
    """
    fmt = canonical(name)
    if fmt not in FORMATS:
        what = "unquantised activations (FP16)" if fmt == FP16 else f"activations in {fmt}"
        raise FormatError(
            f"a board multiplies MX by MX, not {what}: give the layer a pair such as MXFP4/MXFP8. "
            f"{nearest(fmt, FORMATS)}"
        )
    if scale_rule not in SCALE_RULES:
        raise FormatError(f"unknown scale_rule {scale_rule!r}: {nearest(scale_rule, SCALE_RULES)}")
    return fmt


def multiply(
    x: torch.Tensor, bias: torch.Tensor | None, shape: torch.Size, fmt: str, scale_rule: str, product: Product
) -> torch.Tensor:
    """Y = q(X) W^T + bias for a weight of ``shape`` (out, in): x (..., in) -> (..., out) in x's dtype and device.

    ``product`` answers in float32; the bias is added in float32 too, before the one rounding to x's dtype.

    Raises:
        FormatError: x's last dimension is not ``in``, or x is not floating.
    """
    rows = as_rows(x, shape)
    if rows.shape[0]:
        y = torch.from_numpy(product(formats.quantize(rows, fmt, -1, scale_rule=scale_rule))).to(x.device)
    else:
        y = torch.zeros(0, shape[0], device=x.device)
    return finish(y, bias, x.dtype).reshape(*x.shape[:-1], shape[0])


def as_rows(x: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """x of shape (..., in) as (tokens, in), without its graph.

    Raises:
        FormatError: x's last dimension is not ``in``, or x is not floating.
    """
    if not x.is_floating_point() or not x.dim() or x.shape[-1] != shape[1]:
        raise FormatError(
            f"x is {x.dtype} of shape {tuple(x.shape)}; the weight {tuple(shape)} needs (..., {shape[1]})"
        )
    return x.detach().reshape(-1, shape[1])


def finish(y: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    """Add the bias in float32 and round once to ``dtype``."""
    if bias is not None:
        y = y + bias.detach().to(y)
    return y.to(dtype)
