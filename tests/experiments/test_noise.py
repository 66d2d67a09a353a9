"""The backend ``noise``: as large as rounding, Gaussian, new at each draw, on the same operands."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from mx_plugin import get_backend
from mx_plugin.errors import PluginError
from mx_plugin.experiments.noise import NoiseBackend
from mx_plugin.formats.hadamard import transform
from mx_plugin.formats.philox import StochasticKey


@pytest.fixture
def backend() -> Iterator[NoiseBackend]:
    made = get_backend("noise", inner="reference", seed=3)
    yield made
    made.close()


def rms(x: torch.Tensor) -> float:
    return float(x.float().square().mean().sqrt())


@pytest.mark.parametrize("fmt", ["MXFP4", "MXFP6", "MXFP8", "MXINT8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_noise_is_as_large_as_the_rounding_error(backend: NoiseBackend, fmt: str, dtype: torch.dtype) -> None:
    x = (torch.randn(128, 320) * 3).to(dtype)
    error = rms(backend.inner.fake_quantize(x, fmt, scale_rule="rceil").float() - x.float())
    # In bfloat16 the sum itself is rounded, by up to 2^-9 of x, which MXINT8's error does not dwarf.
    allowed = 0.02 if dtype == torch.float32 else 0.25
    packed = backend.quantize(x, fmt, scale_rule="rceil")
    for noisy in (backend.fake_quantize(x, fmt, scale_rule="rceil"), backend.load_weight(packed)):
        assert rms(noisy.float() - x.float()) == pytest.approx(error, rel=allowed)
        assert noisy.dtype == dtype


def test_noise_is_gaussian_centred_and_independent_of_the_operand(backend: NoiseBackend) -> None:
    x = torch.randn(512, 512)
    noise = (backend.fake_quantize(x, "MXFP4") - x).flatten()
    noise = noise / noise.std()
    assert abs(float(noise.mean())) < 0.01
    assert float(noise.pow(4).mean()) == pytest.approx(3.0, abs=0.1)  # the Gaussian's; a uniform one has 1.8
    assert abs(float((noise * x.flatten()).mean())) < 0.01


def test_the_same_operand_gets_the_same_noise_until_it_is_drawn_anew(backend: NoiseBackend) -> None:
    x = torch.randn(64, 64)
    first = backend.fake_quantize(x, "MXFP4")
    backend.fake_quantize(torch.randn(64, 64), "MXFP4")
    assert torch.equal(backend.fake_quantize(x.clone(), "MXFP4"), first)
    backend.redraw(1)
    again = backend.fake_quantize(x, "MXFP4")
    assert not torch.equal(again, first)
    correlation = torch.corrcoef(torch.stack([(again - x).flatten(), (first - x).flatten()]))[0, 1]
    assert abs(float(correlation)) < 0.05


def test_another_seed_and_another_operand_get_other_noise(backend: NoiseBackend) -> None:
    x = torch.randn(64, 64)
    other = get_backend("noise", inner="reference", seed=4)
    assert not torch.equal(other.fake_quantize(x, "MXFP4"), backend.fake_quantize(x, "MXFP4"))
    swapped = x.flip(0)
    noises = [backend.fake_quantize(y, "MXFP4") - y for y in (x, swapped)]
    assert not torch.equal(noises[0], noises[1])


def test_a_weight_keeps_its_noise_while_it_is_trained_and_shares_it_with_the_reference(backend: NoiseBackend) -> None:
    weight, key = torch.randn(64, 64), StochasticKey.of(0, 0, "model.layers.0.q_proj", "weight")
    trained = weight + 1e-3 * torch.randn(64, 64)
    noises = [backend.quantize(w, "MXFP4", key=key).noisy - w for w in (weight, trained)]
    assert torch.corrcoef(torch.stack([n.flatten() for n in noises]))[0, 1] > 0.99
    other = StochasticKey.of(0, 0, "model.layers.1.q_proj", "weight")
    elsewhere = backend.quantize(weight, "MXFP4", key=other).noisy - weight
    assert abs(torch.corrcoef(torch.stack([noises[0].flatten(), elsewhere.flatten()]))[0, 1]) < 0.05


def test_linear_multiplies_both_noisy_operands_in_the_models_dtype(backend: NoiseBackend) -> None:
    x, weight, bias = torch.randn(3, 5, 64), torch.randn(48, 64), torch.randn(48)
    handle = backend.load_weight(backend.quantize(weight, "MXFP4"))
    y = backend.linear(x, handle, bias, "MXFP8")
    expected = torch.nn.functional.linear(
        backend.fake_quantize(x, "MXFP8"), backend.fake_quantize(weight, "MXFP4"), bias
    )
    assert torch.equal(y, expected)
    assert torch.equal(backend.linear(x, handle, None, "FP16"), torch.nn.functional.linear(x, handle))


def test_turned_operands_are_turned_and_get_the_noise_of_the_turned_rounding(backend: NoiseBackend) -> None:
    x, key = torch.randn(64, 96), StochasticKey.of(1, 2, "layer", "dgrad")
    out = torch.empty(64, 96)
    noisy = backend.fake_quantize(x, "MXFP4", hadamard=key, out=out)
    turned = transform(x, key)
    rounded = backend.inner.fake_quantize(x, "MXFP4", hadamard=key)
    assert noisy is out
    assert rms(noisy - turned) == pytest.approx(rms(rounded - turned), rel=0.05)


def test_packed_weights_of_others_are_refused(backend: NoiseBackend) -> None:
    packed = backend.inner.quantize(torch.randn(32, 64), "MXFP4")
    with pytest.raises(PluginError, match="release_frozen"):
        backend.load_weight(packed)
