"""Formats that a plugin registers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from mx_plugin.errors import FormatError
from mx_plugin.formats import Element, Format, fake_quantize, format_names, get_format, quantize, register_format, spec
from mx_plugin.formats.rules import cast_rule


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """Registered names last as long as the process: take ours out again."""
    formats, aliases = dict(spec._FORMATS), dict(spec._ALIASES)
    yield
    for table, before in ((spec._FORMATS, formats), (spec._ALIASES, aliases)):
        table.clear()
        table.update(before)
    get_format.cache_clear()
    cast_rule.cache_clear()


def test_another_block_size_works_with_e8m0_scales() -> None:
    fmt = register_format(Format("TEST16", get_format("MXFP4").element, block_size=16), "TEST_ALIAS")
    assert "TEST16" in format_names()
    x = torch.randn(3, 45)
    packed = quantize(x, "test_alias")
    assert packed.format is fmt and packed.scales.shape == (3, 3)
    assert torch.equal(packed.dequantize(), fake_quantize(x, fmt))
    for start in range(0, 45, 16):
        part = x[:, start : start + 16]
        assert torch.equal(packed.dequantize()[:, start : start + 16], fake_quantize(part, "MXFP4"))


def test_another_element_works() -> None:
    """E3M4: IEEE-like widths that MX does not use; its grid is simple enough to state."""
    register_format(Format("TEST_E3M4", Element("E3M4", 3, 4, emax=3, emin=-2, max=15.5)))
    x = torch.randn(64, 32)
    packed = quantize(x, "TEST_E3M4", scale_rule="rceil")
    scale = torch.exp2(packed.scale_codes().float() - 127)
    v = x / scale
    quantum = torch.exp2(v.abs().log2().floor().clamp(min=-2) - 4)
    assert torch.equal(packed.dequantize(), (v / quantum).round() * quantum * scale)


def test_a_scale_that_is_not_e8m0_needs_a_backend() -> None:
    register_format(Format("TESTNV", get_format("MXFP4").element, block_size=16, scale_type="E4M3"))
    for cast in (quantize, fake_quantize):
        with pytest.raises(FormatError, match=r"TESTNV has E4M3 scales.*use a backend"):
            cast(torch.ones(16), "TESTNV")


def test_a_taken_name_is_refused() -> None:
    with pytest.raises(FormatError, match="'MXFP4' is already taken"):
        register_format(Format("MXFP4", get_format("MXFP8").element))
