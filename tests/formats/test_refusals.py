"""What the cast refuses, and what each refusal says."""

from __future__ import annotations

import pytest
import torch

from mx_plugin.errors import FormatError
from mx_plugin.formats import fake_quantize, quantize

pytestmark = pytest.mark.parametrize("cast", [quantize, fake_quantize])


def test_an_unknown_format_names_the_nearest(cast) -> None:
    with pytest.raises(FormatError, match="unknown MX format 'MXFP5': did you mean 'MXFP"):
        cast(torch.ones(32), "MXFP5")


def test_fp16_is_not_a_format_to_cast_to(cast) -> None:
    with pytest.raises(FormatError, match="not quantised"):
        cast(torch.ones(32), "fp16")


def test_an_unknown_rounding_names_the_nearest(cast) -> None:
    with pytest.raises(FormatError, match="unknown rounding 'nearst': did you mean 'nearest'"):
        cast(torch.ones(32), "MXFP4", rounding="nearst")


def test_an_unknown_scale_rule_names_the_nearest(cast) -> None:
    with pytest.raises(FormatError, match="unknown scale_rule 'ceil': did you mean 'rceil'"):
        cast(torch.ones(32), "MXFP4", scale_rule="ceil")


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_other_dtypes_are_refused(cast, dtype: torch.dtype) -> None:
    with pytest.raises(FormatError, match=f"cannot cast {dtype}.*convert it to float32"):
        cast(torch.zeros(32).to(dtype), "MXFP4")


def test_float64_is_refused_because_converting_it_rounds(cast) -> None:
    with pytest.raises(FormatError, match=r"float64.*x\.float\(\); that rounds"):
        cast(torch.ones(32, dtype=torch.float64), "MXFP4")


@pytest.mark.parametrize("dim", [2, -3])
def test_a_dimension_out_of_range_is_named_with_the_shape(cast, dim: int) -> None:
    with pytest.raises(FormatError, match=rf"dim {dim} is out of range for shape \(2, 32\); valid: -2\.\.1"):
        cast(torch.ones(2, 32), "MXFP4", dim)


def test_a_tensor_without_dimensions_has_no_blocks(cast) -> None:
    with pytest.raises(FormatError, match="without dimensions"):
        cast(torch.tensor(1.0), "MXFP4")


def test_out_of_another_shape_is_refused(cast) -> None:
    with pytest.raises(FormatError, match=r"out has shape \(32,\), the result \(2, 32\)"):
        fake_quantize(torch.ones(2, 32), "MXFP4", out=torch.empty(32))
