"""What only a card can show: kernels in a CUDA graph, and training with a model that lies on it."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.fixture
def examples(repository: Path) -> Path:
    return repository / "examples"


@pytest.mark.parametrize("rows", [1, 16, 100])
def test_a_cuda_graph_replays_products_and_casts(rows: int) -> None:
    from mx_cuda.backend import CudaBackend
    from mx_plugin import formats

    backend = CudaBackend()
    try:
        bound = backend.bind(
            backend.load_weight(formats.quantize(torch.randn(96, 256), "MXFP4").to("cuda")), "MXFP8", "floor"
        )
        x = torch.randn(rows, 256, device="cuda").bfloat16()

        def layer() -> torch.Tensor:
            return backend.fake_quantize(bound(x, None), "MXFP8")

        with torch.no_grad():
            layer()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                y = layer()
            x.copy_(torch.randn_like(x))
            graph.replay()
            assert torch.equal(y, layer())
    finally:
        backend.close()


def trained(script: Path, folder: Path, *options: str) -> Path:
    """Three steps on the card; the folder of the run."""
    command = [sys.executable, str(script), "--max_steps", "3", "--output_dir", str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    (run,) = folder.glob("**/config.json")
    return run.parent


def logged(run: Path) -> Iterator[dict[str, str]]:
    with (run / "energy.csv").open(newline="", encoding="utf-8") as lines:
        yield from csv.DictReader(lines)


@pytest.mark.trl("<1.13")
@pytest.mark.parametrize("script", ["ppo_mx.py", "grpo_mx.py"])
def test_the_examples_train_on_the_card_and_its_energy_is_measured(examples: Path, script: str, tmp_path: Path) -> None:
    run = trained(examples / script, tmp_path, "--policy", "C8", "--meters", "zeus")
    rows = list(logged(run))
    assert {row["phase"] for row in rows if row["format"].startswith("MXFP8/")} >= {"rollout", "reward"}
    measured = {row["phase"] for row in rows if row["source"] == "zeus" and float(row["joules"] or 0) > 0}
    assert measured >= {"rollout", "gradient"}
