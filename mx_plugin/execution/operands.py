"""The casts of a product's two operands, bound once per layer: what depends on the call is passed in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..formats.autograd import fake_quantize
from ..formats.hadamard import SIZE, transform
from ..formats.philox import StochasticKey
from ..formats.spec import FP16, get_format
from ..interfaces import BoundCast
from ..precision.formats import Product
from .released_weight import ReleasedWeight
from .scratch import FIRST, SECOND, THIRD, Workspace

BindCast = Callable[..., BoundCast]
"""``Backend.bind_cast``."""

_PRESCALE = 0.75
"""Stochastic rounding under ``floor`` saturates above the largest element; so the block keeps the scale
that ``floor`` gives it, its values are multiplied by 3/4, and the product is compensated (Tseng, Yu and
Park, "Training LLMs with MXFP4", 2025, algorithm 1). The scale that ``floor`` gives x is the one that
``rceil`` gives 3/4 x (but at exact powers of two, where it is one finer), hence the cast below."""


@dataclass(frozen=True)
class Keys:
    """Names the random stream of one layer: ``step`` and (in backward) ``call`` tell draws apart."""

    seed: int
    layer: str

    def at(self, product: str, step: int, call: int) -> StochasticKey:
        return StochasticKey.of(self.seed, step, self.layer, product, call)


def bind_reference_cast(fmt: str, dim: int = -1, *, rounding: str = "nearest", scale_rule: str = "floor") -> BoundCast:
    """``mx_plugin.fake_quantize`` bound as a backend binds its own."""

    def bound(
        x: torch.Tensor, out: torch.Tensor | None, key: StochasticKey | None, hadamard: StochasticKey | None
    ) -> torch.Tensor:
        return fake_quantize(x, fmt, dim, rounding=rounding, scale_rule=scale_rule, key=key, hadamard=hadamard, out=out)

    return bound


def exact_in_bfloat16(fmt: str) -> bool:
    """Whether a power of two times any element has at most bfloat16's 8 significant bits."""
    if fmt == FP16:
        return False
    form = get_format(fmt)
    return form.scale_type == "E8M0" and form.element.mantissa_bits < 8


class OperandCast:
    """Casts one operand, (rows, columns), along ``dim``; ``stream`` names its draws.

    ``factor``: owed to the product for the prescale.
    """

    __slots__ = ("_cast", "_dim", "_prescaled", "_rotated", "_slot", "draws", "factor", "stream")

    def __init__(self, bind: BindCast, fmt: str, dim: int, product: Product, stream: str, slot: int) -> None:
        quantised = fmt != FP16
        self.draws = quantised and product.rounding == "stochastic"
        self.stream = stream
        self._prescaled = self.draws and product.scale_rule == "floor"
        self.factor = 1 / _PRESCALE if self._prescaled else 1.0
        self._dim, self._slot, self._rotated = dim, slot, product.hadamard
        self._cast: BoundCast | None = None
        if quantised:
            scale_rule = "rceil" if self._prescaled else product.scale_rule
            rounding = "stochastic" if self.draws else "nearest"
            self._cast = bind(fmt, dim, rounding=rounding, scale_rule=scale_rule)

    def __call__(
        self,
        x: torch.Tensor,
        dtype: torch.dtype,
        workspace: Workspace,
        key: StochasticKey | None,
        hadamard: StochasticKey | None,
        transposed: bool = False,
    ) -> torch.Tensor:
        """The operand in ``dtype``: in the workspace, or x itself where there is nothing to do.

        ``transposed``: it will be multiplied transposed, so its columns should lie along memory.
        """
        if isinstance(x, ReleasedWeight):  # it holds MX values already, and has no other source to cast from
            if hadamard is not None or not x.is_cpu:
                return self._unquantised(x.decode(), dtype, workspace, hadamard)
            return x.decode(workspace.tensor(self._slot, x.shape, dtype, transposed or lies_transposed(x)))
        if self._cast is None:
            return self._unquantised(x, dtype, workspace, hadamard)
        if not x.is_cpu:
            # An accelerator's allocator keeps memory by stream, which we could not.
            source = x.float() * _PRESCALE if self._prescaled else x
            return self._cast(source, None, key, hadamard).to(dtype)
        # Blocks across memory are cast as well as those along it: a transposed weight is not copied first. Draws
        # are counted in the order of the operand's own rows.
        transposed = transposed or (not self.draws and lies_transposed(x))
        shape = x.shape if hadamard is None else self._whole(x.shape)
        out = workspace.tensor(self._slot, shape, dtype, transposed)
        if self._prescaled:
            # In float32: 3/4 x rounded to bfloat16 would be a bias that no draw undoes.
            x = workspace.tensor(THIRD, x.shape, torch.float32).copy_(x).mul_(_PRESCALE)
        y = self._cast(x, out, key, hadamard)
        return y if y.dtype == dtype else y.to(dtype)

    def _unquantised(
        self, x: torch.Tensor, dtype: torch.dtype, workspace: Workspace, hadamard: StochasticKey | None
    ) -> torch.Tensor:
        if hadamard is not None:
            return transform(x, hadamard, self._dim, dtype)
        if x.dtype == dtype:
            return x
        return workspace.tensor(self._slot, x.shape, dtype).copy_(x) if x.is_cpu else x.to(dtype)

    def _whole(self, shape: torch.Size) -> torch.Size:
        """``shape`` as a Hadamard transform leaves it: whole blocks along ``dim``."""
        padded = list(shape)
        padded[self._dim] = -(-padded[self._dim] // SIZE) * SIZE
        return torch.Size(padded)


def lies_transposed(x: torch.Tensor) -> bool:
    return x.stride(0) == 1 and x.stride(1) != 1


class Operands:
    """Both operands of one product (``forward``, ``dgrad`` or ``wgrad``), in the order of its pair.

    ``dims``: the reduction dimension of each. ``narrow``: both are exact in bfloat16.
    """

    __slots__ = ("_first", "_hadamard", "_keys", "_random", "_second", "narrow")

    def __init__(self, name: str, product: Product, dims: tuple[int, int], bind: BindCast, keys: Keys) -> None:
        pair = product.pair
        self._first = OperandCast(bind, pair.weights, dims[0], product, f"{name}/first", FIRST)
        self._second = OperandCast(bind, pair.activations, dims[1], product, f"{name}/second", SECOND)
        self._hadamard = f"{name}/hadamard" if product.hadamard else None
        self._keys = keys
        self._random = self._first.draws or self._second.draws or product.hadamard
        self.narrow = exact_in_bfloat16(pair.weights) and exact_in_bfloat16(pair.activations)

    def cast(
        self,
        first: torch.Tensor,
        second: torch.Tensor,
        dtypes: tuple[torch.dtype, torch.dtype],
        workspace: Workspace,
        step: int,
        call: int,
        turned: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, float]:
        """Both operands cast to ``dtypes``, and the factor owed to their product.

        ``turned``: FIRST or SECOND, the one that will be multiplied transposed.
        """
        k1 = k2 = turn = None
        if self._random:
            at = self._keys.at
            k1 = at(self._first.stream, step, call) if self._first.draws else None
            k2 = at(self._second.stream, step, call) if self._second.draws else None
            turn = at(self._hadamard, step, call) if self._hadamard is not None else None
        return (
            self._first(first, dtypes[0], workspace, k1, turn, turned == FIRST),
            self._second(second, dtypes[1], workspace, k2, turn, turned == SECOND),
            self._second.factor * (1.0 if isinstance(first, ReleasedWeight) else self._first.factor),
        )
