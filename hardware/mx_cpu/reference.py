"""The reference backend: bit-exact, in plain torch, on any device that torch has."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import linear as torch_linear

from mx_plugin import formats
from mx_plugin.errors import FormatError, PluginError, nearest
from mx_plugin.execution.loaded_weights import LoadedWeights, closed_weight, other_length
from mx_plugin.formats.cast import StochasticKey
from mx_plugin.formats.spec import FP16, SCALE_RULES, canonical, format_names
from mx_plugin.interfaces import Backend, BoundLinear, Capabilities, Counters, Exactness, Handle

from .decoded_weight import DecodedWeight, decode, decodes_to_source

Cast = Callable[[torch.Tensor], torch.Tensor]


class ReferenceBackend(Backend):
    """Decodes each weight once, then casts x and calls ``torch.nn.functional.linear``.

    It saves no memory and no time: it is what others are compared with. The product is computed in x's
    dtype (under autocast in autocast's, which is then the result's too, as in torch), or in float32 where
    that one would round the weight (extreme scales).
    """

    name = "reference"

    def __init__(self) -> None:
        self._weights = LoadedWeights(type(self).__name__, DecodedWeight)
        self._casts: dict[tuple[str, str], Cast | None] = {}

    @property
    def capabilities(self) -> Capabilities:
        """Every registered format, on either side, bit-exact."""
        devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
        return Capabilities(
            formats=format_names(),
            activations=(FP16, *format_names()),
            devices=devices,
            exactness=Exactness(),
            product_dtypes=("float32", "bfloat16", "float16"),
        )

    def quantize(
        self,
        x: torch.Tensor,
        fmt: str,
        dim: int = -1,
        *,
        rounding: str = "nearest",
        scale_rule: str = "floor",
        key: StochasticKey | None = None,
    ) -> formats.MXTensor:
        """``mx_plugin.quantize``."""
        return formats.quantize(x, fmt, dim, rounding=rounding, scale_rule=scale_rule, key=key)

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
        """``mx_plugin.fake_quantize``."""
        return formats.fake_quantize(
            x, fmt, dim, rounding=rounding, scale_rule=scale_rule, key=key, hadamard=hadamard, out=out
        )

    # ------------------------------------------------------------------ weights

    def load_weight(self, packed: formats.MXTensor) -> DecodedWeight:
        """Decode a weight of shape (out, in), blocked along ``in``.

        Raises:
            FormatError: not two-dimensional, or blocked along ``out``.
            PluginError: the backend is closed.
        """
        self._weights.check(packed)
        return self._weights.add(DecodedWeight(packed))

    def unload_weight(self, handle: Handle) -> None:
        """Free a handle's memory; idempotent.

        Raises:
            PluginError: not a handle of this backend.
        """
        self._weights.own(handle).close()

    def weight_bytes(self, packed: formats.MXTensor, model_dtype: torch.dtype) -> int:
        """Bytes of the decoded copy, which is what a call reads."""
        if decodes_to_source(packed):
            return packed.shape.numel() * packed.dtype.itemsize
        return decode(packed).nbytes

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
            FormatError: unknown ``activations`` or ``scale_rule``; x's last dimension is not ``in``, or x is
                not floating.
            PluginError: a handle that is closed or of another backend; x on another device.
        """
        return self._multiply(x, bias, self._weights.own(handle), self._cast(activations, scale_rule))

    def bind(self, handle: Handle, activations: str, scale_rule: str) -> BoundLinear:
        """``linear`` with handle and cast looked up once."""
        weight, cast, multiply = self._weights.own(handle), self._cast(activations, scale_rule), self._multiply

        def bound(x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            return multiply(x, bias, weight, cast)

        return bound

    def _multiply(
        self, x: torch.Tensor, bias: torch.Tensor | None, handle: DecodedWeight, cast: Cast | None
    ) -> torch.Tensor:
        kind = x.device.type
        # Left to torch, autocast would convert the whole weight again in every call.
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        weight = handle.to_multiply(dtype)
        if weight is None or x.shape[-1] != handle.in_features or x.device != handle.device:
            raise _why_not(x, handle)
        counters = self._weights.counters
        counters.linear_calls += 1
        counters.macs += x.numel() * handle.out_features
        if cast is not None and x.numel():
            x = cast(x)
        if weight.dtype == dtype:
            return torch_linear(x, weight, bias)
        with torch.autocast(kind, enabled=False):
            wide = weight.dtype
            y = torch_linear(x.to(wide), weight, None if bias is None else bias.to(wide))
        return y.to(dtype)

    def _cast(self, activations: str, scale_rule: str) -> Cast | None:
        """The cast of x, or None for FP16; made once per pair of names."""
        key = (activations, scale_rule)
        if key not in self._casts:
            self._casts[key] = _make_cast(canonical(activations), scale_rule)
        return self._casts[key]

    # ------------------------------------------------------------------ books

    def counters(self) -> Counters:
        """Calls, MACs and loaded weights since it was made; ``extra`` has what is held now."""
        return self._weights.count()

    def close(self) -> None:
        """Close every handle; idempotent."""
        self._weights.close()


def _make_cast(fmt: str, scale_rule: str) -> Cast | None:
    if scale_rule not in SCALE_RULES:
        raise FormatError(f"unknown scale_rule {scale_rule!r}: {nearest(scale_rule, SCALE_RULES)}")
    if fmt == FP16:
        return None

    def cast(x: torch.Tensor) -> torch.Tensor:
        return formats.fake_quantize(x, fmt, -1, scale_rule=scale_rule)

    return cast


def _why_not(x: torch.Tensor, handle: DecodedWeight) -> Exception:
    if handle.tensor is None:
        return closed_weight()
    if x.shape[-1] != handle.in_features:
        return other_length(x.shape, handle.out_features, handle.in_features)
    return PluginError(f"x is on {x.device}, the weight on {handle.device}: load the weight after moving the model")
