"""The backend ``bf16``: products in bfloat16 of weights that were decoded once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn.functional import linear

import mx_plugin
from mx_plugin.errors import FormatError, PluginError, nearest
from mx_plugin.formats import MXTensor, StochasticKey, format_names
from mx_plugin.interfaces import Backend, BoundLinear, Capabilities, Counters, Exactness, Handle

KEEP = {"bfloat16": torch.bfloat16, "float32": torch.float32}
SCALE_RULES = ("floor", "rceil", "even")

# Half a unit in the last place of bfloat16 is 2^-9 of the value. Unquantised x is rounded once, and so is the result;
# sums run in float32. 2^-7 leaves room for those sums.
BOUNDS = {"bfloat16": 2.0**-7, "float32": 2.0**-16}


class Weight:
    """A handle: the weight (out, in), decoded; ``values`` is None once it is unloaded."""

    __slots__ = ("in_features", "out_features", "values")

    def __init__(self, values: torch.Tensor) -> None:
        self.values: torch.Tensor | None = values
        self.out_features, self.in_features = values.shape


class Bfloat16Backend(Backend):
    """Decodes each weight once and multiplies in the dtype that it keeps.

    Args:
        keep: ``bfloat16``, which halves a float32 model's bytes and multiplies at bfloat16's speed, or ``float32``.

    Raises:
        PluginError: another ``keep``.
    """

    name = "bf16"

    def __init__(self, keep: str = "bfloat16") -> None:
        if keep not in KEEP:
            raise PluginError(f"keep={keep!r}: {nearest(str(keep), KEEP)}")
        self._keep = keep
        self._held: set[Weight] = set()
        self._counters = Counters()
        self._extreme = 0
        self._closed = False

    @property
    def capabilities(self) -> Capabilities:
        """Every registered format on either side; not bit-exact, and says by how much."""
        return Capabilities(
            formats=format_names(),
            activations=("FP16", *format_names()),
            devices=("cpu", "cuda") if torch.cuda.is_available() else ("cpu",),
            exactness=Exactness(bound=BOUNDS[self._keep]),
            product_dtypes=tuple(dict.fromkeys((self._keep, "float32"))),
        )

    # The specification leaves one answer to a cast, so a backend without kernels of its own takes mx_plugin's.

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
        return mx_plugin.quantize(x, fmt, dim, rounding=rounding, scale_rule=scale_rule, key=key)

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
        return mx_plugin.fake_quantize(
            x, fmt, dim, rounding=rounding, scale_rule=scale_rule, key=key, hadamard=hadamard, out=out
        )

    # ------------------------------------------------------------------ weights

    def load_weight(self, packed: MXTensor) -> Weight:
        """Decode a weight of shape (out, in), blocked along ``in``.

        Raises:
            FormatError: not two-dimensional, or blocked along ``out``.
            PluginError: the backend is closed.
        """
        if self._closed:
            raise PluginError("this Bfloat16Backend is closed; make a new one by mx_plugin.get_backend")
        if len(packed.shape) != 2 or packed.dim != 1:
            raise FormatError(
                f"a weight has shape (out, in) and blocks along in; this one has shape {tuple(packed.shape)} and "
                f"blocks along dimension {packed.dim}: quantize(weight, fmt, dim=-1)"
            )
        weight = Weight(packed.dequantize(self._kept_dtype(packed)))
        self._held.add(weight)
        self._extreme += packed.has_extreme_scales
        self._counters.weights_loaded += 1
        self._counters.weight_bytes += self.weight_bytes(packed, packed.dtype)
        return weight

    def unload_weight(self, handle: Handle) -> None:
        """Free a handle's memory; twice does nothing."""
        if isinstance(handle, Weight):
            self._held.discard(handle)
            handle.values = None

    def _kept_dtype(self, packed: MXTensor) -> torch.dtype:
        # bfloat16 arithmetic may flush what lies at the ends of E8M0's range.
        return torch.float32 if packed.has_extreme_scales else KEEP[self._keep]

    def weight_bytes(self, packed: MXTensor, model_dtype: torch.dtype) -> int:
        """A call reads the decoded copy."""
        return packed.numel() * self._kept_dtype(packed).itemsize

    def product_dtype(self, model_dtype: torch.dtype) -> torch.dtype:
        """Whatever the model's dtype, the weight's decides."""
        return KEEP[self._keep]

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
        """Y = q(X) W^T + bias; x: (..., in), any floating dtype; returns (..., out) in x's dtype.

        Raises:
            FormatError: unknown ``activations`` or ``scale_rule``; x does not fit the weight.
            PluginError: a handle that was unloaded, or of another backend.
        """
        return self.bind(handle, activations, scale_rule)(x, bias)

    def bind(self, handle: Handle, activations: str, scale_rule: str) -> BoundLinear:
        """Everything but x and bias checked and looked up once: what the rollout calls for each token."""
        if not isinstance(handle, Weight) or handle not in self._held:
            raise PluginError(f"{handle!r:.80} is not a weight held by this Bfloat16Backend: load_weight again")
        if scale_rule not in SCALE_RULES:
            raise FormatError(f"unknown scale_rule {scale_rule!r}: {nearest(scale_rule, SCALE_RULES)}")
        able = self.capabilities.activations
        if activations not in able:
            raise FormatError(f"unknown activations {activations!r}: {nearest(activations, able)}")

        def bound(x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            return self._multiply(x, handle, bias, activations, scale_rule)

        return bound

    def _multiply(
        self, x: torch.Tensor, weight: Weight, bias: torch.Tensor | None, activations: str, scale_rule: str
    ) -> torch.Tensor:
        values = weight.values
        if values is None:
            raise PluginError("the weight was unloaded: load_weight again")
        if not x.is_floating_point() or x.shape[-1] != weight.in_features:
            raise FormatError(
                f"x is {x.dtype} of shape {tuple(x.shape)}; the weight ({weight.out_features}, {weight.in_features}) "
                f"multiplies floating-point numbers whose last dimension is {weight.in_features}"
            )
        self._counters.linear_calls += 1
        self._counters.macs += x.numel() * weight.out_features
        if activations != "FP16" and x.numel():
            x = mx_plugin.fake_quantize(x, activations, -1, scale_rule=scale_rule)
        with torch.autocast(x.device.type, enabled=False):  # it would convert the weight in every call
            y = linear(x.to(values.dtype), values).to(x.dtype)
        return y if bias is None else y + bias.to(x.dtype)

    # ------------------------------------------------------------------ books

    def counters(self) -> Counters:
        """What was executed; ``extra`` has the weights held now."""
        return Counters(**{**vars(self._counters), "extra": {"weights_held": float(len(self._held))}})

    def describe(self) -> Mapping[str, Any]:
        """For config.json: the dtype that is kept, and how many weights could not be."""
        return {"backend": self.name, "keep": self._keep, "weights_kept_in_float32_for_their_scales": self._extreme}

    def close(self) -> None:
        """Free every weight, and load no more."""
        for weight in list(self._held):
            self.unload_weight(weight)
        self._closed = True
