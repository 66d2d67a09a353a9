"""The backend ``noise``: what a format would round is not rounded, but gets Gaussian noise of the rounding's size.

The control that tells whether quantisation does more than noise of its size would. It wraps another backend, which
says how large the rounding error of each operand is; products are then computed in the model's own dtype.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch.nn.functional import linear as torch_linear

from ..errors import FormatError, PluginError
from ..formats.hadamard import transform
from ..formats.philox import StochasticKey
from ..formats.spec import FP16
from ..formats.tensor import MXTensor
from ..interfaces import Backend, Capabilities, Counters, Exactness, Handle

_SAMPLED = 4096


class NoisyTensor(MXTensor):
    """The packed tensor that a format would give, with ``noisy``: its source plus noise, in the source's dtype."""

    __slots__ = ("noisy",)

    def __init__(self, packed: MXTensor, noisy: torch.Tensor) -> None:
        super().__init__(packed.elements, packed.scales, packed.format, packed.shape, packed.dim, packed.dtype)
        self.noisy = noisy


class NoiseBackend(Backend):
    """x + n instead of q(x), n Gaussian and independent, with RMS(n) = RMS(q(x) - x) over the operand.

    An operand is a layer's whole weight, or its whole input (or output gradient) in one call. A packed weight's noise
    is a function of ``seed``, the draw and the layer's name: policy and reference, whose rounding errors are nearly
    the same, get the same noise, or their KL would measure it. That of other operands is a function of ``seed``, the
    draw and the operand's bits: forward passes that are computed twice, as under checkpointing, get the same. So no
    call depends on another. :meth:`redraw` begins the next draw.

    Args:
        inner: name of the backend whose rounding is imitated.
        seed: of the noise.
        options: of the inner backend.

    Raises:
        PluginError: no such backend.
    """

    name = "noise"

    def __init__(self, inner: str = "cpu", seed: int = 0, **options: Any) -> None:
        from ..plugins import get_backend

        if inner == self.name:
            raise PluginError("backend noise cannot imitate itself: give noise.inner=cpu or reference")
        self.inner: Backend = get_backend(inner, **options)
        self.seed = seed
        self.draw = 0
        self._lock = threading.Lock()
        self._generators: dict[torch.device, torch.Generator] = {}
        self._counters = Counters()
        self._closed = False

    @property
    def capabilities(self) -> Capabilities:
        """The inner backend's formats; no bound, for noise has none."""
        inner = self.inner.capabilities
        return Capabilities(inner.formats, inner.activations, inner.devices, Exactness(bound=float("inf")))

    def redraw(self, draw: int) -> None:
        """From now on other noise, also for operands that have not changed. Packed weights keep theirs: repack them."""
        self.draw = draw

    # ------------------------------------------------------------------ noise

    def quantize(
        self,
        x: torch.Tensor,
        fmt: str,
        dim: int = -1,
        *,
        rounding: str = "nearest",
        scale_rule: str = "floor",
        key: StochasticKey | None = None,
    ) -> NoisyTensor:
        """The inner backend's packed tensor, which also carries what ``load_weight`` will multiply."""
        packed = self.inner.quantize(x, fmt, dim, rounding=rounding, scale_rule=scale_rule, key=key)
        return NoisyTensor(packed, self._noisy(x, self.inner.dequantize(packed, x.dtype), key))

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
        """x (turned, where ``hadamard`` is given) plus noise, in x's dtype or into ``out``."""
        rounded = self.inner.fake_quantize(
            x, fmt, dim, rounding=rounding, scale_rule=scale_rule, key=key, hadamard=hadamard
        )
        source = x if hadamard is None else transform(x, hadamard, dim, rounded.dtype)
        noisy = self._noisy(source, rounded)
        return noisy if out is None else out.copy_(noisy)

    def _noisy(self, x: torch.Tensor, rounded: torch.Tensor, key: StochasticKey | None = None) -> torch.Tensor:
        if not x.numel():
            return x
        error = (rounded.float() - x.float()).nan_to_num_(0.0, 0.0, 0.0)
        size = error.square_().mean().sqrt_()
        return (x.float() + self._gaussian(x, key).mul_(size)).to(x.dtype)

    def _gaussian(self, x: torch.Tensor, key: StochasticKey | None) -> torch.Tensor:
        """Standard normal, float32, of x's shape: the same for the same seed, draw and key, without one bits of x."""
        named = _fingerprint(x) if key is None else (key.seed, key.step, key.stream, key.call)
        seed = hash((self.seed, self.draw, *named)) & (2**63 - 1)
        with self._lock:
            generator = self._generators.setdefault(x.device, torch.Generator(x.device))
            generator.manual_seed(seed)
            return torch.randn(x.shape, generator=generator, device=x.device)

    # ------------------------------------------------------------------ products

    def load_weight(self, packed: MXTensor) -> Handle:
        """Take what ``quantize`` gave: a weight of shape (out, in), blocked along ``in``.

        Raises:
            FormatError: not two-dimensional, or blocked along ``out``.
            PluginError: a packed tensor of another backend, whose source is not known; a released weight; the backend
                is closed.
        """
        if self._closed:
            raise PluginError("this NoiseBackend is closed; make a new one by mx_plugin.get_backend")
        if len(packed.shape) != 2 or packed.dim != 1:
            raise FormatError(
                f"a weight has shape (out, in) and blocks along in; this one is {tuple(packed.shape)}, blocked along "
                f"{packed.dim}: quantize(weight, fmt, dim=-1)"
            )
        if not isinstance(packed, NoisyTensor):
            raise PluginError(
                "backend noise multiplies unquantised weights with noise, and was given a packed weight alone: it "
                "does not go together with release_frozen"
            )
        self._counters.weights_loaded += 1
        self._counters.weight_bytes += packed.noisy.nbytes
        return packed.noisy

    def linear(
        self,
        x: torch.Tensor,
        handle: Handle,
        bias: torch.Tensor | None = None,
        activations: str = "MXFP8",
        *,
        scale_rule: str = "floor",
    ) -> torch.Tensor:
        """Y = (x + n) (W + m)^T + bias, in x's dtype; x: (..., in).

        Raises:
            FormatError: x's last dimension is not ``in``; unknown ``activations`` or ``scale_rule``.
            PluginError: ``handle`` is none of this backend.
        """
        if not isinstance(handle, torch.Tensor):
            raise PluginError(f"{handle!r:.80} is not a weight of this NoiseBackend: use what load_weight returned")
        if x.shape[-1] != handle.shape[1]:
            raise FormatError(f"x of shape {tuple(x.shape)} does not fit the weight {tuple(handle.shape)}, (out, in)")
        self._counters.linear_calls += 1
        self._counters.macs += x.numel() * handle.shape[0]
        if activations != FP16:
            x = self.fake_quantize(x, activations, -1, scale_rule=scale_rule)
        return torch_linear(x, handle.to(x.dtype), None if bias is None else bias.to(x.dtype))

    def product_dtype(self, model_dtype: torch.dtype) -> torch.dtype:
        """The model's own."""
        return model_dtype

    def weight_bytes(self, packed: MXTensor, model_dtype: torch.dtype) -> int:
        """Bytes of the unquantised weight, which is what a call reads."""
        return packed.shape.numel() * model_dtype.itemsize

    # ------------------------------------------------------------------ books

    def counters(self) -> Counters:
        """What has been executed so far."""
        return replace(self._counters)

    def describe(self) -> Mapping[str, Any]:
        """Plain data for config.json."""
        return {"backend": self.name, "inner": dict(self.inner.describe()), "seed": self.seed}

    def close(self) -> None:
        """Close the inner backend; idempotent."""
        self._closed = True
        self.inner.close()


def _fingerprint(x: torch.Tensor) -> tuple[int, ...]:
    """Whole numbers that depend on every bit of x, by a sum, and on the place of some, by a sample."""
    flat = x.detach().contiguous().reshape(-1)
    bits = flat.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[flat.element_size()])
    sample = bits[:: max(1, len(bits) // _SAMPLED)].to(torch.int64)
    places = torch.arange(1, len(sample) + 1, device=x.device)
    return (len(bits), int(bits.sum(dtype=torch.int64)), int((sample * places).sum()))
