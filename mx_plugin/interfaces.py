"""The three plugin kinds - provider, backend, meter - and the small records they exchange.

A plugin implements one of these classes and registers a *factory* for it (see ``hookspecs``).
The core calls nothing that is not written here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from .check import Check
from .formats.cast import StochasticKey
from .formats.tensor import MXTensor
from .hookspecs import INTERFACE_VERSION
from .precision.formats import LayerFormats

__all__ = [
    "INTERFACE_VERSION",
    "Backend",
    "BoundCast",
    "BoundLinear",
    "Capabilities",
    "Check",
    "Counters",
    "Exactness",
    "Handle",
    "LayerInfo",
    "MatrixProduct",
    "Measurement",
    "Meter",
    "Provider",
    "Work",
]

Handle = Any
"""Whatever a backend's ``load_weight`` returns; opaque to everyone else."""

BoundLinear = Callable[[torch.Tensor, "torch.Tensor | None"], torch.Tensor]
"""``(x, bias) -> y``: a linear layer with its weight, formats and device already chosen."""


BoundCast = Callable[
    [torch.Tensor, "torch.Tensor | None", "StochasticKey | None", "StochasticKey | None"], torch.Tensor
]
"""``(x, out, key, hadamard) -> result``: ``fake_quantize`` with its format, dimension and rules already chosen."""

MatrixProduct = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""``(a, b) -> a @ b``; a: (m, k), b: (k, n), either may be a transposed view."""


# ---------------------------------------------------------------------------- provider


@dataclass(frozen=True)
class LayerInfo:
    """What a provider learns about one adopted layer before the run starts."""

    name: str
    role: str
    in_features: int
    out_features: int
    is_lm_head: bool = False


class Provider(ABC):
    """Chooses formats. Asked once per (layer, phase, role) at a phase entry, never per call.

    One whose answers change while training runs may have ``state_dict() -> Mapping`` and ``load_state_dict(state)``,
    with plain data or tensors: checkpoints keep it, and a resumed run goes on with it. A second instance, made in the
    same way, answers the same (ranks must agree), and none draws from global random numbers.
    """

    def start(self, layers: Sequence[LayerInfo]) -> None:
        """Called once, after adoption and before the first phase.

        Raises:
            PolicyError: the provider's rules do not fit these layers.
        """

    @abstractmethod
    def get_precision(self, layer_name: str, phase: str, role: str = "policy") -> LayerFormats:
        """Formats of the layer, or of the one answer shared by all layers under a name prefix.

        Raises:
            PolicyError: unknown phase or role, or a prefix whose layers differ (it lists them).
        """

    def observe(self, step: int, metrics: Mapping[str, float]) -> bool:
        """See a step's metrics; return True to be asked again at the next phase entry.

        While it returns False the answers stay what they were. Metrics may be absent, NaN or infinite.
        """
        return False

    def describe(self) -> Mapping[str, Any]:
        """Plain data for config.json."""
        return {"provider": type(self).__name__}


# ---------------------------------------------------------------------------- backend


@dataclass(frozen=True)
class Exactness:
    """How close ``linear`` is to the exact product of the dequantised operands.

    ``bound`` is the largest ``|error|`` relative to ``sum |x||w|`` for float32 output; None means
    bit-exact to the reference backend.
    """

    bound: float | None = None

    @property
    def bit_exact(self) -> bool:
        return self.bound is None


@dataclass(frozen=True)
class Capabilities:
    """What a backend can do, declared up front and checked by the conformance kit."""

    formats: tuple[str, ...]
    activations: tuple[str, ...]
    devices: tuple[str, ...] = ("cpu",)
    exactness: Exactness = Exactness()
    fake_quantize: bool = True
    product_dtypes: tuple[str, ...] = ("float32",)
    memory_bytes: int | None = None


@dataclass
class Counters:
    """What a backend has executed since it was made."""

    linear_calls: int = 0
    macs: int = 0
    weights_loaded: int = 0
    weight_bytes: int = 0
    extra: dict[str, float] = field(default_factory=dict)


class Backend(ABC):
    """Executes MX linear layers. ``interface_version`` is the version it was written for.

    What a backend refuses it refuses by raising: FormatError (of ``mx_plugin.errors``) for formats, scale rules,
    roundings and shapes that it does not take, PluginError for a handle that is not one of its loaded weights. The same
    operands give the same bits, in every instance and from any thread; ``x``, ``bias`` and weights are never written,
    and no result shares memory with another. It neither seeds nor draws from global random numbers.
    """

    interface_version: tuple[int, int] = INTERFACE_VERSION
    name: str = "?"

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities: ...

    @abstractmethod
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
        """Cast to a packed tensor, bit-identical to ``mx_plugin.quantize``.

        The engine packs weights with a ``key`` that names the layer, although rounding to nearest draws nothing. Cast
        what x holds now: an optimiser may have written it without touching ``x._version``.

        Raises:
            FormatError: a format, ``rounding`` or ``scale_rule`` that does not exist.
        """

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
        """Quantise and dequantise in x's dtype (or into ``out``), along ``dim``.

        With ``hadamard`` the blocks are first turned by a random Hadamard transform of size 32. ``out`` has
        the result's shape, any floating dtype, and may be a transposed view.
        """
        raise NotImplementedError

    def bind_cast(self, fmt: str, dim: int = -1, *, rounding: str = "nearest", scale_rule: str = "floor") -> BoundCast:
        """Return ``fake_quantize`` with everything but tensors and keys fixed: the training hot path.

        Bound once per layer, product and operand; called from any thread, from several at once.
        """

        def bound(
            x: torch.Tensor, out: torch.Tensor | None, key: StochasticKey | None, hadamard: StochasticKey | None
        ) -> torch.Tensor:
            return self.fake_quantize(
                x, fmt, dim, rounding=rounding, scale_rule=scale_rule, key=key, hadamard=hadamard, out=out
            )

        return bound

    def bfloat16_product(self, device: torch.device) -> MatrixProduct | None:
        """How bfloat16 matrices on ``device`` are multiplied into a *float32* result, None where they are not.

        Products must be exact and sums float32, up to what bfloat16 hardware does: operands, products and sums
        below 2**-126 may count as zero. A float32 model then trains at the speed of bfloat16.
        """
        return None

    def dequantize(self, packed: MXTensor, dtype: torch.dtype, out: torch.Tensor | None = None) -> torch.Tensor:
        """Decode, bit-identical to ``packed.dequantize(dtype)``; into ``out`` (of that shape and dtype) if given."""
        values = packed.dequantize(dtype)
        return values if out is None else out.copy_(values)

    @abstractmethod
    def load_weight(self, packed: MXTensor) -> Handle:
        """Take a packed weight of shape (out, in), blocked along ``in``; return a handle.

        It may have been packed by ``mx_plugin.quantize`` or by another backend, by any scale rule. Each call returns a
        handle of its own; weights stay loaded side by side until they are unloaded.

        Raises:
            FormatError: not two-dimensional, blocked along ``out``, or in a format that ``capabilities`` does not list.
            PluginError: the backend is closed.
        """

    def unload_weight(self, handle: Handle) -> None:
        """Forget a handle and free its memory; other handles stay as they are.

        ``linear`` with it then raises PluginError, or still multiplies this weight: never another's.
        """

    @abstractmethod
    def linear(
        self,
        x: torch.Tensor,
        handle: Handle,
        bias: torch.Tensor | None = None,
        activations: str = "MXFP8",
        *,
        scale_rule: str = "floor",
    ) -> torch.Tensor:
        """Y = q(X) W^T + bias. x: (..., in), any floating dtype; returns (..., out) in x's dtype.

        ``activations="FP16"`` leaves x unquantised. There may be no rows, or no leading dimension.

        Raises:
            FormatError: ``activations`` that ``capabilities`` does not list, an unknown ``scale_rule``, or x whose last
                dimension is not the weight's ``in``.
            PluginError: ``handle`` is nothing that this instance's ``load_weight`` returned: None, say, or a number.
        """

    def bind(self, handle: Handle, activations: str, scale_rule: str) -> BoundLinear:
        """Return ``linear`` with everything but ``x`` and ``bias`` fixed: the decode hot path."""

        def bound(x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            return self.linear(x, handle, bias, activations, scale_rule=scale_rule)

        return bound

    def product_dtype(self, model_dtype: torch.dtype) -> torch.dtype:
        """The dtype in which ``linear`` really multiplies for a model of that dtype."""
        return model_dtype

    def weight_bytes(self, packed: MXTensor, model_dtype: torch.dtype) -> int:
        """Bytes of weight that one ``linear`` call reads; a decoded copy counts as decoded."""
        return packed.nbytes

    @abstractmethod
    def counters(self) -> Counters:
        """What has been executed so far: a copy, which later calls do not change.

        Each call of ``linear``, or of what ``bind`` returned, counts once, and as rows x in x out MACs, unpadded.
        """

    def describe(self) -> Mapping[str, Any]:
        """Plain data for config.json: options, the device, what went wrong. Asked at the start and at the end."""
        return {"backend": self.name}

    def conclusion(self) -> str:
        """A line below a run's closing table: what its user must know, such as how many results differed.

        Asked once, at the end, before ``close``; empty where there is nothing to say.
        """
        return ""

    def close(self) -> None:
        """Release everything, weights that are still loaded included; idempotent. ``load_weight`` then raises."""


# ---------------------------------------------------------------------------- meter


@dataclass(frozen=True)
class Work:
    """What was executed for one role and format within one window: the input of an estimate.

    ``dtype`` is the dtype of the operands that were really multiplied (a reference backend
    multiplies float32, whatever the format); ``cast_elements`` counts elements that were quantised.
    """

    role: str
    format: str
    dtype: str
    macs: int = 0
    weight_bytes: int = 0
    activation_bytes: int = 0
    kv_bytes: int = 0
    cast_elements: int = 0

    @property
    def bytes(self) -> int:
        return self.weight_bytes + self.activation_bytes + self.kv_bytes


@dataclass(frozen=True)
class Measurement:
    """What a meter says about one window. ``joules is None`` means it could not know: see ``why``."""

    joules: float | None
    source: str
    domains: Mapping[str, float] = field(default_factory=dict)
    resolution_s: float | None = None
    updates: int | None = None
    estimated: bool = False
    why: str = ""


class Meter(ABC):
    """Reads energy. Windows do not nest; one opens when the last has closed.

    ``scope``: ``process`` if it counts only what this process executes, ``machine`` if ranks that share a machine would
    each read the same joules: then one rank of each machine opens it.
    """

    interface_version: tuple[int, int] = INTERFACE_VERSION
    name: str = "?"
    scope: str = "machine"

    def begin_window(self, name: str) -> None:
        """A window (a phase of a step) starts now. ``name``: any phase, ``other`` and ``eval/rollout`` among them.

        The window before may never have ended: training failed in it.
        """

    @abstractmethod
    def end_window(self, name: str) -> Measurement:
        """The window ends now; joules of the whole window, or None with the reason. Never 0 for what is unknown.

        Training has windows of a millisecond: below the meter's resolution say None with ``updates=0``.
        """

    def estimate(self, work: Work) -> Measurement | None:
        """Estimate one row of executed work, marked ``estimated``; None for meters that only measure.

        Work in a dtype that is not known is ``Measurement(None, ..., why=...)``.
        """
        return None

    def describe(self) -> Mapping[str, Any]:
        """Plain data for config.json."""
        return {"meter": self.name}

    def close(self) -> None:
        """Release everything, also while a window is open; idempotent."""
