"""A model around the kernels may be compiled: they stand in its graph as torch's own operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from mx_cuda.backend import MANY, CudaBackend
from mx_plugin import formats
from mx_plugin.execution.engine import Engine
from mx_plugin.execution.phases import ROLLOUT
from mx_plugin.precision import PolicyProvider, load_policy


@pytest.fixture
def backend() -> Iterator[CudaBackend]:
    torch._dynamo.reset()
    made = CudaBackend()
    yield made
    made.close()


def operators_in(counter: CompileCounterWithBackend) -> set[str]:
    return {str(node.target) for graph in counter.graphs for node in graph.graph.nodes if "mx_cuda" in str(node.target)}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [(3, {"mx_cuda.linear.default"}), (MANY + 1, {"mx_cuda.fake_quantize.default", "mx_cuda.dequantize.default"})],
)
@torch.no_grad()
def test_a_product_is_one_graph(backend: CudaBackend, device: str, rows: int, expected: set[str]) -> None:
    bound = backend.bind(
        backend.load_weight(formats.quantize(torch.randn(32, 64), "MXFP4").to(device)), "MXFP8", "floor"
    )

    def surrounding(x: torch.Tensor) -> torch.Tensor:
        return bound(x.relu(), None).tanh()

    x = torch.randn(rows, 64, device=device).bfloat16()
    counter = CompileCounterWithBackend("aot_eager")
    compiled: Callable[[torch.Tensor], torch.Tensor] = torch.compile(surrounding, backend=counter, fullgraph=True)
    assert torch.equal(compiled(x), surrounding(x))
    assert operators_in(counter) == expected


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 48), nn.Linear(48, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.nn.functional.gelu(self.first(x)) * 2)


@torch.no_grad()
def test_an_adopted_model_is_compiled_and_gives_the_same_bits(backend: CudaBackend, device: str) -> None:
    model = TwoLayers().bfloat16().to(device)
    x = torch.randn(5, 64, device=device).bfloat16()
    with Engine(PolicyProvider(load_policy("C")), backend) as engine:
        engine.adopt({"policy": model})
        with engine.phase(ROLLOUT):
            due = model(x)
            counter = CompileCounterWithBackend("aot_eager")
            assert torch.equal(torch.compile(model, backend=counter)(x), due)
        engine.check_hits()
    assert counter.frame_count > 0, "what lies between the layers is compiled; they break the graph (execution/layer)"
