"""How a check says that a plugin does not conform, and where the first difference lies."""

from __future__ import annotations

import torch


class Fault(AssertionError):
    """The plugin does not do what the check demands. ``remedy``: a hint for its author."""

    def __init__(self, message: str, remedy: str = "") -> None:
        self.message, self.remedy = message, remedy
        self.level = self.check = ""
        super().__init__(message)

    def at(self, level: str, check: str) -> Fault:
        """The same fault, which now names its level and check."""
        self.level, self.check = level, check
        return self

    def __str__(self) -> str:
        place = f"level {self.level}, check {self.check}: " if self.level else ""
        return f"{place}{self.message}" + (f"; {self.remedy}" if self.remedy else "")


class NotApplicable(Exception):
    """The check demands nothing of this plugin; the message says why."""


def demand(condition: object, message: str, remedy: str = "") -> None:
    """Raise a Fault unless ``condition`` holds."""
    if not condition:
        raise Fault(message, remedy)


def demand_same(
    got: torch.Tensor, expected: torch.Tensor, what: str, remedy: str = "", source: torch.Tensor | None = None
) -> None:
    """Raise a Fault unless both tensors have the same shape, dtype and bits; any NaN equals any other.

    Args:
        source: of the same shape: what the result was computed from, for the message.
    """
    demand_form(got, expected.shape, expected.dtype, what, remedy)
    if got.dtype.is_floating_point:
        differ = (got != expected) & ~(got.isnan() & expected.isnan())
        differ |= (got == 0) & (expected == 0) & (torch.signbit(got) != torch.signbit(expected))
    else:
        differ = got != expected
    if differ.any():
        raise Fault(f"{what}: {_first(differ, got, expected, source)}", remedy)


def demand_near(got: torch.Tensor, expected: torch.Tensor, allowed: torch.Tensor, what: str, remedy: str = "") -> None:
    """Raise a Fault unless ``|got - expected|`` <= allowed, element by element; NaN must meet NaN."""
    demand_form(got, expected.shape, got.dtype, what, remedy)
    near = (got.double() - expected.double()).abs() <= allowed
    differ = ~(near | (got.isnan() & expected.isnan()) | (got.double() == expected.double()))
    if differ.any():
        index = _index(differ)
        raise Fault(
            f"{what}: {_first(differ, got, expected, None)}, off by "
            f"{abs(float(got[index]) - float(expected[index])):.3g} where {float(allowed[index]):.3g} is allowed",
            remedy,
        )


def demand_form(
    got: object, shape: torch.Size | tuple[int, ...], dtype: torch.dtype, what: str, remedy: str = ""
) -> None:
    """Raise a Fault unless ``got`` is a tensor of that shape and dtype."""
    if not isinstance(got, torch.Tensor):
        raise Fault(f"{what}: returned a {type(got).__name__}, not a tensor", remedy)
    if tuple(got.shape) != tuple(shape):
        raise Fault(f"{what}: the result has shape {tuple(got.shape)}, it should be {tuple(shape)}", remedy)
    if got.dtype != dtype:
        raise Fault(f"{what}: the result is {got.dtype}, it should be {dtype}", remedy)


def _first(differ: torch.Tensor, got: torch.Tensor, expected: torch.Tensor, source: torch.Tensor | None) -> str:
    index = _index(differ)
    told = f"element {list(index)} is {got[index].item()!r}, should be {expected[index].item()!r}"
    if source is not None and source.shape == got.shape:
        told += f", from {source[index].item()!r}"
    count = int(differ.sum())
    return told if count == 1 else f"{told} (the first of {count} of {differ.numel()})"


def _index(differ: torch.Tensor) -> tuple[int, ...]:
    return tuple(int(i) for i in differ.nonzero()[0])
