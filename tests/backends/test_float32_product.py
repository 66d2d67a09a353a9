"""MKL's bfloat16 product with a float32 result, where this processor has one; and that it is refused elsewhere."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mx_cpu import float32_product as room
from mx_plugin import get_backend

CPU = torch.device("cpu")


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The machine's product; on a processor without one, the definition: then only this file is tested."""
    found = room.float32_product()
    return a.float() @ b.float() if found is None else found(a, b)


def layouts(t: torch.Tensor) -> list[torch.Tensor]:
    """The same matrix as it is, as a transposed view, and as a part of a larger one."""
    rows, columns = t.shape
    larger = torch.zeros(rows + 3, columns + 5, dtype=t.dtype)
    larger[1 : rows + 1, 2 : columns + 2] = t
    return [t, t.t().contiguous().t(), larger[1 : rows + 1, 2 : columns + 2]]


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 3, 7), (64, 64, 64), (1, 40, 33), (33, 40, 1), (130, 97, 61)])
def test_it_is_within_the_rounding_of_float32_sums(shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    a = torch.randn(m, k, generator=torch.Generator().manual_seed(m)).bfloat16()
    b = torch.randn(k, n, generator=torch.Generator().manual_seed(n)).bfloat16()
    exact, size = a.double() @ b.double(), a.double().abs() @ b.double().abs()
    for left in layouts(a):
        for right in layouts(b):
            y = product(left, right)
            assert y.dtype == torch.float32 and y.is_contiguous()
            assert float(((y.double() - exact).abs() / size).max()) < 1e-6


@pytest.mark.parametrize("shape", [(0, 4, 3), (3, 0, 4), (3, 4, 0)])
def test_empty_matrices(shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    y = product(torch.ones(m, k).bfloat16(), torch.ones(k, n).bfloat16())
    assert y.shape == (m, n) and y.dtype == torch.float32 and not bool(y.any())


def test_threads_multiply_at_once() -> None:
    pairs = [(torch.randn(40, 64).bfloat16(), torch.randn(64, 50).bfloat16()) for _ in range(16)]
    alone = [product(a, b) for a, b in pairs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda pair: product(*pair), pairs))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_a_processor_that_would_emulate_it_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_multiplies_bfloat16", lambda: False)
    room.float32_product.cache_clear()
    try:
        assert room.float32_product() is None
    finally:
        room.float32_product.cache_clear()


def test_only_cpu_matrices_are_offered_it() -> None:
    backend = get_backend("cpu")
    assert backend.bfloat16_product(torch.device("meta")) is None
    assert get_backend("reference").bfloat16_product(CPU) is None
