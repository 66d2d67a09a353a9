"""What a check of a backend gets: the backend, what it declares, and operands that are the same in every run."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch.nn.functional import linear

from ... import formats
from ...errors import MXError
from ...formats import MXTensor
from ...formats.rules import cast_rule
from ...formats.spec import FP16
from ...interfaces import Backend, Capabilities, Handle
from ..fault import Fault, NotApplicable, demand_near
from ..trial import Trial

EXACT = 1e-6
"""Error that summing in float32 costs, relative to sum |x||w|: what is allowed to a backend that declares no bound."""

ROUNDING = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
"""Half a unit in the last place of a result in that dtype, relative."""

CONTROL = "it declares an infinite bound: a control, whose values are not those of the formats"


class BackendTrial(Trial):
    """Formats without a reference cast (another scale type than E8M0) are left out of what is compared with it."""

    @property
    def backend(self) -> Backend:
        backend: Backend = self.plugin
        return backend

    @cached_property
    def can(self) -> Capabilities:
        return self.backend.capabilities

    @cached_property
    def weights(self) -> tuple[str, ...]:
        """Declared weight formats that the reference casts."""
        return tuple(fmt for fmt in self.can.formats if _has_reference(fmt))

    @cached_property
    def activations(self) -> tuple[str, ...]:
        """Declared activation formats that the reference casts."""
        return tuple(fmt for fmt in self.can.activations if fmt != FP16 and _has_reference(fmt))

    @cached_property
    def cast_formats(self) -> tuple[str, ...]:
        """Every declared format, on either side, that the reference casts."""
        found = tuple(dict.fromkeys((*self.weights, *self.activations)))
        if not found:
            raise NotApplicable("none of its formats has a reference cast")
        return found

    @property
    def bound(self) -> float:
        """Largest error of a product relative to sum |x||w|.

        Raises:
            NotApplicable: the backend declares that there is none.
        """
        bound = self.can.exactness.bound
        if bound is not None and math.isinf(bound):
            raise NotApplicable(CONTROL)
        return EXACT if bound is None else bound

    def need_formats_values(self) -> None:
        """Raise NotApplicable for a control, see :data:`CONTROL`."""
        _ = self.bound

    def need_fake_quantize(self) -> None:
        """Raise NotApplicable where the backend declares that it has no casts for training."""
        if not self.can.fake_quantize:
            raise NotApplicable("it declares fake_quantize=False")
        self.need_formats_values()

    @property
    def pair(self) -> tuple[str, str]:
        """A declared pair: the first weight format, the first activation format."""
        if not self.weights:
            raise NotApplicable("none of its weight formats has a reference cast")
        return self.weights[0], (*self.activations, FP16)[0]

    def weight(self, fmt: str, out: int = 24, inner: int = 64, seed: int = 1) -> MXTensor:
        """A packed weight of that shape, cast by the backend itself."""
        return self.backend.quantize(gaussian(out, inner, seed=seed), fmt)

    def loaded(self, out: int = 24, inner: int = 64) -> tuple[MXTensor, Handle, str]:
        """A packed weight of the first declared pair, its handle, and the pair's activations."""
        fmt, activations = self.pair
        packed = self.weight(fmt, out, inner)
        return packed, self.backend.load_weight(packed), activations

    def demand_product(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        weight: MXTensor,
        activations: str,
        what: str,
        *,
        bias: torch.Tensor | None = None,
        scale_rule: str = "floor",
        remedy: str = "",
    ) -> None:
        """Raise a Fault unless ``y`` is the product of the decoded operands, within the declared bound.

        Computed independently: in float64, from operands that the reference has cast.
        """
        cast = x if activations == FP16 else formats.fake_quantize(x, activations, scale_rule=scale_rule)
        a, w = cast.double(), weight.dequantize(torch.float32).double()
        added = torch.zeros(w.shape[0], dtype=torch.float64) if bias is None else bias.double()
        exact = linear(a, w, added)
        sizes = linear(a.abs(), w.abs(), added.abs())
        allowed = self.bound * sizes + 2 * ROUNDING[x.dtype] * (exact.abs() + added.abs())
        demand_near(y, exact.to(y.dtype), allowed + torch.finfo(x.dtype).tiny, what, remedy)


def gaussian(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Standard normal values; the same for the same shape and seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def unsaturated(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Magnitudes in 0.5 .. 1, of either sign: nothing saturates, underflows or (in float32) lies halfway."""
    draw = torch.Generator().manual_seed(seed)
    size = 0.5 + 0.499 * torch.rand(*shape, generator=draw)
    return (size * (torch.randint(0, 2, shape, generator=draw) * 2 - 1)).to(dtype)


def with_signed_zeros(*shape: int) -> torch.Tensor:
    """Values among which are zeros of either sign, so that even ``x += 0`` shows."""
    x = unsaturated(*shape, seed=9)
    x[0, :2] = torch.tensor([0.0, -0.0])
    return x


def refused(call: object, what: str, remedy: str) -> None:
    """Raise a Fault unless ``call()`` raises an error of mx_plugin."""
    assert callable(call)
    try:
        call()
    except MXError:
        return
    except Exception as error:
        raise Fault(
            f"{what} raised {type(error).__name__} ({error}), which is no error of mx_plugin", remedy
        ) from error
    raise Fault(f"{what} was taken", remedy)


def _has_reference(fmt: str) -> bool:
    try:
        cast_rule(fmt)
    except MXError:
        return False
    return True
