"""What a machine without a GPU must stand in for, so that OpenRLHF 0.11 runs on it: for tests only.

Python imports this file first in every process whose PYTHONPATH names this folder: the driver, Ray's workers and
vLLM's engines alike. Nothing of mx-plugin is stood in for, and nothing here is known to it.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from vllm_on_cpu import UNPACKED, StoreGroup

from mx_openrlhf.import_patch import ImportPatcher

# OpenRLHF then falls back to plain torch.
sys.modules["flash_attn.ops.triton.cross_entropy"] = None  # type: ignore[assignment]


def torch_without_cuda(torch: Any) -> None:
    for name in ("set_device", "synchronize", "empty_cache", "current_stream"):
        # One function each: torch's compiler refuses one that stands in two places.
        setattr(torch.cuda, name, lambda *_, **__: None)
    torch.cuda.current_device = lambda: torch.device("cpu")
    # OpenRLHF's PPOTrainer draws the order of prompts from a generator that nobody seeded: no two runs are alike.
    torch.manual_seed(0)


def mesh_on_cpu(module: Any) -> None:
    original = module.init_device_mesh
    module.init_device_mesh = lambda _, *args, **kwargs: original("cpu", *args, **kwargs)


class CpuDevices:
    """The module torch, whose devices are all the CPU."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._torch, name)

    def device(self, *_: Any) -> Any:
        return self._torch.device("cpu")

    def empty(self, *args: Any, **kwargs: Any) -> Any:
        return self._torch.empty(*args, **{**kwargs, "device": "cpu"})


def buffer_on_cpu(module: Any) -> None:
    module.torch = CpuDevices(module.torch)


def group_without_nccl(module: Any) -> None:
    module.stateless_init_process_group = StoreGroup


def update_weight_on_cpu(module: Any) -> None:
    original = module.WorkerWrap.update_weight

    def update_weight(self: Any, *args: Any, **kwargs: Any) -> Any:
        torch = sys.modules["torch"]
        sys.modules["torch"] = CpuDevices(torch)  # type: ignore[assignment]
        try:
            return original(self, *args, **kwargs)
        finally:
            sys.modules["torch"] = torch

    module.WorkerWrap.update_weight = update_weight


def ray_with_gpus(ray: Any) -> None:
    original = ray.init
    more = {"num_gpus": 8, "num_cpus": 8, "include_dashboard": False, "object_store_memory": 200 * 2**20}
    ray.init = lambda *args, **kwargs: original(*args, **{**more, **kwargs})


def keep_weights(module: Any) -> None:
    """After each report, leave the worker's linear weights where the test can read them."""
    folder = os.environ.get("MX_TEST_VLLM_WEIGHTS")
    original = module.MXWorkerExtension.mx_report

    def mx_report(self: Any) -> Any:
        import torch

        report = original(self)
        number = len(os.listdir(folder))
        modules = self.mx_held.modules.items()
        weights = {name: held.weight.detach().clone() for name, held in modules}
        scales = {name: held.weight_scale.detach().clone() for name, held in modules if hasattr(held, "weight_scale")}
        torch.save({**report, "weights": weights, "scales": scales}, os.path.join(folder, f"{number:04d}.pt"))
        return report

    if folder:
        module.MXWorkerExtension.mx_report = mx_report


PATCHES = {
    "torch": torch_without_cuda,
    "openrlhf.utils.deepspeed.deepspeed": mesh_on_cpu,
    "openrlhf.trainer.ppo_utils.replay_buffer": buffer_on_cpu,
    "openrlhf.utils.distributed_util": group_without_nccl,
    "openrlhf.trainer.ray.vllm_worker_wrap": update_weight_on_cpu,
    "ray": ray_with_gpus,
    **UNPACKED,
    "mx_openrlhf.vllm_worker": keep_weights,
}

ImportPatcher(PATCHES).install()
