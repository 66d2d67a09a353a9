"""Frozen layers give up their full-precision weight, and nothing but memory and dgrad changes."""

from __future__ import annotations

import copy
import logging
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from mx_plugin import fake_quantize, get_backend, quantize
from mx_plugin.errors import ReleasedWeightError
from mx_plugin.execution.engine import Engine
from mx_plugin.execution.layer import AdoptedLayer
from mx_plugin.execution.weight_source import digest
from mx_plugin.precision import PolicyProvider

from .conftest import TwoLayers, make_policy

ALL_MXFP8 = {"defaults": {"rollout": "MXFP8", "reward": "MXFP8", "gradient": "MXFP8"}}
C_LIKE = {"defaults": {"rollout": "MXFP4", "reward": "MXFP8", "gradient": "FP16"}}


class Memory:
    """A source of weights that stands in for files: what was there when it was made, unless someone changes it."""

    def __init__(self, model: nn.Module) -> None:
        self.stored = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        self.broken = False

    def __call__(self, layer: AdoptedLayer) -> Any:
        return _Entry(self, f"{layer.name}.weight")


class _Entry:
    def __init__(self, memory: Memory, name: str) -> None:
        self.memory, self.name = memory, name

    def read(self) -> torch.Tensor:
        if self.memory.broken:
            raise OSError("the disk is gone")
        return self.memory.stored[self.name]

    def describe(self) -> dict[str, str]:
        return {"file": "memory", "tensor": self.name}


@pytest.fixture(params=["cpu", "reference"])
def adopt(request: pytest.FixtureRequest) -> Iterator[Callable[..., Engine]]:
    """``adopt(policy_mapping, {role: model}, **options)``, on either backend."""
    made: list[Engine] = []

    def make(policy: Any, roots: Any, **options: Any) -> Engine:
        engine = Engine(PolicyProvider(make_policy(**policy)), get_backend(request.param), **options)
        engine.adopt(roots)
        made.append(engine)
        return engine

    yield make
    for engine in made:
        engine.restore()


@pytest.fixture
def frozen(model: TwoLayers) -> TwoLayers:
    return model.requires_grad_(False)


def decoded(weight: torch.Tensor, fmt: str = "MXFP8") -> torch.Tensor:
    """The definition: what the weight is worth once packed, blocked along ``in``."""
    return quantize(weight, fmt, scale_rule="rceil").dequantize()


def reasons(engine: Engine) -> dict[str, str]:
    return {f"{item.role}:{item.name}": item.reason for item in engine.releases.kept}


def released(engine: Engine) -> set[str]:
    return {f"{release.layer.role}:{release.layer.name}" for release in engine.releases.done}


# ---------------------------------------------------------------------------- which layers qualify


def test_frozen_layers_of_one_format_are_released_and_the_others_say_why_not(
    adopt: Any, model: TwoLayers, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    reward = copy.deepcopy(model).requires_grad_(False)
    engine = adopt(ALL_MXFP8, {"policy": model, "reward": reward})
    engine.release()
    assert released(engine) == {"reward:up", "reward:down"}
    assert reasons(engine) == {
        "policy:up": "its weight is trained",
        "policy:down": "its weight is trained",
        "policy:lm_head": "its weight is trained",
        "reward:lm_head": "its weight is not quantised in reward",
    }
    assert "2 layers gave up" in caplog.text and "3 because its weight is trained: policy:up" in caplog.text


def test_a_policy_that_quantises_nothing_releases_nothing_and_says_so(
    adopt: Any, frozen: TwoLayers, caplog: pytest.LogCaptureFixture
) -> None:
    engine = adopt({"defaults": {"rollout": "FP16", "reward": "FP16", "gradient": "FP16"}}, {"reward": frozen})
    engine.release()
    assert not engine.releases.done and type(frozen.up.weight) is nn.Parameter
    assert "released no layer" in caplog.text and "not quantised in reward" in caplog.text


BOTH = "MXFP8/MXFP8"
FLOOR = {"format": BOTH, "scale_rule": "floor"}
TURNED = {"format": BOTH, "hadamard": True}


@pytest.mark.parametrize(
    ("rollout", "gradient", "reason"),
    [
        ("MXFP8", "FP16", "its weight is not quantised in reward"),
        (
            "MXFP8",
            {"forward": {"format": BOTH, "rounding": "stochastic"}, "dgrad": BOTH, "wgrad": BOTH},
            "its weight is rounded by stochastic rounding in gradient",
        ),
        ("MXFP8", "MXFP6", "its weight's format differs: MXFP8 (rceil) in rollout, MXFP6 (rceil) in reward"),
        (
            "MXFP8",
            {"forward": FLOOR, "dgrad": BOTH, "wgrad": BOTH},
            "its weight's format differs: MXFP8 (rceil) in rollout, MXFP8 (floor) in reward",
        ),
        (
            "MXFP8",
            {"forward": BOTH, "dgrad": "MXFP6/MXFP8", "wgrad": BOTH},
            "dgrad casts it to MXFP6, the forward product to MXFP8, in gradient",
        ),
        (
            "MXFP8",
            {"forward": TURNED, "dgrad": BOTH, "wgrad": BOTH},
            "its weight is cast under a Hadamard transform in gradient",
        ),
    ],
)
def test_a_frozen_base_layer_needs_one_format_in_all_phases(
    adopt: Any, frozen: TwoLayers, rollout: str, gradient: Any, reason: str
) -> None:
    engine = adopt({"defaults": {"rollout": rollout, "reward": "MXFP8", "gradient": gradient}}, {"policy": frozen})
    engine.release()
    assert reasons(engine)["policy:down"] == reason
    assert not engine.releases.done


def test_models_that_nothing_trains_run_in_reward_only(adopt: Any, frozen: TwoLayers) -> None:
    policy = TwoLayers()
    engine = adopt(C_LIKE, {"policy": policy, "reference": frozen}, match_phase="rollout")
    engine.release()
    assert released(engine) == {"reference:up", "reference:down"}
    assert {release.weights for release in engine.releases.done} == {"MXFP4"}


def test_a_role_declared_frozen_is_released_although_its_parameters_say_they_need_gradients(
    adopt: Any, model: TwoLayers
) -> None:
    engine = adopt(ALL_MXFP8, {"reward": model})
    engine.release(frozen_roles={"reward"})
    assert released(engine) == {"reward:up", "reward:down"}
    assert not model.up.weight.requires_grad
    engine.restore()
    assert model.up.weight.requires_grad and model.down.weight.requires_grad


def test_tied_and_shared_weights_are_never_released(adopt: Any) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(48, 64)
            self.tied = nn.Linear(64, 48, bias=False)
            self.tied.weight = self.embedding.weight
            self.first, self.second = nn.Linear(64, 32), nn.Linear(64, 32)
            self.second.weight.data = self.first.weight.data
            self.part = nn.Linear(64, 32, bias=False)
            self.part.weight.data = torch.randn(64, 64)[:32]
            self.alone = nn.Linear(64, 32)

    model, other = Tied().requires_grad_(False), nn.ModuleDict()
    other["of_two_roles"] = nn.Linear(64, 32).requires_grad_(False)
    model.of_two_roles = other["of_two_roles"]
    engine = adopt(ALL_MXFP8, {"reward": model, "reference": other})
    engine.release()
    assert released(engine) == {"reward:alone"}
    assert reasons(engine) == {
        "reward:tied": "its weight is shared with reward:embedding.weight",
        "reward:first": "its weight is shared with reward:second.weight",
        "reward:second": "its weight is shared with reward:first.weight",
        "reward:part": "its weight is a part of larger memory",
        "reward:of_two_roles": "its weight is shared with the roles reference and reward",
    }


def test_managed_hooked_and_withheld_parameters_are_never_released(adopt: Any) -> None:
    model = nn.ModuleDict({name: nn.Linear(64, 32) for name in ("hooked", "subclass", "held", "wide", "graph")})
    model["hooked"]._hf_hook = object()
    model["subclass"].weight = type("Sharded", (nn.Parameter,), {})(torch.randn(32, 64))
    model["wide"].to(torch.float64)
    graph = model["graph"].weight.square().sum()
    engine = adopt(ALL_MXFP8, {"reward": model})
    engine.release(frozen_roles={"reward"}, withheld={id(model["held"].weight): "the optimiser holds its weight"})
    found = reasons(engine)
    assert found == {
        "reward:hooked": "an accelerate hook manages its weight",
        "reward:subclass": "its weight is a Sharded that something else manages",
        "reward:held": "the optimiser holds its weight",
        "reward:wide": "its weight is torch.float64 on cpu",
        "reward:graph": "something else refers to its weight, e.g. a graph that waits for its backward",
    }
    torch.autograd.backward(graph)
    assert torch.equal(model["graph"].weight.grad, 2 * model["graph"].weight)


# ---------------------------------------------------------------------------- what is executed


def test_a_released_model_scores_bit_for_bit_as_before(adopt: Any, frozen: TwoLayers, x: torch.Tensor) -> None:
    engine = adopt(ALL_MXFP8, {"reward": frozen})
    with torch.no_grad():
        before = frozen(x)
        engine.release()
        assert torch.equal(frozen(x), before)
        engine.phase("eval")
        assert engine.hits()["reward"]["reward"] == {"up": 2, "down": 2, "lm_head": 2}


class LoRA(nn.Module):
    """A frozen base layer beside a trainable low-rank path."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.lora_A = nn.Linear(base.in_features, 4, bias=False)
        self.lora_B = nn.Linear(4, base.out_features, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x) + self.lora_B(self.lora_A(x))


def with_lora() -> TwoLayers:
    torch.manual_seed(0)
    model = TwoLayers()
    model.up, model.down = LoRA(model.up), LoRA(model.down)
    model.lm_head.requires_grad_(False)
    return model


DGRAD_FP16 = {
    "defaults": {
        "rollout": "MXFP8",
        "reward": "MXFP8",
        "gradient": {"forward": BOTH, "dgrad": "FP16/MXFP8", "wgrad": BOTH},
    }
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("policy", [ALL_MXFP8, DGRAD_FP16], ids=["dgrad MXFP8", "dgrad FP16"])
def test_one_packed_copy_serves_rollout_and_the_forward_of_gradient(
    adopt: Any, x: torch.Tensor, policy: Any, dtype: torch.dtype
) -> None:
    results = []
    for release in (False, True):
        model = with_lora().to(dtype)
        engine = adopt(policy, {"policy": model})
        if release:
            engine.release()
            assert released(engine) == {"policy:up", "policy:down"}
        with engine.phase("rollout"), torch.no_grad():
            rollout = model(x.to(dtype))
        with torch.no_grad():
            scored = model(x.to(dtype))
        leaf = x.to(dtype).requires_grad_()
        results.append((rollout, scored, model(leaf), model(x.to(dtype))))
        if release:
            assert engine.backend.counters().weights_loaded == 2, "no second copy"
        engine.restore()
    for before, after in zip(*results, strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize("policy", [ALL_MXFP8, DGRAD_FP16], ids=["dgrad MXFP8", "dgrad FP16"])
def test_dgrad_takes_the_decoded_forward_weight(adopt: Any, x: torch.Tensor, policy: Any) -> None:
    layer = nn.Linear(64, 48).requires_grad_(False)
    weight = layer.weight.detach().clone()
    engine = adopt(policy, {"policy": nn.ModuleDict({"only": layer, "adapter": nn.Bilinear(2, 2, 2)})})
    engine.release()
    leaf = x.clone().requires_grad_()
    dy = torch.randn(5, 48, generator=torch.Generator().manual_seed(3))
    layer(leaf).backward(dy)
    dx = fake_quantize(dy, "MXFP8", scale_rule="rceil") @ decoded(weight)
    torch.testing.assert_close(leaf.grad, dx)
    other = fake_quantize(dy, "MXFP8", scale_rule="rceil") @ weight
    assert float((leaf.grad - other).abs().max()) > 1e-3, "else this proves nothing"


def test_stochastic_rounding_and_hadamard_of_dgrad_apply_to_dy_without_bias(adopt: Any, x: torch.Tensor) -> None:
    gradient = {
        "forward": BOTH,
        "dgrad": {"format": "MXFP8/MXFP4", "rounding": "stochastic", "scale_rule": "floor", "hadamard": True},
        "wgrad": BOTH,
    }
    layer = nn.Linear(64, 64, bias=False).requires_grad_(False)
    weight = layer.weight.detach().clone()
    policy = {"defaults": {"rollout": "MXFP8", "reward": "MXFP8", "gradient": gradient}}
    engine = adopt(policy, {"policy": nn.ModuleDict({"only": layer})})
    engine.release()
    dy = torch.randn(5, 64, generator=torch.Generator().manual_seed(3))
    total = torch.zeros(5, 64)
    draws = 400
    for step in range(draws):
        engine.advance(step)
        leaf = x.clone().requires_grad_()
        layer(leaf).backward(dy)
        total += leaf.grad
    exact = dy @ decoded(weight)
    assert float((total / draws - exact).norm() / exact.norm()) < 0.02


def test_under_checkpointing_and_autocast_a_released_layer_computes_what_it_did(adopt: Any, x: torch.Tensor) -> None:
    from torch.utils.checkpoint import checkpoint

    results = []
    for release in (False, True):
        model = with_lora()
        engine = adopt(ALL_MXFP8, {"policy": model})
        if release:
            engine.release()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = checkpoint(model, x.clone().requires_grad_(), use_reentrant=False)
        y.float().sum().backward()
        results.append((y, model.up.lora_B.weight.grad, model.down.lora_A.weight.grad))
        engine.restore()
    assert torch.equal(results[0][0], results[1][0])
    for before, after in zip(results[0][1:], results[1][1:], strict=True):
        torch.testing.assert_close(after, before, rtol=0.1, atol=0.05)  # dgrad differs, as documented


def test_work_of_a_released_layer_is_booked_without_casts_of_its_weight(adopt: Any, x: torch.Tensor) -> None:
    layer = nn.Linear(64, 32, bias=False).requires_grad_(False)
    engine = adopt(ALL_MXFP8, {"policy": nn.ModuleDict({"only": layer})})
    engine.release()
    engine.collect()
    layer(x.clone().requires_grad_()).sum().backward()
    (work,) = engine.collect()
    assert (work.format, work.macs) == ("MXFP8/MXFP8", 2 * 5 * 64 * 32)
    assert work.cast_elements == 5 * 64 + 5 * 32


def test_a_phase_that_would_need_the_released_weight_raises(adopt: Any, frozen: TwoLayers, x: torch.Tensor) -> None:
    engine = adopt(C_LIKE, {"reward": frozen})
    engine.release()
    with pytest.raises(ReleasedWeightError, match=r"reward:up was released as MXFP8 .* executes in gradient"):
        frozen(x)
    with torch.no_grad(), engine.phase("rollout"), pytest.raises(ReleasedWeightError, match=r"MXFP4 .rceil"):
        frozen(x)
    with torch.no_grad():
        frozen(x)


def test_layers_whose_formats_the_provider_changes_get_their_weight_back(
    adopt: Any, frozen: TwoLayers, x: torch.Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    plain = copy.deepcopy(frozen)
    engine = adopt(ALL_MXFP8, {"reward": frozen})
    engine.release(Memory(frozen))
    engine.provider.observe = lambda step, metrics: True
    engine.observe(1, {})
    assert not engine.releases.done[0].restored
    engine.provider = PolicyProvider(make_policy(**C_LIKE, roles={"reward": {"reward": "MXFP6"}}))
    engine.provider.start([layer.info for layer in engine.layers])
    engine.provider.observe = lambda step, metrics: True
    engine.observe(2, {})
    assert torch.equal(frozen.up.weight, plain.up.weight) and "reward:up is not released any more" in caplog.text
    with torch.no_grad():
        up = F.linear(fake_quantize(x, "MXFP8", scale_rule="rceil"), decoded(plain.up.weight, "MXFP6"), plain.up.bias)
        torch.testing.assert_close(frozen.up(x), up)


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
    assert torch.equal(x @ weight.t(), x @ values.t())
    assert torch.equal(F.linear(x, weight, frozen.up.bias), F.linear(x, values, plain.up.bias))
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


def test_a_layer_that_stores_its_weight_transposed_is_released_too(
    adopt: Any, x: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mx_plugin.execution.layer_types import LayerType

    class Conv1D(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(64, 48, generator=torch.Generator().manual_seed(2)))
            self.bias = nn.Parameter(torch.zeros(48))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.addmm(self.bias, x, self.weight)

    monkeypatch.setattr("mx_plugin.plugins.layer_types", lambda: [LayerType(Conv1D, transposed=True)])
    model = nn.ModuleDict({"only": Conv1D().requires_grad_(False)})
    stored = model["only"].weight.detach().clone()
    results = []
    for release in (False, True):
        memory, engine = Memory(model), adopt(ALL_MXFP8, {"policy": model})
        if release:
            engine.release(memory)
            assert torch.equal(model["only"].weight, decoded(stored.t()).t())
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
