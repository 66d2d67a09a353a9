"""MXTensor: really packed, described, moved, saved."""

from __future__ import annotations

import copy
import io
import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mx_plugin.errors import FormatError
from mx_plugin.formats import MXTensor, format_names, get_format, quantize
from mx_plugin.formats.packing import pack, row_bytes, unpack


@pytest.mark.parametrize(
    ("name", "bits"),
    [("MXFP4", 4.25), ("MXFP6", 6.25), ("MXFP6_E3M2", 6.25), ("MXFP8", 8.25), ("MXFP8_E5M2", 8.25), ("MXINT8", 8.25)],
)
def test_packed_size_is_that_of_the_format(name: str, bits: float) -> None:
    packed = quantize(torch.randn(64, 96), name)
    assert packed.nbytes * 8 == 64 * 96 * bits
    assert packed.elements.untyped_storage().nbytes() + packed.scales.untyped_storage().nbytes() == packed.nbytes
    assert get_format(name).bits_per_element == bits


@pytest.mark.parametrize("name", format_names())
def test_a_ragged_row_takes_whole_bytes(name: str) -> None:
    packed = quantize(torch.randn(3, 45), name)
    assert packed.elements.shape == (3, math.ceil(45 * get_format(name).element.bits / 8))
    assert packed.scales.shape == (3, 2)


@given(st.sampled_from([4, 6, 8]), st.integers(0, 5), st.integers(0, 40), st.randoms(use_true_random=False))
def test_packing_is_little_endian_and_reversible(bits: int, rows: int, length: int, random: object) -> None:
    numbers = [[random.randrange(1 << bits) for _ in range(length)] for _ in range(rows)]  # type: ignore[attr-defined]
    codes = torch.tensor(numbers, dtype=torch.uint8).view(rows, length)
    packed = pack(codes, bits)
    assert packed.shape == (rows, row_bytes(length, bits))
    for row, row_codes in zip(packed.tolist(), numbers, strict=True):
        as_one_number = sum(code << (bits * i) for i, code in enumerate(row_codes))
        assert bytes(row) == as_one_number.to_bytes(row_bytes(length, bits), "little")
    assert torch.equal(unpack(packed, bits, length), codes)


def test_no_other_width_can_be_packed() -> None:
    with pytest.raises(FormatError, match="5 bits"):
        pack(torch.zeros(1, 8, dtype=torch.uint8), 5)


@pytest.mark.parametrize("name", format_names())
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_codes_packed_again_give_the_same_tensor(name: str, dim: int) -> None:
    packed = quantize(torch.randn(5, 40, 3).bfloat16(), name, dim)
    again = MXTensor.from_codes(packed.element_codes(), packed.scale_codes(), name, dim, torch.bfloat16)
    assert again.equal(packed)


def test_it_describes_itself() -> None:
    packed = quantize(torch.randn(4, 40).bfloat16(), "mxfp4", dim=-2)
    assert packed.format is get_format("MXFP4")
    assert (packed.shape, packed.dim, packed.dtype, packed.device.type) == ((4, 40), 0, torch.bfloat16, "cpu")
    assert packed.numel() == 160
    assert repr(packed) == "MXTensor(MXFP4, shape=(4, 40), dim=0, from bfloat16, 120 bytes, device='cpu')"


def test_equality_sees_every_difference() -> None:
    x = torch.randn(32, 32)
    base = quantize(x, "MXFP8")
    assert base.equal(quantize(x.clone(), "MXFP8_E4M3"))
    for other in (
        quantize(x, "MXFP8_E5M2"),
        quantize(x, "MXFP8", 0),
        quantize(-x, "MXFP8"),
        quantize(x * 2, "MXFP8"),
        MXTensor.from_codes(base.element_codes(), base.scale_codes(), "MXFP8", dtype=torch.float16),
    ):
        assert not base.equal(other)


def test_moving_to_the_device_where_it_is_returns_itself() -> None:
    packed = quantize(torch.randn(32), "MXFP4")
    assert packed.to("cpu") is packed
    assert packed.to("meta").device.type == "meta"


@pytest.mark.parametrize("name", format_names())
def test_torch_save_and_weights_only_load_bring_it_back(name: str) -> None:
    packed = quantize(torch.randn(3, 45).half(), name, 0)
    buffer = io.BytesIO()
    torch.save({"weight": packed, "bias": torch.ones(3)}, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=True)
    assert loaded["weight"].equal(packed)
    assert torch.equal(loaded["weight"].dequantize(), packed.dequantize())
    assert copy.deepcopy(packed).equal(packed)


def test_a_fresh_process_can_load_it_after_importing_the_class(tmp_path) -> None:
    packed = quantize(torch.arange(40.0), "MXFP6")
    torch.save(packed, tmp_path / "w.pt")
    code = "import sys, torch; from mx_plugin import MXTensor; print(torch.load(sys.argv[1], weights_only=True))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "w.pt")], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == repr(packed), done.stderr


class TestExtremeScales:
    def flag(self, name: str, codes: list[int], scales: list[int]) -> bool:
        elements = torch.tensor(codes, dtype=torch.uint8).repeat_interleave(32)
        return MXTensor.from_codes(elements, torch.tensor(scales, dtype=torch.uint8), name).has_extreme_scales

    def test_ordinary_weights_have_none(self) -> None:
        for name in format_names():
            assert not quantize(torch.randn(64, 64), name).has_extreme_scales

    def test_blocks_of_zeros_do_not_count(self) -> None:
        for name in format_names():
            x = torch.randn(4, 64)
            x[2] = -0.0
            assert not quantize(x, name).has_extreme_scales

    def test_a_nan_block_counts_even_if_its_elements_are_zero(self) -> None:
        assert self.flag("MXFP4", [0], [255])
        assert quantize(torch.tensor([float("nan")]), "MXINT8").has_extreme_scales

    @pytest.mark.parametrize("name", format_names())
    def test_the_limits_are_where_float32_becomes_subnormal_or_overflows(self, name: str) -> None:
        element = get_format(name).element
        quantum = 2.0 ** (element.emin - element.mantissa_bits)
        for code in range(255):
            ordinary = quantum * 2.0 ** (code - 127) >= 2.0**-126 and element.max * 2.0 ** (code - 127) < 2.0**128
            assert self.flag(name, [1, 0], [code, 127]) == (not ordinary), code

    @pytest.mark.parametrize("name", format_names())
    def test_without_them_bfloat16_holds_every_value(self, name: str) -> None:
        x = torch.randn(64, 64) * torch.exp2(torch.randint(-90, 90, (64, 1)))
        packed = quantize(x, name)
        assert not packed.has_extreme_scales
        assert torch.equal(packed.dequantize(torch.bfloat16).float(), packed.dequantize())


class TestBadParts:
    def test_parts_of_the_wrong_size_are_refused(self) -> None:
        good = quantize(torch.randn(4, 64), "MXFP4")
        with pytest.raises(FormatError, match=r"scales of MXFP4 \(4, 64\).*must be uint8 \(4, 2\)"):
            MXTensor(good.elements, good.scales[:, :1], "MXFP4", (4, 64), 1, torch.float32)
        with pytest.raises(FormatError, match="elements of MXFP8"):
            MXTensor(good.elements, good.scales, "MXFP8", (4, 64), 1, torch.float32)

    def test_a_code_wider_than_its_element_is_refused(self) -> None:
        with pytest.raises(FormatError, match="element code 16 is wider than the 4 bits of MXFP4"):
            MXTensor.from_codes(torch.tensor([16], dtype=torch.uint8), torch.tensor([127], dtype=torch.uint8), "MXFP4")

    def test_codes_must_be_uint8_and_scales_one_per_block(self) -> None:
        codes, scales = torch.zeros(33, dtype=torch.uint8), torch.zeros(1, dtype=torch.uint8)
        with pytest.raises(FormatError, match="uint8"):
            MXTensor.from_codes(codes.int(), scales, "MXFP8")
        with pytest.raises(FormatError, match=r"must have shape \(2,\), not \(1,\)"):
            MXTensor.from_codes(codes, scales, "MXFP8")

    def test_a_source_dtype_that_no_cast_takes_is_refused(self) -> None:
        codes = torch.zeros(1, dtype=torch.uint8)
        with pytest.raises(FormatError, match="float64"):
            MXTensor.from_codes(codes, codes, "MXFP8", dtype=torch.float64)
