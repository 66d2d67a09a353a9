"""The fast engine: all layers and formats of a scope from one backward pass.

A format changes a layer's output by d, which is measured, position by position, on the unquantised model's
inputs. What that does to the model is estimated to leading order, errors at different positions taken as
independent:

- KL, second order: KL = 1/2 d^T F d with F the Fisher information of the next-token distributions at that output
  (Kullback, "Information Theory and Statistics", 1959, section 2.6). With g the gradient of the log-likelihood of
  tokens drawn from the model itself, F = E[g g^T], so KL is about 1/2 sum of (g.d)^2; one draw.
- Scores, first order: the score changes by g.d, with g its gradient.
- Gradients of the loss, first order: with r a Gaussian direction in parameter space and h the gradient of
  r.(gradient of the loss) at that output, E[(h.d)^2] is the squared change of the gradient; one draw. What the backward
  products' own casts add is left out.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

import torch

from ..execution.routes import Route
from ..precision.formats import LayerFormats
from .errors import ProfileError
from .measures import Costs, Distributions, Gradients, Measure, Scores, counted, scores_of
from .visits import Visit, first_order, quantised_routes, second_order

Estimates = dict[tuple[str, str], Costs]
"""(layer, format) -> metric -> estimated cost of quantising that layer alone."""


def estimate(measure: Measure, formats: Mapping[str, LayerFormats], seed: int) -> Estimates:
    """Estimate the costs of one scope; ``measure`` has its baseline.

    Raises:
        ProfileError: the model cannot be differentiated in the way that is needed.
    """
    routes = {fmt: quantised_routes(measure.subject, chosen) for fmt, chosen in formats.items()}
    generator = torch.Generator().manual_seed(seed)
    try:
        if isinstance(measure, Distributions):
            return _divergences(measure, routes, generator)
        if isinstance(measure, Scores):
            return _score_errors(measure, routes, generator)
        assert isinstance(measure, Gradients)
        return _gradient_errors(measure, routes, generator)
    except RuntimeError as error:
        raise ProfileError(
            f"{measure.subject.scope}: the fast engine cannot differentiate this model ({error}); use the exact engine"
        ) from error


_Routes = Mapping[str, Mapping[str, Route]]
"""Format -> layer -> what it would compute."""


def _divergences(measure: Distributions, routes: _Routes, generator: torch.Generator) -> Estimates:
    batches = measure.subject.batches

    def likelihood(logits: torch.Tensor, number: int) -> torch.Tensor:
        log_p = torch.log_softmax(counted(logits, batches[number]).float(), -1)
        drawn = torch.multinomial(log_p.detach().exp().cpu(), 1, generator=generator)
        return log_p.gather(-1, drawn.to(log_p.device)).sum()

    squares = _Squares(routes)
    first_order(measure.subject, likelihood, squares)
    return {key: {"kl": _finite(value / 2 / measure.tokens)} for key, value in squares.total.items()}


def _gradient_errors(measure: Gradients, routes: _Routes, generator: torch.Generator) -> Estimates:
    batches = measure.subject.batches

    def loss(logits: torch.Tensor, number: int) -> torch.Tensor:
        return measure.loss(logits, batches[number])

    direction = [torch.randn(p.shape, generator=generator).to(p) for p in measure.parameters]
    squares = _Squares(routes)
    second_order(measure.subject, loss, measure.parameters, direction, squares)
    return {key: {"gradient_error": _finite(math.sqrt(value) / measure.norm)} for key, value in squares.total.items()}


class _Squares:
    """Sum over positions of (g.d)^2, by layer and format."""

    def __init__(self, routes: _Routes) -> None:
        self.routes = routes
        self.total: dict[tuple[str, str], float] = defaultdict(float)

    def __call__(self, visit: Visit) -> None:
        for fmt, by_layer in self.routes.items():
            change = _change(visit, by_layer[visit.layer.name])
            self.total[visit.layer.name, fmt] += float(change.square().sum(dtype=torch.float64))


def _change(visit: Visit, quantised: Route) -> torch.Tensor:
    """g.d at each position: (...,)."""
    return (visit.gradient.float() * (quantised(visit.x) - visit.y).float()).sum(-1)


def _score_errors(measure: Scores, routes: _Routes, generator: torch.Generator) -> Estimates:
    """Signed changes by sequence; of a critic, which scores every position, squares under random signs."""
    subject = measure.subject
    critic = len(measure.plain) != sum(len(batch.mask) for batch in subject.batches)

    def scores(logits: torch.Tensor, number: int) -> torch.Tensor:
        values = scores_of(logits, subject.batches[number], subject.role)
        if critic:
            signs = torch.randint(0, 2, values.shape, generator=generator) * 2 - 1
            values = values * signs.to(values)
        return values.sum()

    if critic:
        squares = _Squares(routes)
        first_order(subject, scores, squares)
        spread = float(measure.plain.double().std())
        scale = math.sqrt(len(measure.plain)) * spread
        return {key: {"score_error": _finite(math.sqrt(value) / scale)} for key, value in squares.total.items()}
    changes = _Changes(routes, [len(batch.mask) for batch in subject.batches])
    first_order(subject, scores, changes)
    return {key: measure.costs_of(measure.plain + change.to(measure.plain)) for key, change in changes.total.items()}


class _Changes:
    """Sum over the positions of each sequence of g.d, by layer and format: (sequences,)."""

    def __init__(self, routes: _Routes, sequences: list[int]) -> None:
        self.routes = routes
        self.starts = [sum(sequences[:number]) for number in range(len(sequences))]
        self.sequences = sequences
        self.total: dict[tuple[str, str], torch.Tensor] = {}

    def __call__(self, visit: Visit) -> None:
        length, start = self.sequences[visit.batch], self.starts[visit.batch]
        if visit.y.dim() < 2 or visit.y.shape[0] != length:
            raise ProfileError(
                f"layer {visit.layer.name} gives {tuple(visit.y.shape)} for {length} sequences, so its effect on each "
                "score cannot be told; use the exact engine"
            )
        for fmt, by_layer in self.routes.items():
            change = _change(visit, by_layer[visit.layer.name]).reshape(length, -1).sum(1).double().cpu()
            total = self.total.setdefault((visit.layer.name, fmt), torch.zeros(sum(self.sequences), dtype=torch.double))
            total[start : start + length] += change


def _finite(value: float) -> float:
    return math.inf if math.isnan(value) else value
