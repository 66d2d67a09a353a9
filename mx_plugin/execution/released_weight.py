"""A parameter without full-precision storage: it decodes its packed copy whenever an operation reads it.

Frameworks keep seeing a parameter with its shape, dtype and device under its name. What only reads it gets freshly
decoded values; what would write it is refused, because there is nothing that the write could reach.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import nn
from torch.utils._pytree import tree_map

from ..errors import ReleasedWeightError
from ..formats.tensor import MXTensor
from ..interfaces import Backend

REMEDY = "Do this before or after train(), or set release_frozen=False"


@dataclass(frozen=True)
class PackedSource:
    """What a released weight decodes: ``packed`` (out, in), blocked along ``in``; the rest is for messages."""

    packed: MXTensor
    backend: Backend
    label: str
    why: str = "its full-precision weight was released (release_frozen=True)"
    remedy: str = REMEDY

    def refuse(self, what: str) -> NoReturn:
        raise ReleasedWeightError(
            f"{what} of {self.label}: {self.why} and only the packed {self.packed.format} copy is left, which cannot "
            f"be written. {self.remedy}"
        )


class ReleasedWeight(torch.Tensor):
    """Stands in for a frozen parameter; ``decode()`` gives the values as an ordinary tensor.

    ``transposed``: the parameter is (in, out). ``strides``: those that the full-precision tensor would have.
    ``detach``, ``data`` and ``t`` give another ReleasedWeight of the same packed copy; every other operation sees
    the decoded values. Copies and pickles are ordinary parameters.
    """

    _source: PackedSource
    _transposed: bool

    @staticmethod
    def __new__(
        cls, source: PackedSource, transposed: bool = False, strides: tuple[int, ...] | None = None
    ) -> ReleasedWeight:
        packed = source.packed
        shape = tuple(reversed(packed.shape)) if transposed else tuple(packed.shape)
        self: ReleasedWeight = torch.Tensor._make_wrapper_subclass(
            cls, shape, strides or (shape[1], 1), dtype=packed.dtype, device=packed.device, requires_grad=False
        )
        self._source, self._transposed = source, transposed
        return self

    def decode(self, out: torch.Tensor | None = None) -> torch.Tensor:
        """The values in the parameter's own shape: in ``out`` and its dtype, or in a new, contiguous tensor.

        Straight into ``out``'s dtype, without rounding to the parameter's dtype in between.
        """
        packed, backend = self._source.packed, self._source.backend
        if out is not None:
            backend.dequantize(packed, out.dtype, out.t() if self._transposed else out)
            return out
        values = backend.dequantize(packed, packed.dtype)
        return values.t().contiguous() if self._transposed else values

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"ReleasedWeight({self._source.label}, {self._source.packed!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        copied = memo.get(id(self))
        if copied is None:
            copied = memo[id(self)] = self._ordinary()
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._ordinary().__reduce_ex__(protocol)  # type: ignore[no-untyped-call]

    def _ordinary(self) -> torch.Tensor:
        values = self.decode()
        return nn.Parameter(values, requires_grad=False) if getattr(self, "_is_param", False) else values

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _WRITES:
            _refuse_writing(args, func)
        if func in _SETTERS:
            return _set(_SETTERS[func], *args)
        if func is torch.Tensor.requires_grad_:
            _set("requires_grad", args[0], *(args[1:] or kwargs.values() or (True,)))
        if func in _GIVE_MEMORY:
            args[0]._source.refuse(f"there is no memory of full-precision values to give out in {func.__name__}")
        if func in _READ_MEMORY:
            args = tree_map(_decoded, args)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        aten = torch.ops.aten
        if func in (aten.detach.default, aten.alias.default):
            return ReleasedWeight(args[0]._source, args[0]._transposed, args[0].stride())
        if func is aten.t.default:
            return ReleasedWeight(args[0]._source, not args[0]._transposed, args[0].stride()[::-1])
        if func._schema.is_mutable:
            _refuse_writing(_written(func, args, kwargs), func)
        return func(*tree_map(_decoded, args), **tree_map(_decoded, kwargs))


def _decoded(value: Any) -> Any:
    return value.decode() if isinstance(value, ReleasedWeight) else value


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterable[Any]:
    """The arguments that ``func`` writes, lists of tensors flattened."""
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            yield from value if isinstance(value, list | tuple) else (value,)


def _refuse_writing(values: Iterable[Any], func: Any) -> None:
    for value in values:
        if isinstance(value, ReleasedWeight):
            value._source.refuse(f"{func.__name__} would write the weight")


def _set(name: str, weight: ReleasedWeight, value: Any) -> None:
    """``requires_grad = False`` and ``grad = None`` change nothing, and frameworks say them often."""
    if name == "data" or not (value is None or value is False):
        weight._source.refuse(f"setting .{name} to {value!r:.40} would change the weight")


_SETTERS: dict[Any, str] = {getattr(torch.Tensor, name).__set__: name for name in ("data", "requires_grad", "grad")}
_WRITES = {torch.Tensor.__setitem__, torch.Tensor.set_, torch.Tensor.resize_}
_GIVE_MEMORY = {
    torch.Tensor.data_ptr,
    torch.Tensor.untyped_storage,
    torch.Tensor.storage,
    torch.Tensor._typed_storage,
    torch.Tensor.share_memory_,
}
_READ_MEMORY = {torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.__array__, torch.Tensor.__dlpack__}
