"""Streams hold each block once, in the order in which a board multiplies it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mx_fpga import layout
from mx_fpga.elements import FORMATS
from mx_fpga.layout import Geometry
from mx_plugin.formats import quantize

GEOMETRY = Geometry(rows=2, columns=2, group=8)


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("shape", [(16, 32), (40, 96), (5, 50)])
def test_a_weight_stream_is_ordered_by_group_block_turn_and_row_unit(fmt: str, shape: tuple[int, int]) -> None:
    packed = quantize(torch.randn(shape), fmt)
    elements, scales = packed.elements.numpy(), packed.scales.numpy()
    stream = layout.weight_stream(elements, scales, fmt, GEOMETRY)
    blocks, size = scales.shape[1], layout.block_bytes(fmt)
    element_bytes, scale_bytes = layout.weight_sizes(shape[0], blocks, fmt, GEOMETRY)
    assert len(stream) == element_bytes + scale_bytes and element_bytes % GEOMETRY.word_bytes == 0

    at = 0
    for group in range(GEOMETRY.groups(shape[0])):
        for block in range(blocks):
            for turn in range(8):
                for unit in range(2):
                    row = (group * 8 + turn) * 2 + unit
                    wanted = bytes(elements[row, block * size : (block + 1) * size]) if row < shape[0] else b""
                    assert stream[at * size : (at + 1) * size] == wanted.ljust(size, b"\0")
                    scale = int(scales[row, block]) if row < shape[0] else 0
                    assert stream[element_bytes + at] == scale
                    at += 1
    assert at == scale_bytes


def test_an_activation_stream_is_token_by_token() -> None:
    packed = quantize(torch.randn(3, 40), "MXFP4")
    stream = layout.activation_stream(packed.elements.numpy(), packed.scales.numpy(), "MXFP4")
    assert len(stream) == 3 * 2 * 17
    for token in range(3):
        part = stream[token * 34 : token * 34 + 34]
        assert part[:20] == bytes(packed.elements[token].tolist()) and part[20:32] == bytes(12)
        assert part[32:] == bytes(packed.scales[token].tolist())


def test_results_come_back_by_token_and_row() -> None:
    values = np.arange(3 * 16 * 2, dtype="<f4")
    y = layout.results(values.tobytes(), tokens=2, geometry=GEOMETRY)
    assert y.shape == (2, 48) and y[0, 1] == 2 and y[1, 0] == 1
    with pytest.raises(ValueError, match="no whole number"):
        layout.results(bytes(100), 2, GEOMETRY)


def test_a_reply_holds_as_many_groups_as_fit() -> None:
    assert layout.groups_per_run(tokens=2, max_payload=2040, geometry=GEOMETRY) == 15
    assert layout.run_cycles(56, 28, "MXFP4", "MXFP8", GEOMETRY) == 56 * 28 * 8
