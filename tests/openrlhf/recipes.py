"""Real OpenRLHF recipes on the tiny model, small enough for two cores."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

STAND_INS = Path(__file__).with_name("stand_ins")

COMMON = (
    "--ds.attn_implementation eager --ds.adam_offload --ds.zero_stage 2 --ds.param_dtype bf16 "
    "--train.micro_batch_size 2 --train.batch_size 4 --train.max_epochs 1 --train.seed 3 --data.max_len 24"
)
PPO = (
    "--actor.num_nodes 1 --actor.num_gpus_per_node 1 --ref.num_nodes 1 --ref.num_gpus_per_node 1 --critic.num_nodes 1 "
    "--critic.num_gpus_per_node 1 --reward.num_nodes 1 --reward.num_gpus_per_node 1 --vllm.num_engines 1 "
    "--vllm.tensor_parallel_size 1 --vllm.enforce_eager --vllm.sync_backend gloo --vllm.gpu_memory_utilization 0.1 "
    "--rollout.batch_size 1 --rollout.n_samples_per_prompt 4 --rollout.micro_batch_size 2 --data.max_samples 3 "
    "--rollout.max_new_tokens 8 --actor.adam.lr 1e-3 --critic.adam.lr 1e-3 --algo.kl.init_coef 0.05 "
    "--train.num_episodes 1 --data.input_key input --data.label_key label"
)
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
    "DS_ACCELERATOR": "cpu",
    "CUDA_HOME": "/usr/local",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_DEDUP_LOGS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "PYTHONUNBUFFERED": "1",
}


@dataclass
class Run:
    """One finished recipe: where its files are and what it said."""

    folder: Path
    status: int
    output: str

    @property
    def files(self) -> Path:
        """The one run folder."""
        (found,) = sorted(self.folder.glob("mx/policy_*"))
        return found


OWN_FORMATS = {"MX_TEST_VLLM_MARLIN": "1", "VLLM_MXFP8_EMULATION_DEQUANT_AT_LOAD": "0"}
"""Environment of a vLLM that executes MXFP8 by itself (stand_ins), and holds codes and scales."""


def command_line(
    recipe: str, folder: Path, flags: list[str], policy: str | None, **environment: str
) -> tuple[list[str], dict[str, str]]:
    """Command and environment of a recipe; ``policy`` None leaves the launcher out. Makes the folder."""
    folder.mkdir(parents=True)
    (folder / "vllm").mkdir()
    module = f"openrlhf.cli.{recipe}"
    launcher = ["mx_openrlhf", "--mx.policy", policy, "--mx.output_dir", str(folder / "mx")] if policy else []
    command = [sys.executable, "-m", *launcher, module, *COMMON.split(), *flags]
    command += ["--ckpt.output_dir", str(folder / "model"), "--ckpt.path", str(folder / "checkpoints")]
    paths = [str(STAND_INS), *filter(None, [os.environ.get("PYTHONPATH")])]
    more = {"PYTHONPATH": os.pathsep.join(paths), "MX_TEST_VLLM_WEIGHTS": str(folder / "vllm")}
    ranks = {} if recipe == "train_ppo_ray" else alone()
    return command, {**os.environ, **ENVIRONMENT, **more, **ranks, **environment}


def alone() -> dict[str, str]:
    """What a launcher of ranks tells the only rank."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", **where}


def run_recipe(
    recipe: str, folder: Path, flags: list[str], policy: str | None, *, limit: float = 900, **more: str
) -> Run:
    """Run a recipe to its end, in a process group of its own. ``more``: of its environment."""
    command, environment = command_line(recipe, folder, flags, policy, **more)
    log = folder / "output.txt"
    with log.open("w") as out:
        ran = subprocess.run(
            command, cwd=folder, env=environment, stdout=out, stderr=subprocess.STDOUT, timeout=limit, check=False,
            start_new_session=True,
        )  # fmt: skip
    return Run(folder, ran.returncode, log.read_text(errors="replace"))
