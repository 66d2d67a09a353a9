"""What two precisions' log-probabilities differ by; what is no number is a mismatch."""

from __future__ import annotations

import pytest
import torch

from mx_plugin.execution.mismatch import compare

TOKENS = torch.arange(10)[None]
MASK = torch.ones(1, 10, dtype=torch.bool)


def test_equal_logits_differ_by_nothing() -> None:
    logits = torch.randn(1, 10, 16)
    found = compare(logits, logits, TOKENS, MASK, clip=0.2)
    assert (found.kl, found.frac_outside_clip, found.tokens) == (pytest.approx(0.0, abs=1e-6), 0.0, 10)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_token_without_a_probability_lies_outside_the_range(value: float) -> None:
    """A gate that let NaN pass would pass the worst of all mismatches."""
    logits = torch.randn(1, 10, 16)
    broken = logits.clone()
    broken[0, :3, 0] = value
    assert compare(logits, broken, TOKENS, MASK, clip=0.2).frac_outside_clip == pytest.approx(0.3)
    assert compare(broken, logits, TOKENS, MASK, clip=0.2).frac_outside_clip == pytest.approx(0.3)
