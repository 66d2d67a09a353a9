"""A weight on the grid, quantised once more by another scale rule: what an engine's own quantiser does to it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mx_plugin.formats import fake_quantize
from mx_plugin.formats.spec import SCALE_RULES

VLLM = {"MXFP8": "rceil", "MXFP4": "even"}
"""Format -> the scale rule of vLLM 0.29's quantisation of weights."""


@pytest.mark.parametrize("first", SCALE_RULES)
@pytest.mark.parametrize("fmt", VLLM)
@given(st.lists(st.floats(-8, 8, width=32), min_size=32, max_size=32), st.integers(-20, 20))
def test_vllms_rules_lose_nothing_of_a_rounded_weight(fmt: str, first: str, block: list[float], exponent: int) -> None:
    once = fake_quantize(torch.tensor([block]) * 2.0**exponent, fmt, scale_rule=first)
    assert torch.equal(fake_quantize(once, fmt, scale_rule=VLLM[fmt]), once)


def test_that_is_not_so_for_every_rule() -> None:
    """240 of 2 ** 8 is the largest of its block: ``floor`` takes a scale at which it is 480, above E4M3's 448."""
    once = fake_quantize(torch.tensor([[240.0, *[1.0] * 31]]), "MXFP8", scale_rule="rceil")
    assert not torch.equal(fake_quantize(once, "MXFP8", scale_rule="floor"), once)
