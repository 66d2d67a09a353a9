"""The full-precision memory of released layers really goes, and every weight comes back."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from mx_plugin.execution.weight_source import digest

from .conftest import TwoLayers
from .releasing import ALL_MXFP8, Memory, decoded

# ---------------------------------------------------------------------------- memory


def test_full_precision_memory_goes_and_the_packed_copy_has_8_25_bits_a_value(adopt: Any) -> None:
    model = nn.ModuleDict({f"l{i}": nn.Linear(256, 512, bias=False).bfloat16() for i in range(4)})
    model.requires_grad_(False)
    memory = [StorageWeakRef(parameter.untyped_storage()) for parameter in model.parameters()]
    engine = adopt(ALL_MXFP8, {"reference": model})
    engine.release()
    assert all(storage.expired() for storage in memory)
    told = engine.releases.describe()
    assert told["packed_bytes"] / told["bytes"] == 8.25 / 16
    counters = engine.backend.counters()
    if engine.backend.name == "cpu":
        assert counters.extra["bytes_held"] == told["packed_bytes"], "the backend holds no other copy"


def test_memory_that_something_outside_still_views_is_pointed_out(
    adopt: Any, frozen: TwoLayers, caplog: pytest.LogCaptureFixture
) -> None:
    view = frozen.up.weight.data[3]
    engine = adopt(ALL_MXFP8, {"reward": frozen})
    engine.release()
    assert "the memory of reward:up is not free" in caplog.text and "reward:down is not" not in caplog.text
    assert view.shape == (64,)


def test_a_backend_that_keeps_decoded_copies_is_pointed_out(
    adopt: Any, frozen: TwoLayers, caplog: pytest.LogCaptureFixture
) -> None:
    engine = adopt(ALL_MXFP8, {"reward": frozen})
    engine.release()
    said = "saves little: backend reference keeps a decoded copy" in caplog.text
    assert said == (engine.backend.name == "reference")


RESIDENT = """
import torch
from torch import nn
from mx_plugin import PrecisionPolicy, get_backend
from mx_plugin.execution.engine import Engine
from mx_plugin.precision import PolicyProvider

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

backend = get_backend("cpu")
start = resident()
model = nn.ModuleDict({f"l{i}": nn.Linear(2048, 2048, bias=False, dtype=torch.bfloat16) for i in range(12)})
model.requires_grad_(False)
before = resident() - start
everything = {"rollout": "MXFP8", "reward": "MXFP8", "gradient": "MXFP8"}
policy = PrecisionPolicy.from_dict({"version": 1, "name": "all", "defaults": everything})
engine = Engine(PolicyProvider(policy), backend)
engine.adopt({"reference": model})
engine.release()
print(before, resident() - start, sum(p.nbytes for p in model.parameters()), backend.name)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident size is read from /proc")
def test_the_resident_size_of_the_process_falls_with_it() -> None:
    run = subprocess.run([sys.executable, "-c", RESIDENT], capture_output=True, text=True, check=True)
    before, after, nbytes, backend = run.stdout.split()
    assert int(before) > 0.95 * int(nbytes)
    kept_decoded = 1.0 if backend == "reference" else 0.0
    assert int(after) < (8.25 / 16 + kept_decoded + 0.1) * int(nbytes)


# ---------------------------------------------------------------------------- restoration


def test_restoring_reloads_from_the_source_and_leaves_ordinary_modules(adopt: Any, model: TwoLayers) -> None:
    plain = copy.deepcopy(model)
    model.up.weight._is_hf_initialized = True
    parameters = list(model.parameters())
    engine = adopt(ALL_MXFP8, {"reward": model})
    engine.release(Memory(plain), frozen_roles={"reward"})
    engine.restore()
    assert [type(module) for module in model.modules()] == [type(module) for module in plain.modules()]
    for now, then, before in zip(model.parameters(), plain.parameters(), parameters, strict=True):
        assert now is before and type(now) is nn.Parameter
        assert torch.equal(now, then) and now.requires_grad == then.requires_grad
    assert model.up.weight.__dict__ == {"_is_hf_initialized": True}
    assert {release.restored for release in engine.releases.done} == {"source"}
    torch.optim.SGD(model.parameters(), lr=1.0)
    model(torch.randn(2, 64)).sum().backward()
    assert model.up.weight.grad is not None
    model.up.weight.data.zero_()


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("none", "no local source of it is known"),
        ("another", "the file's tensor is not the weight that the model has now"),
        ("changed", "the file's tensor has changed since: its SHA-256 is not the recorded one"),
        ("broken", "it cannot be read: OSError: the disk is gone"),
    ],
)
def test_without_a_source_decoded_values_stay_and_log_and_record_say_so(
    adopt: Any, frozen: TwoLayers, how: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain = copy.deepcopy(frozen)
    engine = adopt(ALL_MXFP8, {"reward": frozen})
    source = Memory(frozen)
    if how == "another":
        source.stored["up.weight"] = source.stored["up.weight"] + 1
    engine.release(lambda layer: None if how == "none" else source(layer))
    if how in ("none", "another"):
        assert "will keep decoded MX values" in caplog.text
    if how == "changed":
        source.stored["up.weight"] = source.stored["up.weight"] + 1
    source.broken = how == "broken"
    caplog.clear()
    engine.restore()
    assert type(frozen.up.weight) is nn.Parameter and torch.equal(frozen.up.weight, decoded(plain.up.weight))
    assert why in caplog.text and "keep decoded MX values" in caplog.text and "reward:up" in caplog.text
    told = {entry["layer"]: entry for entry in engine.releases.describe()["layers"]}
    assert (told["up"]["restored"], told["up"]["why_not_from_source"]) == ("decoded", why)
    frozen.up.weight.data.zero_()


def test_a_source_in_another_dtype_counts_if_the_weight_came_from_it(adopt: Any, frozen: TwoLayers) -> None:
    source = Memory(frozen)
    before = frozen.bfloat16().up.weight.detach().clone()
    engine = adopt(ALL_MXFP8, {"reward": frozen})
    engine.release(source)
    told = engine.releases.describe()["layers"][0]
    assert told["source"] == {"file": "memory", "tensor": "up.weight", "sha256": digest(source.stored["up.weight"])}
    engine.restore()
    assert torch.equal(frozen.up.weight, before) and frozen.up.weight.dtype == torch.bfloat16


def test_restoring_while_a_graph_is_alive_gives_an_ordinary_weight_all_the_same(
    adopt: Any, frozen: TwoLayers, x: torch.Tensor
) -> None:
    """As after an exception in the middle of a forward pass: frames keep the graph."""
    plain = copy.deepcopy(frozen)
    engine = adopt(ALL_MXFP8, {"policy": frozen})
    engine.release(Memory(frozen))
    leaf = x.clone().requires_grad_()
    y = frozen(leaf)
    engine.restore()
    assert type(frozen.up.weight) is nn.Parameter and torch.equal(frozen.up.weight, plain.up.weight)
    y.sum().backward()
    assert leaf.grad is not None
