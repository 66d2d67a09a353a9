"""A released weight reads as its decoded values, and whatever would write it is refused."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mx_plugin.errors import ReleasedWeightError

from .conftest import TwoLayers
from .releasing import ALL_MXFP8, Memory, decoded

# ---------------------------------------------------------------------------- reading


def test_reading_decodes_and_the_parameter_looks_as_before(adopt: Any, frozen: TwoLayers, x: torch.Tensor) -> None:
    plain = copy.deepcopy(frozen)
    engine = adopt(ALL_MXFP8, {"reward": frozen})
    names = [name for name, _ in frozen.named_parameters()]
    parameters = list(frozen.parameters())
    engine.release()
    weight, values = frozen.up.weight, decoded(plain.up.weight)
    assert [name for name, _ in frozen.named_parameters()] == names
    assert all(now is then for now, then in zip(frozen.parameters(), parameters, strict=True))
    assert isinstance(weight, nn.Parameter) and weight.is_leaf and not weight.requires_grad
    assert (weight.shape, weight.dtype, weight.device, weight.numel()) == (
        plain.up.weight.shape,
        torch.float32,
        torch.device("cpu"),
        64 * 48,
    )
    assert sum(p.numel() for p in frozen.parameters()) == sum(p.numel() for p in plain.parameters())
    assert torch.equal(weight, values) and torch.equal(weight.clone(), values) and torch.equal(weight.data, values)
    assert torch.equal(weight[3], values[3]) and weight.tolist() == values.tolist()
    assert (weight.detach().cpu().numpy() == values.numpy()).all()
    # Sums of whole numbers are exact; a library may add up in another order where memory is aligned otherwise.
    whole = x.round()
    assert torch.equal(whole @ weight.t(), whole @ values.t())
    assert torch.equal(F.linear(whole, weight), F.linear(whole, values))
    assert torch.equal(weight.to(torch.bfloat16), values.to(torch.bfloat16))
    assert "ReleasedWeight(reward:up" in repr(weight)
    frozen.requires_grad_(False)
    frozen.zero_grad()


def test_a_state_dict_holds_ordinary_decoded_tensors(adopt: Any, frozen: TwoLayers, tmp_path: Path) -> None:
    plain = copy.deepcopy(frozen)
    engine = adopt(ALL_MXFP8, {"reward": frozen})
    engine.release()
    state = frozen.state_dict()
    assert list(state) == list(plain.state_dict())
    assert {type(tensor) for tensor in state.values()} == {torch.Tensor}
    assert torch.equal(state["down.weight"], decoded(plain.down.weight))
    assert torch.equal(state["lm_head.weight"], plain.lm_head.weight)
    torch.save(state, tmp_path / "state.pt")
    assert torch.equal(torch.load(tmp_path / "state.pt")["up.weight"], decoded(plain.up.weight))


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_is_an_ordinary_model_of_decoded_weights(
    adopt: Any, frozen: TwoLayers, copy_of: Any, x: torch.Tensor
) -> None:
    plain = copy.deepcopy(frozen)
    engine = adopt(ALL_MXFP8, {"reward": frozen})
    engine.release()
    twin = copy_of(frozen)
    assert type(twin.up) is nn.Linear and type(twin.up.weight) is nn.Parameter
    assert torch.equal(twin.up.weight, decoded(plain.up.weight)) and not twin.up.weight.requires_grad
    twin.up.weight.data.add_(1.0)
    assert torch.equal(frozen.up.weight, decoded(plain.up.weight))


def test_a_layer_that_stores_its_weight_transposed_is_released_too(adopt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large enough for products to depend on how their operands lie in memory."""
    from mx_plugin.execution.layer_types import LayerType

    class Conv1D(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(1024, 768, generator=torch.Generator().manual_seed(2)))
            self.bias = nn.Parameter(torch.zeros(768))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.addmm(self.bias, x, self.weight)

    monkeypatch.setattr("mx_plugin.plugins.layer_types", lambda: [LayerType(Conv1D, transposed=True)])
    x = torch.randn(512, 1024, generator=torch.Generator().manual_seed(3)).bfloat16()
    results = []
    for release in (False, True):
        model = nn.ModuleDict({"only": Conv1D().bfloat16().requires_grad_(False)})
        stored = model["only"].weight.detach().clone()
        memory, engine = Memory(model), adopt(ALL_MXFP8, {"policy": model})
        if release:
            engine.release(memory)
            assert torch.equal(model["only"].weight, decoded(stored.t()).t())
            assert model["only"].weight.stride() == stored.stride()
            assert model.state_dict()["only.weight"].is_contiguous()
        with engine.phase("rollout"), torch.no_grad():
            rollout = model["only"](x)
        results.append((rollout, model["only"](x.clone().requires_grad_()).detach()))
        engine.restore()
    for before, after in zip(*results, strict=True):
        assert torch.equal(before, after)
    assert torch.equal(model["only"].weight, stored) and model["only"].weight.is_contiguous()


# ---------------------------------------------------------------------------- writing is refused


def _load(model: TwoLayers, **options: Any) -> None:
    model.load_state_dict({name: tensor + 1 for name, tensor in model.state_dict().items()}, **options)


WRITES: dict[str, Callable[[TwoLayers], Any]] = {
    "assign": lambda m: setattr(m.up, "weight", nn.Parameter(torch.zeros(48, 64))),
    "assign None": lambda m: setattr(m.up, "weight", None),
    "delete": lambda m: delattr(m.up, "weight"),
    "register": lambda m: m.up.register_parameter("weight", nn.Parameter(torch.zeros(48, 64))),
    "in place": lambda m: m.up.weight.add_(1.0),
    "in place on data": lambda m: m.up.weight.data.mul_(0.5),
    "in place on detach": lambda m: m.up.weight.detach().zero_(),
    "augmented data, as a merge does": lambda m: m.up.weight.data.__iadd__(torch.ones(48, 64)),
    "set data": lambda m: setattr(m.up.weight, "data", torch.zeros(48, 64)),
    "copy": lambda m: m.up.weight.copy_(torch.zeros(48, 64)),
    "item": lambda m: m.up.weight.__setitem__((0, 0), 1.0),
    "out": lambda m: torch.add(torch.ones(48, 64), 1.0, out=m.up.weight),
    "initialise": lambda m: nn.init.normal_(m.up.weight),
    "foreach": lambda m: torch._foreach_add_([m.up.weight], 1.0),
    "train": lambda m: m.requires_grad_(True),
    "half": lambda m: m.half(),
    "meta": lambda m: m.to("meta"),
    "pointer": lambda m: m.up.weight.data_ptr(),
    "load": _load,
    "load by assigning": lambda m: _load(m, assign=True),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_writing_is_refused_with_the_remedy(
    adopt: Any, frozen: TwoLayers, x: torch.Tensor, write: Callable[[TwoLayers], Any]
) -> None:
    engine = adopt(ALL_MXFP8, {"reward": frozen})
    engine.release()
    before = frozen.up.weight.clone()
    with torch.no_grad(), pytest.raises(RuntimeError, match=r"reward:(up|down)(.|\n)*release_frozen=False"):
        write(frozen)
    assert torch.equal(frozen.up.weight, before)


def test_conversions_that_change_nothing_are_no_writes(adopt: Any, frozen: TwoLayers) -> None:
    engine = adopt(ALL_MXFP8, {"reward": frozen})
    engine.release()
    weight = frozen.up.weight
    frozen.to("cpu").float().to(torch.float32)
    assert frozen.up.weight is weight and list(frozen.up._parameters) == ["weight", "bias"]


def test_a_parameter_put_in_behind_the_modules_back_is_noticed(
    adopt: Any, frozen: TwoLayers, x: torch.Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    engine = adopt(ALL_MXFP8, {"reward": frozen})
    engine.release()
    other = nn.Parameter(torch.zeros(48, 64), requires_grad=False)
    frozen.up._parameters["weight"] = other
    with torch.no_grad(), pytest.raises(ReleasedWeightError, match="behind its back"):
        frozen(x)
    engine.restore()
    assert frozen.up.weight is other and "reward:up was replaced" in caplog.text


def test_pruning_a_released_layer_is_noticed(adopt: Any, frozen: TwoLayers, x: torch.Tensor) -> None:
    from torch.nn.utils import prune

    engine = adopt(ALL_MXFP8, {"reward": frozen})
    engine.release()
    prune.l1_unstructured(frozen.up, "weight", 0.5)
    with torch.no_grad(), pytest.raises(ReleasedWeightError, match="behind its back"):
        frozen(x)
    engine.restore()
    assert "weight_orig" in frozen.up._parameters


def test_a_compiled_model_runs_released_layers_as_before(adopt: Any, frozen: TwoLayers, x: torch.Tensor) -> None:
    engine = adopt(ALL_MXFP8, {"policy": frozen})
    compiled = torch.compile(frozen, backend="eager")
    leaf = x.clone().requires_grad_()
    with engine.phase("rollout"), torch.no_grad():
        before = compiled(x)
    trained = compiled(leaf).detach()
    engine.release()
    assert len(engine.releases.done) == 2
    with engine.phase("rollout"), torch.no_grad():
        assert torch.equal(compiled(x), before)
    assert torch.equal(compiled(leaf), trained)
    torch._dynamo.reset()
