"""Trainers and servers as processes of their own, on the tiny model: vLLM can be made once a process."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
STAND_INS = [HERE / "stand_ins", HERE.parent / "openrlhf" / "stand_ins"]
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_NO_USAGE_STATS": "1",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
}


@dataclass
class Run:
    """One finished trainer."""

    folder: Path
    output: str
    server_weights: Path | None = None

    @property
    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "result.json").read_text())
        return found

    @property
    def config(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((Path(self.result["run_dir"]) / "config.json").read_text())
        return found

    def rows(self, name: str) -> list[dict[str, str]]:
        with (Path(self.result["run_dir"]) / name).open() as file:
            return list(csv.DictReader(file))

    def snapshots(self) -> list[dict[str, Any]]:
        """Before each generation: what vLLM held, what the trainer had, at which step."""
        return [torch.load(file, weights_only=True) for file in sorted(self.folder.glob("*.pt"))]

    def logged(self, key: str) -> list[float]:
        return [entry[key] for entry in self.result["log"] if key in entry and "train_runtime" not in entry]


def environment(**more: str) -> dict[str, str]:
    paths = [*map(str, STAND_INS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(paths), **more}


def train(folder: Path, model: Path, spec: dict[str, Any], *, limit: float = 600, **more: str) -> Run:
    """Run ``child.py`` to its end; a failure shows what it said. ``more``: of its environment."""
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text(json.dumps({"model": str(model), "folder": str(folder), **spec}))
    log = folder / "output.txt"
    with log.open("w") as out:
        ran = subprocess.run(
            [sys.executable, str(HERE / "child.py"), str(folder / "spec.json")],
            cwd=folder, env=environment(**more), stdout=out, stderr=subprocess.STDOUT, timeout=limit, check=False,
        )  # fmt: skip
    output = log.read_text(errors="replace")
    assert ran.returncode == 0, output[-6000:]
    return Run(folder, output)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


@contextmanager
def server(folder: Path, model: Path, *flags: str, limit: float = 400, **more: str) -> Iterator[str]:
    """``trl vllm-serve`` on a loopback port; gives its address. What it holds after each update lies in ``folder``."""
    folder.mkdir(parents=True)
    port = free_port()
    command = [str(Path(sys.executable).with_name("trl")), "vllm-serve", "--model", str(model), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--max_model_len", "64", "--enforce_eager", "true"]
    command += ["--gpu_memory_utilization", "0.1", *flags]
    log = folder.with_suffix(".txt")
    with log.open("w") as out:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(MX_TEST_VLLM_WEIGHTS=str(folder), **more), stdout=out,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        address = f"http://127.0.0.1:{port}"
        end = time.monotonic() + limit
        while not answers(address):
            assert process.poll() is None and time.monotonic() < end, log.read_text(errors="replace")[-6000:]
            time.sleep(1)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # a session of its own: the server and its engine
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False
