"""Which MX formats vLLM executes by itself on this device, by which kernel, and what becomes of activations there."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from mx_plugin.execution.held_weights import UNKNOWN, OwnFormat
from mx_plugin.formats.spec import FP16

log = logging.getLogger(__name__)

VLLM_NAMES = {"MXFP8": "mxfp8", "MXFP4": "mxfp4"}
"""Our format -> vLLM's name of its online quantisation (vLLM 0.29: vllm/config/quantization.py)."""

METHODS = {"Mxfp8OnlineLinearMethod": "MXFP8", "Mxfp4OnlineLinearMethod": "MXFP4"}
"""Class of a module's quantisation method -> the format of its weight."""

ACTIVATIONS = {
    "FlashInferCutlassMxfp8LinearKernel": "MXFP8",
    "FlashInferCutedslMxfp8LinearKernel": "MXFP8",
    "FlashInferTrtllmMxfp8LinearKernel": "MXFP8",
    "B12xMxfp8LinearKernel": "MXFP8",
    "RocmDotScaledMxfp8LinearKernel": "MXFP8",
    "XPUMxFp8LinearKernel": "MXFP8",
    "MarlinMxfp8LinearKernel": FP16,
    "FlashInferMxFp4LinearKernel": "MXFP4",
    "B12xMxFp4LinearKernel": "MXFP4",
    "AiterMxfp4LinearKernel": "MXFP4",
    "XPUMxFp4LinearKernel": "MXFP4",
    "MarlinMxFp4LinearKernel": FP16,
    "HummingMxFp4LinearKernel": FP16,
}
"""Kernel of vLLM 0.29 -> what it casts activations to; FP16: not at all. Its emulations are left out: rounding weights
computes the same."""


def executed_here() -> list[OwnFormat]:
    """The formats that this process's vLLM would execute on its device, with the kernels that it would choose."""
    try:
        from vllm.model_executor.kernels.linear import init_mxfp4_linear_kernel, init_mxfp8_linear_kernel
        from vllm.model_executor.layers.quantization.online.mxfp4 import Mxfp4OnlineLinearMethod
    except ImportError as error:
        log.info("this vLLM quantises to no MX format by itself (%s)", error)
        return []
    choices: dict[str, Callable[[], Any]] = {
        "MXFP8": init_mxfp8_linear_kernel,
        "MXFP4": lambda: init_mxfp4_linear_kernel(activation_quant_key=Mxfp4OnlineLinearMethod.activation_quant_key),
    }
    return [own for fmt, chosen in choices.items() if (own := _own(fmt, chosen)) is not None]


def _own(fmt: str, chosen: Callable[[], Any]) -> OwnFormat | None:
    try:
        kernel = type(chosen()).__name__
    except Exception as error:  # vLLM raises whatever the library behind a kernel does
        log.info("vLLM has no kernel for %s here: %s", fmt, error)
        return None
    if kernel not in ACTIVATIONS:
        log.info("vLLM would execute %s by %s: weights are rounded instead", fmt, kernel)
        return None
    return OwnFormat(fmt, ACTIVATIONS[kernel], kernel)


def executed_by(module: Any) -> OwnFormat | None:
    """What a linear module of vLLM is executed in, if that is an MX format of vLLM's own."""
    method = getattr(module, "quant_method", None)
    fmt = METHODS.get(type(method).__name__)
    if fmt is None:
        return None
    kernel = type(getattr(method, "kernel", None)).__name__
    return OwnFormat(fmt, ACTIVATIONS.get(kernel, UNKNOWN), kernel)
