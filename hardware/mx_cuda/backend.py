"""The backend ``cuda``: packed weights and casts by Triton kernels, on CUDA tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn.functional import linear as torch_linear

from mx_plugin import formats
from mx_plugin.errors import FormatError, PluginError, nearest
from mx_plugin.execution.loaded_weights import LoadedWeights, closed_weight, other_length
from mx_plugin.formats import MXTensor
from mx_plugin.formats.blocks import checked_dim
from mx_plugin.formats.cast import StochasticKey
from mx_plugin.formats.rules import CastRule, cast_rule
from mx_plugin.formats.spec import FP16, SCALE_RULES, canonical, format_names, get_format
from mx_plugin.interfaces import Backend, BoundLinear, Capabilities, Counters, Exactness, Handle

from . import casting, operators, product, scaled
from .weight import PackedWeight

BOUND = 1e-6
"""Largest error of a float32 result relative to sum |x||w|."""

MANY = 64
"""Rows from which a decoded weight and torch's product serve bfloat16 activations. Not tuned on a device."""


class CudaBackend(Backend):
    """Reads weights packed; keeps no decoded copy.

    Few rows (decode), and float32 or float16 activations in any number: the packed product, whose operands are exact.
    Many rows of bfloat16: MXFP8 by MXFP8 on a card with MX products of its own is theirs; else the weight is decoded
    and torch multiplies. The latter also where a gradient is recorded, where
    activations stay unquantised, and for formats that the kernels do not know.
    """

    name = "cuda"

    def __init__(self) -> None:
        self._weights = LoadedWeights(type(self).__name__, PackedWeight)

    @property
    def capabilities(self) -> Capabilities:
        """Every registered format on either side, within 1e-6 of sum |x||w|."""
        return Capabilities(
            formats=format_names(),
            activations=(FP16, *format_names()),
            devices=(casting.DEVICE,),
            exactness=Exactness(BOUND),
            product_dtypes=("bfloat16", "float32"),
        )

    # ------------------------------------------------------------------ casts

    def quantize(
        self,
        x: torch.Tensor,
        fmt: str,
        dim: int = -1,
        *,
        rounding: str = "nearest",
        scale_rule: str = "floor",
        key: StochasticKey | None = None,
    ) -> MXTensor:
        """``mx_plugin.quantize``, bit for bit."""
        rule = cast_rule(fmt, rounding, scale_rule)
        if not casting.takes(x, rule) or (rule.stochastic and key is None):
            return formats.quantize(x, fmt, dim, rounding=rounding, scale_rule=scale_rule, key=key)
        dim = checked_dim(x, dim)
        if torch.compiler.is_compiling():
            elements, scales = operators.quantize(x, rule.format.name, dim, rounding, scale_rule, operators.fields(key))
        else:
            elements, scales = casting.quantize(x.detach(), rule, dim, key)
        return MXTensor(elements, scales, rule.format, x.shape, dim, x.dtype)

    def fake_quantize(
        self,
        x: torch.Tensor,
        fmt: str,
        dim: int = -1,
        *,
        rounding: str = "nearest",
        scale_rule: str = "floor",
        key: StochasticKey | None = None,
        hadamard: StochasticKey | None = None,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """``mx_plugin.fake_quantize``, bit for bit; the core casts where a gradient is recorded."""
        rule = cast_rule(fmt, rounding, scale_rule)
        recorded = x.requires_grad and torch.is_grad_enabled()
        written = out is None or (out.device == x.device and out.dtype in casting.DTYPES)
        if recorded or not written or not casting.takes(x, rule) or (rule.stochastic and key is None):
            return formats.fake_quantize(
                x, fmt, dim, rounding=rounding, scale_rule=scale_rule, key=key, hadamard=hadamard, out=out
            )
        dim = checked_dim(x, dim)
        if out is None and torch.compiler.is_compiling():
            keys = operators.fields(key), operators.fields(hadamard)
            return operators.fake_quantize(x, rule.format.name, dim, rounding, scale_rule, *keys)
        return casting.fake_quantize(x.detach(), rule, dim, key, hadamard, out)

    def dequantize(self, packed: MXTensor, dtype: torch.dtype, out: torch.Tensor | None = None) -> torch.Tensor:
        """``packed.dequantize(dtype)``, bit for bit."""
        last = packed.dim == len(packed.shape) - 1
        if not last or packed.device.type != casting.DEVICE or dtype not in casting.DTYPES or not _known(packed):
            return super().dequantize(packed, dtype, out)
        if out is None and torch.compiler.is_compiling():
            parts = packed.elements, packed.scales, packed.format.name, packed.shape[-1], dtype
            return operators.dequantize(*parts).view(packed.shape)
        whole = out if out is not None and out.is_contiguous() else None
        if whole is None:
            whole = torch.empty(packed.shape, dtype=dtype, device=packed.device)
        casting.dequantize(packed.elements.contiguous(), packed.scales.contiguous(), packed.format.element, whole)
        return whole if out is None or whole is out else out.copy_(whole)

    # ------------------------------------------------------------------ weights

    def load_weight(self, packed: MXTensor) -> PackedWeight:
        """Take a weight of shape (out, in), blocked along ``in``; its packed memory is used as it is.

        Raises:
            FormatError: not two-dimensional, or blocked along ``out``.
            PluginError: the backend is closed, or the weight is on another kind of device.
        """
        self._weights.check(packed)
        if packed.device.type != casting.DEVICE:
            raise PluginError(
                f"the weight is on {packed.device}; the backend cuda takes {casting.DEVICE} tensors: move it with .to"
            )
        return self._weights.add(PackedWeight(packed))

    def unload_weight(self, handle: Handle) -> None:
        """Free a handle's memory; idempotent.

        Raises:
            PluginError: not a handle of this backend.
        """
        self._weights.own(handle).close()

    def product_dtype(self, model_dtype: torch.dtype) -> torch.dtype:
        """bfloat16: operands are exact there, and sums float32."""
        return torch.bfloat16

    # ------------------------------------------------------------------ the product

    def linear(
        self,
        x: torch.Tensor,
        handle: Handle,
        bias: torch.Tensor | None = None,
        activations: str = "MXFP8",
        *,
        scale_rule: str = "floor",
    ) -> torch.Tensor:
        """Y = q(X) W^T + bias; x: (..., in) float32, bfloat16 or float16; returns (..., out) in x's dtype.

        Raises:
            FormatError: unknown ``activations`` or ``scale_rule``; x's last dimension is not ``in``, or its dtype
                is not taken.
            PluginError: a handle that is closed or of another backend; x on another device.
        """
        return self.bind(handle, activations, scale_rule)(x, bias)

    def bind(self, handle: Handle, activations: str, scale_rule: str) -> BoundLinear:
        """``linear`` with everything but ``x`` and ``bias`` fixed."""
        weight = self._weights.own(handle)
        if scale_rule not in SCALE_RULES:
            raise FormatError(f"unknown scale_rule {scale_rule!r}: {nearest(scale_rule, SCALE_RULES)}")
        activations = canonical(activations)
        if weight.packed is None:
            raise closed_weight()
        rule = None if activations == FP16 else cast_rule(activations, "nearest", scale_rule)
        fused = weight.known and rule is not None and casting.known(rule)
        native = weight.swizzled if activations == scaled.FORMAT else None
        counters = self._weights.counters

        def bound(x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            packed = weight.packed
            if (
                packed is None
                or x.device != packed.device
                or x.dtype not in casting.DTYPES
                or x.shape[-1:] != packed.shape[-1:]
            ):
                raise _why_not(x, weight)
            counters.linear_calls += 1
            counters.macs += x.numel() * weight.out_features
            rows = x.numel() // max(weight.in_features, 1)
            dtype = _autocast(x)
            many = rows > MANY and dtype == torch.bfloat16 and weight.ordinary
            if native is not None and many and x.dtype == torch.bfloat16 and not _records(x, bias):
                a = self.quantize(x.reshape(rows, -1), activations, scale_rule=scale_rule)
                y = scaled.product(a, packed, native, bias)
                return y.view(*x.shape[:-1], weight.out_features)
            if not fused or rule is None or many or not x.numel() or not weight.out_features or _records(x, bias):
                return self._decoded(x, bias, weight, packed, activations, scale_rule, dtype)
            y = _packed_product(x.reshape(rows, -1), packed, rule, scale_rule).view(*x.shape[:-1], weight.out_features)
            if bias is not None:
                y = y + bias
            return y.to(dtype)

        return bound

    def _decoded(
        self,
        x: torch.Tensor,
        bias: torch.Tensor | None,
        weight: PackedWeight,
        packed: MXTensor,
        activations: str,
        scale_rule: str,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        """Decode the weight, cast x, and let torch multiply: differentiable.

        In bfloat16 where the result is and the weight is exact there; otherwise in float32, whose precision is torch's
        (``torch.backends.cuda.matmul.fp32_precision``).
        """
        wide = torch.bfloat16 if dtype == torch.bfloat16 and weight.ordinary else torch.float32
        a = x if wide == x.dtype else x.to(wide)
        if activations != FP16:
            a = self.fake_quantize(a, activations, -1, scale_rule=scale_rule)
        with torch.autocast(x.device.type, enabled=False):
            y = torch_linear(a, self.dequantize(packed, wide), None if bias is None else bias.to(wide))
        return y.to(dtype)

    # ------------------------------------------------------------------ books

    def counters(self) -> Counters:
        """Calls, MACs and loaded weights since it was made; ``extra`` has what is held now.

        A replayed CUDA graph executes without being counted: Python does not see it.
        """
        return self._weights.count()

    def describe(self) -> Mapping[str, Any]:
        """Which device, and by what its kernels run."""
        from .capability import device_description

        return {"backend": self.name, "device": device_description(), "interpreted": casting.INTERPRETED}

    def close(self) -> None:
        """Close every handle; idempotent."""
        self._weights.close()


def _packed_product(x: torch.Tensor, packed: MXTensor, rule: CastRule, scale_rule: str) -> torch.Tensor:
    if torch.compiler.is_compiling():
        names = packed.format.name, rule.format.name, scale_rule
        return operators.linear(x, packed.elements, packed.scales, *names)
    return product.packed_linear(x.detach(), packed.elements, packed.scales, packed.format.element, rule)


def _known(packed: MXTensor) -> bool:
    return packed.format.scale_type == "E8M0" and casting.known(cast_rule(get_format(packed.format)))


def _autocast(x: torch.Tensor) -> torch.dtype:
    """The dtype of the result: x's, or autocast's where that is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _records(x: torch.Tensor, bias: torch.Tensor | None) -> bool:
    """Whether autograd wants to know of this product."""
    return torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad))


def _why_not(x: torch.Tensor, weight: PackedWeight) -> Exception:
    packed = weight.packed
    if packed is None:
        return closed_weight()
    if x.device != packed.device:
        return PluginError(f"x is on {x.device}, the weight on {packed.device}: load the weight after moving the model")
    if x.dtype not in casting.DTYPES:
        return FormatError(f"x is {x.dtype}; a linear layer takes float32, bfloat16 or float16: convert it first")
    return other_length(x.shape, weight.out_features, weight.in_features)
