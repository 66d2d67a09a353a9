"""Numbers that a cast may get wrong, and comparison by bits."""

from __future__ import annotations

import torch

SPECIAL = (0.0, -0.0, 1e-45, -3e-42, 1e-38, 3.4e38, -3.4e38, 2.0**127, 2.0**-127, 6.0, -448.0, 2.5, -1.75)


def awkward(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int = 0) -> torch.Tensor:
    """Numbers of every size, zeros of both signs, subnormals, ties; a block of zeros, NaN and infinity."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator) * torch.exp2(torch.randint(-20, 20, shape, generator=generator).float())
    where = torch.rand(shape, generator=generator) < 0.1
    x[where] = torch.tensor(SPECIAL)[torch.randint(0, len(SPECIAL), (int(where.sum()),), generator=generator)]
    flat = x.view(-1)
    if x.numel() > 300:
        flat[x.numel() // 3], flat[x.numel() // 2] = float("nan"), -float("inf")
        flat[:64] *= 2.0**-120
        flat[64:96] = 0.0
        flat[96:128] *= 2.0**100
    return x.to(device, dtype)


def bits(x: torch.Tensor) -> torch.Tensor:
    """Bit patterns, every NaN alike."""
    kind = torch.int32 if x.dtype == torch.float32 else torch.int16
    return torch.where(x.isnan(), torch.full_like(x, float("nan")), x).view(kind)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Same dtype, shape and bits; any NaN equals any other."""
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))
