"""How far apart the unquantised model and the quantised one are; the units of a sensitivity matrix."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

_AT_ONCE = 2**21
"""Numbers that are looked at together: temporaries of that size live in memory that the process has already."""


def kl_sum(log_p: torch.Tensor, logits: torch.Tensor) -> float:
    """Sum over rows of KL(p || q) in nats (Kullback and Leibler, 1951), q = softmax(logits); infinite for NaN.

    Args:
        log_p: (rows, vocabulary) float32, log-probabilities.
        logits: (rows, vocabulary), any floating dtype.
    """
    rows = max(1, _AT_ONCE // max(log_p.shape[-1], 1))
    total = math.fsum(_kl_of(p, q) for p, q in zip(torch.split(log_p, rows), torch.split(logits, rows), strict=True))
    # A divergence is never negative; rounding can make it -1e-9.
    return math.inf if math.isnan(total) else max(total, 0.0)


def _kl_of(log_p: torch.Tensor, logits: torch.Tensor) -> float:
    terms = torch.log_softmax(logits.float(), -1).sub_(log_p).mul_(log_p.exp()).neg_()
    total = float(terms.sum(dtype=torch.float64))
    if math.isnan(total):  # a token that neither can produce: 0 log 0 = 0
        total = float(terms.masked_fill_(log_p == -math.inf, 0.0).sum(dtype=torch.float64))
    return total


def score_error(plain: torch.Tensor, quantised: torch.Tensor) -> float:
    """Root mean square difference in standard deviations of the unquantised scores; infinite for NaN.

    Both (scores,); ``plain`` has at least two different values.
    """
    error = (quantised.double() - plain.double()).square().mean().sqrt() / plain.double().std()
    return _finite(float(error))


def rank_disagreement(plain: torch.Tensor, quantised: torch.Tensor) -> float:
    """Share of pairs whose order differs; both (pairs, 2) scores. NaN orders nothing, so it disagrees."""
    before = (plain[:, 0] - plain[:, 1]).sign()
    after = (quantised[:, 0] - quantised[:, 1]).sign()
    return float((before != after).double().mean())


def gradient_distances(plain: list[torch.Tensor], quantised: list[torch.Tensor]) -> tuple[float, float]:
    """(relative error |g' - g| / |g|, cosine distance 1 - g'.g / |g'||g|) over all parameters; infinite for NaN.

    A quantised gradient of zero has cosine 0.
    """
    error = norm = other = dot = 0.0
    for whole, other_whole in zip(plain, quantised, strict=True):
        for g, q in zip(_pieces(whole), _pieces(other_whole), strict=True):
            error += _sum(torch.square(q - g))
            norm += _sum(torch.square(g))
            other += _sum(torch.square(q))
            dot += _sum(q * g)
    cosine = dot / math.sqrt(norm * other) if other > 0 else 0.0
    return _finite(math.sqrt(error / norm)), _finite(max(1.0 - cosine, 0.0))


def _pieces(x: torch.Tensor) -> Iterator[torch.Tensor]:
    return (piece.float() for piece in torch.split(x.reshape(-1), _AT_ONCE))


def _sum(x: torch.Tensor) -> float:
    return float(x.sum(dtype=torch.float64))


def _finite(value: float) -> float:
    return math.inf if math.isnan(value) else value
