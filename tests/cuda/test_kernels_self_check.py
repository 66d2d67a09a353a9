"""What the kernels get wrong on a card is found before they are used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from mx_cuda import capability, casting, plugin, product, self_check
from mx_cuda.backend import CudaBackend


@pytest.fixture
def backend() -> Iterator[CudaBackend]:
    made = CudaBackend()
    yield made
    made.close()


def test_there_is_no_fault_here(backend: CudaBackend, device: str) -> None:
    assert list(self_check.faults(backend, device)) == []


def test_a_wrong_cast_a_wrong_decoding_and_a_wrong_product_are_told_apart(
    backend: CudaBackend, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_check, "FORMATS", ("MXFP4",))

    def last_bit(function: Any) -> Any:
        def changed(*args: Any, **kwargs: Any) -> Any:
            y = function(*args, **kwargs)
            first = y[0] if isinstance(y, tuple) else y
            first.view(torch.uint8).view(-1)[-1] ^= 1
            return y

        return changed

    for module, name, words in (
        (casting, "quantize", "the cast to MXFP4 of float32 has other bits"),
        (casting, "dequantize", "decoding MXFP4 of float32 gives other bits"),
        (casting, "fake_quantize", "stochastic rounding to MXFP4 of float32 along dimension 0 has other bits"),
    ):
        with monkeypatch.context() as broken:
            broken.setattr(module, name, last_bit(getattr(module, name)))
            assert next(self_check.faults(backend, device)) == words
    right = product.packed_linear
    monkeypatch.setattr(product, "packed_linear", lambda *args: right(*args) * 1.001)
    monkeypatch.setattr(self_check, "FORMATS", ())
    assert "the product of 1 rows with MXFP4 is off by" in next(self_check.faults(backend, device))


def test_kernels_that_fail_are_never_used(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """As on a card: there a compiler may fail, too."""
    monkeypatch.setattr(capability, "interpreted", lambda: False)
    monkeypatch.setattr(capability, "_capabilities", lambda: [(9, 0)])

    def broken(*_: object) -> None:
        raise RuntimeError("ptxas exited with 255")

    monkeypatch.setattr(self_check, "faults", broken)
    self_check.fault.cache_clear()
    made = plugin._cuda()
    self_check.fault.cache_clear()
    assert made.name == "reference"
    assert "RuntimeError: ptxas exited with 255" in caplog.text
    made.close()
