"""How far apart two precisions put a policy: the numbers of the step-0 gate."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Mismatch:
    """Differences between two next-token distributions on the same tokens.

    ``kl``: KL(first || second) in nats a token, over the whole vocabulary.
    ``mean_abs_logratio``: mean |log p_first - log p_second| of the sampled tokens, in nats.
    ``frac_outside_clip``: share of sampled tokens whose ratio p_second / p_first leaves
    [1 - clip, 1 + clip] (the range of PPO's clipped objective, Schulman et al., 2017, eq. 7).
    ``seq_logratio_std``: standard deviation over sequences of the summed log-ratio, in nats.
    """

    kl: float
    mean_abs_logratio: float
    frac_outside_clip: float
    seq_logratio_std: float
    tokens: int


def compare(
    first: torch.Tensor, second: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor, clip: float = 0.2
) -> Mismatch:
    """Compare two log-probability tables.

    Args:
        first, second: (batch, length, vocabulary) logits, any floating dtype, temperature applied.
        tokens: (batch, length) int64, the sampled token at each position.
        mask: (batch, length) bool, True where the token counts.
        clip: half-width of the ratio's range.
    """
    log_first = torch.log_softmax(first.float(), -1)
    log_second = torch.log_softmax(second.float(), -1)
    count = int(mask.sum())
    if count == 0:
        return Mismatch(0.0, 0.0, 0.0, 0.0, 0)
    kl = (log_first.exp() * (log_first - log_second)).sum(-1)[mask].mean()
    picked = tokens.unsqueeze(-1)
    logratio = (log_second.gather(-1, picked) - log_first.gather(-1, picked)).squeeze(-1)
    logratio = torch.where(mask, logratio, torch.zeros_like(logratio))
    ratio = logratio[mask].exp()
    outside = (~((ratio >= 1 - clip) & (ratio <= 1 + clip))).float().mean()  # NaN lies outside
    sums = logratio.sum(-1)
    return Mismatch(
        kl=float(kl),
        mean_abs_logratio=float(logratio[mask].abs().mean()),
        frac_outside_clip=float(outside),
        seq_logratio_std=float(sums.std()) if sums.numel() > 1 else 0.0,
        tokens=count,
    )
