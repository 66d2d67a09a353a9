"""What vLLM should hold, computed by ``ml_dtypes`` in float64 from the trainer's own weights."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import torch

ELEMENTS = {"MXFP4": (ml_dtypes.float4_e2m1fn, 6.0), "MXFP8": (ml_dtypes.float8_e4m3fn, 448.0)}
PACKED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


def rounded(weight: torch.Tensor, fmt: str, rule: str = "rceil") -> torch.Tensor:
    """``weight`` (out, in) cast in blocks of 32 inputs, each scaled by the least power of two that holds it.

    Under the rule ``floor`` by that of its largest value over that of the format's: it may saturate.
    """
    dtype, largest = ELEMENTS[fmt]
    values = weight.detach().double().numpy()
    result = np.zeros_like(values)
    for start in range(0, values.shape[1], 32):
        block = values[:, start : start + 32]
        amax = np.abs(block).max(axis=1, keepdims=True)
        amax = np.where(amax > 0, amax, 1.0)
        exponents = np.ceil(np.log2(amax / largest))
        if rule == "floor":
            exponents = np.floor(np.log2(amax)) - np.floor(np.log2(largest))
        scale = np.exp2(exponents)
        elements = np.clip(block / scale, -largest, largest).astype(np.float32).astype(dtype)
        result[:, start : start + 32] = elements.astype(np.float64) * scale
    return torch.from_numpy(result)


def expected(
    trained: dict[str, torch.Tensor], module: str, formats: dict[str, str], rule: str = "rceil"
) -> torch.Tensor:
    """The weight of a module of vLLM, in its dtype: siblings one after the other, each in the module's format."""
    holder, _, last = module.rpartition(".")
    names = [f"{holder}.{part}" for part in PACKED.get(last, ())] or [module]
    fmt = formats.get(module, "FP16")
    parts = [trained[f"{name}.weight"] for name in names]
    return torch.cat([part if fmt == "FP16" else rounded(part, fmt, rule) for part in parts]).to(torch.bfloat16)


def decoded(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The weight of E4M3 codes (out, in) and E8M0 scales (out, in / 32), exact in float64."""
    factors = np.exp2(scales.numpy().astype(np.float64) - 127)
    return codes.double() * torch.from_numpy(np.repeat(factors, 32, axis=1))
