"""One unquantised pass, forward and backward, that stops at each layer: its input, its output, a gradient there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..execution.layer import AdoptedLayer
from ..execution.phases import GRADIENT
from ..execution.routes import Route
from ..precision.formats import LayerFormats
from .subject import Subject

Objective = Callable[[torch.Tensor, int], torch.Tensor]
"""``(logits, number of the batch) -> scalar``."""


@dataclass(frozen=True)
class Visit:
    """One call of a layer: x (..., in), y (..., out), and the objective's gradient at y; none of them in a graph."""

    layer: AdoptedLayer
    x: torch.Tensor
    y: torch.Tensor
    gradient: torch.Tensor
    batch: int


Visitor = Callable[[Visit], None]


def first_order(subject: Subject, objective: Objective, visitor: Visitor) -> None:
    """Visit every layer with the gradient of ``objective`` at its output, for every batch: one backward pass.

    Parameters and their ``.grad`` are left alone.
    """
    with _frozen(subject), subject.training({}):
        for number, batch in enumerate(subject.batches):
            with _seen(subject) as calls:
                scalar = objective(subject.run(batch), number)
            _visit(scalar, calls, number, visitor)


def second_order(
    subject: Subject,
    objective: Objective,
    parameters: Sequence[torch.Tensor],
    direction: Sequence[torch.Tensor],
    visitor: Visitor,
) -> None:
    """Visit every layer with the gradient, at its output, of the objective's derivative along ``direction``.

    Pearlmutter, "Fast exact multiplication by the Hessian" (1994): one backward pass through a backward pass.
    Attention takes torch's plain form, the one that can be differentiated twice.
    """
    with subject.training({}), sdpa_kernel(SDPBackend.MATH):
        for number, batch in enumerate(subject.batches):
            with _seen(subject) as calls:
                scalar = objective(subject.run(batch), number)
            gradients = torch.autograd.grad(scalar, list(parameters), create_graph=True, allow_unused=True)
            along = sum((g * v).sum() for g, v in zip(gradients, direction, strict=True) if g is not None)
            assert isinstance(along, torch.Tensor)
            _visit(along, calls, number, visitor)


_Call = tuple[AdoptedLayer, torch.Tensor, torch.Tensor]


def _visit(scalar: torch.Tensor, calls: list[_Call], number: int, visitor: Visitor) -> None:
    gradients = torch.autograd.grad(scalar, [y for _, _, y in calls], allow_unused=True)
    with torch.no_grad():
        for (layer, x, y), gradient in zip(calls, gradients, strict=True):
            # A layer on which the scalar does not depend changes nothing.
            visitor(Visit(layer, x, y.detach(), torch.zeros_like(y) if gradient is None else gradient, number))


@contextmanager
def _seen(subject: Subject) -> Iterator[list[_Call]]:
    """Note every call of the subject's layers."""
    calls: list[_Call] = []
    plain = [(layer, layer.route) for layer in subject.layers]
    for layer, route in plain:
        layer.route = _noting(layer, route, calls)
    try:
        yield calls
    finally:
        for layer, route in plain:
            layer.route = route


def _noting(layer: AdoptedLayer, plain: Route, calls: list[_Call]) -> Route:
    def route(x: torch.Tensor) -> torch.Tensor:
        y = plain(x)
        if not y.requires_grad:  # nothing before it is differentiated: gradients start here
            y = y.detach().requires_grad_()
        calls.append((layer, x.detach(), y))
        return y

    return route


@contextmanager
def _frozen(subject: Subject) -> Iterator[None]:
    trained = [(p, p.requires_grad) for p in subject.model.parameters()]
    try:
        for p, _ in trained:
            p.requires_grad_(False)
        yield
    finally:
        for p, flag in trained:
            p.requires_grad_(flag)


def quantised_routes(subject: Subject, formats: LayerFormats) -> dict[str, Route]:
    """What each layer would compute in these formats: packed, or in ``gradient`` the forward product of training."""
    everywhere = {layer.name: formats for layer in subject.layers}
    if subject.phase == GRADIENT:
        with subject.training(everywhere):
            return {layer.name: layer.route for layer in subject.layers}
    subject.provider.assign(subject.role, everywhere)
    with subject.engine.probing(**{subject.role: subject.phase}):
        return {layer.name: _in_place(layer, layer.route) for layer in subject.layers}


def _in_place(layer: AdoptedLayer, route: Route) -> Route:
    """A packed route takes the layer over at its first call; put back what was there."""

    def call(x: torch.Tensor) -> torch.Tensor:
        current = layer.route
        try:
            return route(x)
        finally:
            layer.route = current

    return call
