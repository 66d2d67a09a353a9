"""The native backend: packed weights times activations cast on the fly, in C++."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch.nn.functional import linear as torch_linear
from torch.utils.weak import WeakTensorKeyDictionary

from mx_plugin.errors import FormatError, PluginError, nearest
from mx_plugin.execution.loaded_weights import LoadedWeights, closed_weight, other_length
from mx_plugin.formats import MXTensor
from mx_plugin.formats.cast import StochasticKey
from mx_plugin.formats.spec import FP16, SCALE_RULES, canonical, format_names
from mx_plugin.interfaces import (
    Backend,
    BoundCast,
    BoundLinear,
    Capabilities,
    Counters,
    Exactness,
    Handle,
    MatrixProduct,
)

from .float32_product import float32_product
from .library import BF16_LEVELS, TYPES, library
from .native_casts import NativeCasts
from .native_weight import NativeWeight, native_format

BOUND = 1e-6
"""Largest error of a float32 result relative to sum |x||w|."""

_get_threads = torch.get_num_threads
_empty = torch.empty


class NativeBackend(Backend):
    """Reads weights packed (no decoded copy is kept), on CPU tensors.

    Few rows (decode): the C++ product. Many rows: the weight is decoded into a buffer that is kept and reused,
    and torch multiplies; float32 activations stay in the C++ product as long as it is the faster one.

    Raises:
        NativeUnavailable: the library is not there, see ``mx-plugin doctor``.
    """

    name = "cpu"

    def __init__(self) -> None:
        self._native = library()
        self._casts = NativeCasts(self._native)
        self._weights = LoadedWeights(type(self).__name__, NativeWeight)
        self._ordinary = WeakTensorKeyDictionary()
        self._buffers = threading.local()

    @property
    def level(self) -> str:
        """The instruction-set level in use."""
        return self._native.level

    @property
    def capabilities(self) -> Capabilities:
        """Every registered format on either side, within 1e-6 of sum |x||w|."""
        return Capabilities(
            formats=format_names(),
            activations=(FP16, *format_names()),
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
        return self._casts.quantize(x, fmt, dim, rounding, scale_rule, key)

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
        """``mx_plugin.fake_quantize``, bit for bit."""
        return self._casts.fake_quantize(x, fmt, dim, rounding, scale_rule, key, hadamard, out)

    def dequantize(self, packed: MXTensor, dtype: torch.dtype, out: torch.Tensor | None = None) -> torch.Tensor:
        """``packed.dequantize(dtype)``, bit for bit; fastest for weights that were loaded here."""
        return self._casts.decoded(packed, dtype, out, self._ordinary.get(packed.elements, False))

    def bind_cast(self, fmt: str, dim: int = -1, *, rounding: str = "nearest", scale_rule: str = "floor") -> BoundCast:
        """``fake_quantize`` with everything but tensors and keys fixed."""
        return self._casts.bind(fmt, dim, rounding, scale_rule)

    def bfloat16_product(self, device: torch.device) -> MatrixProduct | None:
        """MKL's product of bfloat16 matrices with a float32 result, where this processor has it."""
        return float32_product() if device.type == "cpu" else None

    # ------------------------------------------------------------------ weights

    def load_weight(self, packed: MXTensor) -> NativeWeight:
        """Take a weight of shape (out, in), blocked along ``in``; its packed memory is used as it is.

        Raises:
            FormatError: not two-dimensional, or blocked along ``out``.
            PluginError: the backend is closed, or the weight is not on the CPU.
        """
        self._weights.check(packed)
        if packed.device.type != "cpu":
            raise PluginError(f"the weight is on {packed.device}; the backend cpu takes CPU tensors: move it with .to")
        handle = NativeWeight(packed, self._native)
        self._ordinary[packed.elements] = not handle.exact
        return self._weights.add(handle)

    def unload_weight(self, handle: Handle) -> None:
        """Free a handle's memory; idempotent.

        Raises:
            PluginError: not a handle of this backend.
        """
        self._weights.own(handle).close()

    def product_dtype(self, model_dtype: torch.dtype) -> torch.dtype:
        """bfloat16 where the processor multiplies it (exact operands, float32 sums), else float32."""
        return torch.bfloat16 if self._native.level in BF16_LEVELS else torch.float32

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
            PluginError: a handle that is closed or of another backend; x not on the CPU.
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
        many = self._many(weight, activations, scale_rule)
        if not (weight.known and native_format(activations)):
            return self._checked(weight, many)
        job, run = weight.job(activations, scale_rule), self._native.linear
        inner, outer, counters = weight.in_features, weight.out_features, self._weights.counters
        limits = self._row_limits(weight, activations)

        def bound(x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            dtype = x.dtype
            limit = limits.get(dtype)
            shape = x.shape
            packed = weight.packed  # so that it outlives this call, whoever unloads it meanwhile
            if limit is None or shape[-1] != inner or packed is None or x.device.type != "cpu":
                raise _why_not(x, weight)
            count = x.numel()
            if count > limit or torch.is_autocast_enabled("cpu") or _records(x, bias) or not count or not outer:
                counters.linear_calls += 1
                counters.macs += count * outer
                return many(x, bias)
            if not x.is_contiguous():
                x = x.contiguous()
            y = _empty((*shape[:-1], outer), dtype=dtype)
            if bias is None:
                run(job, x.data_ptr(), y.data_ptr(), None, count // inner, TYPES[dtype], 0, _get_threads())
            else:
                kind = TYPES.get(bias.dtype)
                if kind is None or bias.dim() != 1 or bias.shape[0] != outer or bias.device.type != "cpu":
                    raise FormatError(
                        f"bias is {bias.dtype} of shape {tuple(bias.shape)} on {bias.device}; this layer adds "
                        f"({outer},) in float32, bfloat16 or float16 on cpu"
                    )
                if not bias.is_contiguous():
                    bias = bias.contiguous()
                at = bias.data_ptr()
                run(job, x.data_ptr(), y.data_ptr(), at, count // inner, TYPES[dtype], kind, _get_threads())
            counters.linear_calls += 1
            counters.macs += count * outer
            return y

        return bound

    def _row_limits(self, weight: NativeWeight, activations: str) -> dict[torch.dtype, int]:
        """Largest x.numel() for the C++ product, by dtype; beyond it torch's product over decoded weights wins.

        Where torch would have to multiply in float32 to be exact, bfloat16 products in C++ win throughout.
        """
        inner = max(weight.in_features, 1)
        if self._native.level not in BF16_LEVELS or weight.exact:
            return dict.fromkeys(TYPES, 4 * inner)
        if self._native.level == "amx":
            return dict.fromkeys(TYPES, 1 << 62)
        if activations == FP16:
            return {torch.float32: 16 * inner, torch.float16: 24 * inner, torch.bfloat16: 56 * inner}
        return {torch.float32: 1 << 62, torch.float16: 1 << 62, torch.bfloat16: 56 * inner}

    def _checked(self, weight: NativeWeight, many: BoundLinear) -> BoundLinear:
        counters = self._weights.counters

        def bound(x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            if x.shape[-1] != weight.in_features or weight.packed is None or x.device.type != "cpu":
                raise _why_not(x, weight)
            counters.linear_calls += 1
            counters.macs += x.numel() * weight.out_features
            return many(x, bias)

        return bound

    def _many(self, weight: NativeWeight, activations: str, scale_rule: str) -> BoundLinear:
        """Decode the weight, cast x, and let torch multiply; also differentiable, and under autocast."""
        cast = self._cast(activations, scale_rule)

        def many(x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            result = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
            packed = weight.packed
            assert packed is not None
            records = _records(x, bias)
            bf16 = x.dtype == torch.bfloat16 and result == torch.bfloat16 and not weight.exact
            if bf16 and self._native.level not in BF16_LEVELS:
                bf16 = False  # torch emulates bfloat16 there
            dtype = torch.bfloat16 if bf16 else torch.float32
            w = self._decoded(weight, packed, dtype, fresh=records)
            a = cast(x if dtype == x.dtype else x.to(dtype))
            with torch.autocast("cpu", enabled=False):
                y = torch_linear(a, w, None if bias is None else bias.to(dtype))
            return y if y.dtype == result else y.to(result)

        return many

    def _decoded(self, weight: NativeWeight, packed: MXTensor, dtype: torch.dtype, fresh: bool) -> torch.Tensor:
        """The weight in ``dtype``: in this thread's buffer, good until the next call, unless ``fresh``."""
        if not weight.known:
            return packed.dequantize(dtype)
        if fresh:
            return self._casts.dequantize(packed, torch.empty(packed.shape, dtype=dtype), not weight.exact)
        name = "bfloat16" if dtype == torch.bfloat16 else "float32"
        buffer: torch.Tensor | None = getattr(self._buffers, name, None)
        if buffer is None or buffer.numel() < packed.numel():
            buffer = torch.empty(packed.numel(), dtype=dtype)
            setattr(self._buffers, name, buffer)
        return self._casts.dequantize(packed, buffer[: packed.numel()].view(packed.shape), not weight.exact)

    def _cast(self, activations: str, scale_rule: str) -> Callable[[torch.Tensor], torch.Tensor]:
        if activations == FP16:
            return lambda x: x
        casts = self._casts
        return lambda x: casts.fake_quantize(x, activations, -1, "nearest", scale_rule, None, None, None)

    # ------------------------------------------------------------------ books

    def counters(self) -> Counters:
        """Calls, MACs and loaded weights since it was made; ``extra`` has what is held now."""
        return self._weights.count()

    def close(self) -> None:
        """Close every handle and free the buffers; idempotent."""
        self._weights.close()
        self._buffers = threading.local()


def _records(x: torch.Tensor, bias: torch.Tensor | None) -> bool:
    """Whether autograd wants to know of this product."""
    return torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad))


def _why_not(x: torch.Tensor, weight: NativeWeight) -> Exception:
    if weight.packed is None:
        return closed_weight()
    if x.device.type != "cpu":
        return PluginError(f"x is on {x.device}, the weight on cpu: load the weight after moving the model")
    if x.shape[-1] != weight.in_features:
        return other_length(x.shape, weight.out_features, weight.in_features)
    return FormatError(f"x is {x.dtype}; a linear layer takes float32, bfloat16 or float16: convert it first")
