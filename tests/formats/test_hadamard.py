"""The random Hadamard transform of size 32."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mx_plugin.errors import FormatError
from mx_plugin.formats import StochasticKey, fake_quantize
from mx_plugin.formats.hadamard import inverse, signs, transform
from mx_plugin.formats.philox import SIGNS, words

KEY = StochasticKey(3, 4, 5)


def hadamard32() -> np.ndarray:
    """Sylvester's construction."""
    h = np.ones((1, 1))
    for _ in range(5):
        h = np.block([[h, h], [h, -h]])
    return h


@pytest.mark.parametrize("shape", [(64,), (3, 64), (3, 40), (2, 33, 5), (70, 96)])
def test_it_is_h32_times_signs_over_sqrt_32_on_zero_padded_blocks(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    for dim in range(len(shape)):
        v = np.moveaxis(x.double().numpy(), dim, -1)
        v = np.pad(v, [(0, 0)] * (v.ndim - 1) + [(0, -v.shape[-1] % 32)])
        v = v * signs(v.shape[-1], KEY).numpy()
        expected = (v.reshape(*v.shape[:-1], -1, 32) @ hadamard32().T / 32**0.5).reshape(v.shape)
        got = np.moveaxis(transform(x, KEY, dim).numpy(), dim, -1)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def test_signs_are_the_documented_bits_and_depend_on_position_alone() -> None:
    word = words(KEY, 4, domain=SIGNS).tolist()
    expected = [-1.0 if word[k // 32] >> (k % 32) & 1 else 1.0 for k in range(100)]
    assert signs(100, KEY).tolist() == expected
    assert signs(1000, KEY)[:100].tolist() == expected
    assert signs(100, StochasticKey(3, 4, 6)).tolist() != expected


@pytest.mark.parametrize("tokens", [64, 45])
def test_the_product_of_two_transformed_operands_is_preserved(tokens: int) -> None:
    a, b = torch.randn(tokens, 7), torch.randn(tokens, 9)
    got = transform(a, KEY, 0).t() @ transform(b, KEY, 0)
    torch.testing.assert_close(got, a.t() @ b, rtol=0, atol=1e-4)
    assert transform(a, KEY, 0).shape == (64, 7)


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_the_inverse_undoes_it_ragged_tails_included(dim: int) -> None:
    x = torch.randn(5, 77, 40)
    torch.testing.assert_close(inverse(transform(x, KEY, dim), KEY, dim, x.shape[dim]), x, rtol=0, atol=1e-5)


def test_applied_twice_it_undoes_itself_up_to_signs() -> None:
    x, s = torch.randn(4, 64), signs(64, KEY)
    twice = transform(transform(x, KEY) * s, KEY) * s
    torch.testing.assert_close(twice, x * s * s, rtol=0, atol=1e-5)


def test_pieces_and_orientation_give_the_same_bits() -> None:
    x = torch.randn(6000, 64)
    whole = transform(x, KEY)
    assert torch.equal(whole[:50], transform(x[:50], KEY))
    assert torch.equal(whole, transform(x.t().contiguous(), KEY, 0).t())


def test_its_gradient_is_its_transpose() -> None:
    x = torch.randn(3, 40, requires_grad=True)
    weight = torch.randn(3, 64)
    transform(x, KEY).backward(weight)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, inverse(weight, KEY, -1, 40))


def test_fake_quantize_casts_the_unrounded_transform() -> None:
    x = torch.randn(4, 40).bfloat16()
    got = fake_quantize(x, "MXFP4", hadamard=KEY)
    assert got.shape == (4, 64) and got.dtype == torch.bfloat16
    assert torch.equal(got, fake_quantize(transform(x, KEY, dtype=torch.float32), "MXFP4").bfloat16())


def test_inverse_refuses_a_size_that_no_transform_has() -> None:
    with pytest.raises(FormatError, match="size 40 along dim 1"):
        inverse(torch.randn(4, 40), KEY)
