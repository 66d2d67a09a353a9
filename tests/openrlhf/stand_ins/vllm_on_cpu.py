"""What vLLM on a machine without a GPU must stand in for, so that weights can be sent to it: for tests only."""

from __future__ import annotations

import os
from typing import Any


def no_onednn(module: Any) -> None:
    module._supports_onednn = False


def no_prepacking(module: Any) -> None:
    module.check_cpu_sgl_kernel = lambda *_: False


UNPACKED = {"vllm._custom_ops": no_onednn, "vllm.model_executor.layers.utils": no_prepacking}
"""Module -> patch: weights stay as they were loaded; packed for oneDNN they could not be written again."""


def marlin_for_cpus(module: Any) -> None:
    """A kernel that computes what Marlin does on a GPU, MXFP8 weights by unquantised activations, as vLLM emulates it.

    All around it is vLLM's own: its quantisation when weights are loaded, and its layerwise reload.
    """
    from vllm.platforms.interface import PlatformEnum

    kernel = type("MarlinMxfp8LinearKernel", (module.EmulationMxfp8LinearKernel,), {})
    module.register_linear_kernel(kernel, PlatformEnum.CPU, "mxfp8")


if os.environ.get("MX_TEST_VLLM_MARLIN"):
    UNPACKED["vllm.model_executor.kernels.linear"] = marlin_for_cpus


class StoreGroup:
    """Broadcasts through a TCP store what NCCL would."""

    def __init__(self, host: str, port: int, rank: int, world_size: int, device: Any) -> None:
        from vllm.distributed.utils import StatelessProcessGroup

        self.group = StatelessProcessGroup.create(host, port, rank, world_size)
        self._rank = rank

    def broadcast(self, tensor: Any, src: int, stream: Any = None) -> None:
        # A view would be pickled with the whole buffer behind it.
        received = self.group.broadcast(tensor.detach().clone(), src)
        if self._rank != src:
            tensor.copy_(received)
