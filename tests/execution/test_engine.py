"""The engine gives each layer the formats of its phase and role, and nothing else changes."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mx_plugin import fake_quantize, get_backend, quantize
from mx_plugin.errors import AdoptionError, PolicyError, UnhitLayersError

from .conftest import C_LIKE, TwoLayers

A_LIKE = {"defaults": {"rollout": "FP16", "reward": "FP16", "gradient": "FP16"}}


def mx_linear(x: torch.Tensor, layer: nn.Linear, weights: str, activations: str = "MXFP8") -> torch.Tensor:
    """The definition, from the public cast: q(X) q(W)^T + b."""
    w = quantize(layer.weight.detach(), weights, scale_rule="rceil").dequantize()
    return F.linear(fake_quantize(x, activations, scale_rule="rceil"), w, layer.bias)


def expected(model: TwoLayers, x: torch.Tensor, body: str | None, head: str | None) -> torch.Tensor:
    up, down, lm_head = model.up, model.down, model.lm_head
    plain = F.linear
    h = mx_linear(x, up, body) if body else plain(x, up.weight, up.bias)
    h = F.silu(h)
    y = x + (mx_linear(h, down, body) if body else plain(h, down.weight))
    return mx_linear(y, lm_head, head) if head else plain(y, lm_head.weight)


def test_each_phase_runs_in_its_own_formats(engines: Any, model: TwoLayers, x: torch.Tensor) -> None:
    engine = engines(C_LIKE, {"policy": model, "value": (value := TwoLayers())})
    with torch.no_grad():
        with engine.phase("rollout"):
            assert torch.equal(model(x), expected(model, x, "MXFP4", "MXFP8"))
        assert torch.equal(value(x), expected(value, x, "MXFP8", None))
        assert torch.equal(model(x), expected(model, x, None, None)), "scoring on the policy takes gradient formats"
    assert torch.equal(model(x), expected(model, x, None, None))


def test_policy_scoring_can_follow_the_rollout(engines: Any, model: TwoLayers, x: torch.Tensor) -> None:
    engines(C_LIKE, {"policy": model}, policy_scoring="rollout")
    with torch.no_grad():
        assert torch.equal(model(x), expected(model, x, "MXFP4", None)), "but never with a quantised lm_head"


@pytest.mark.parametrize(("reference", "body"), [("match", "MXFP4"), ("own", "MXFP8")])
def test_the_reference_matches_the_policys_log_probs(
    engines: Any, model: TwoLayers, x: torch.Tensor, reference: str, body: str
) -> None:
    frozen = copy.deepcopy(model)
    engines(C_LIKE, {"policy": model, "reference": frozen}, reference=reference, match_phase="rollout")
    with torch.no_grad():
        assert torch.equal(frozen(x), expected(frozen, x, body, None))


def test_all_fp16_is_bit_identical_in_forward_and_backward(engines: Any, model: TwoLayers, x: torch.Tensor) -> None:
    plain = copy.deepcopy(model)
    engine = engines(A_LIKE, {"policy": model})
    with engine.phase("rollout"), torch.no_grad():
        assert torch.equal(model(x), plain(x))
    model(x).square().sum().backward()
    plain(x).square().sum().backward()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


def test_restoring_leaves_no_trace(engines: Any, model: TwoLayers, x: torch.Tensor) -> None:
    before = copy.deepcopy(model)
    keys = [set(module.__dict__) for module in model.modules()]
    engine = engines(C_LIKE, {"policy": model})
    with engine.phase("rollout"), torch.no_grad():
        model(x)
    engine.restore()
    assert [type(module) for module in model.modules()] == [type(module) for module in before.modules()]
    assert [set(module.__dict__) for module in model.modules()] == keys
    with torch.no_grad():
        assert torch.equal(model(x), before(x))


def test_adopting_changes_no_parameter_name_and_no_isinstance(engines: Any, model: TwoLayers) -> None:
    names = list(model.state_dict())
    engines(C_LIKE, {"policy": model})
    assert list(model.state_dict()) == names
    assert isinstance(model.up, nn.Linear)


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_is_an_ordinary_model(engines: Any, model: TwoLayers, x: torch.Tensor, copy_of: Any) -> None:
    plain = copy.deepcopy(model)
    engine = engines(C_LIKE, {"policy": model})
    duplicate = copy_of(model)
    assert type(duplicate.up) is nn.Linear
    with engine.phase("rollout"), torch.no_grad():
        assert torch.equal(duplicate(x), plain(x))


def test_a_compiled_model_still_runs_in_its_formats(engines: Any, model: TwoLayers, x: torch.Tensor) -> None:
    engine = engines(C_LIKE, {"policy": model})
    compiled = torch.compile(model, backend="eager")
    with engine.phase("rollout"), torch.no_grad():
        assert torch.equal(compiled(x), expected(model, x, "MXFP4", "MXFP8"))
    with torch.no_grad():
        assert torch.equal(compiled(x), expected(model, x, None, None))


def test_an_accelerate_style_hook_does_not_bypass_the_formats(engines: Any, model: TwoLayers, x: torch.Tensor) -> None:
    """accelerate keeps the old bound forward in ``_old_forward`` and shadows ``forward``."""
    calls: list[int] = []
    up = model.up
    up._old_forward = up.forward

    def hooked(*args: Any) -> torch.Tensor:
        calls.append(1)
        return up._old_forward(*args)

    up.forward = hooked  # type: ignore[method-assign]
    engine = engines(C_LIKE, {"policy": model})
    with engine.phase("rollout"), torch.no_grad():
        assert torch.equal(up(x), mx_linear(x, up, "MXFP4"))
    engine.restore()
    with torch.no_grad():
        assert torch.equal(up(x), F.linear(x, up.weight, up.bias))
    assert len(calls) == 2


def test_two_engines_cannot_adopt_one_layer(engines: Any, model: TwoLayers) -> None:
    engines(C_LIKE, {"policy": model})
    with pytest.raises(AdoptionError, match="already adopted"):
        engines(C_LIKE, {"policy": model})


def test_a_model_without_linear_layers_is_refused(engines: Any) -> None:
    with pytest.raises(AdoptionError, match="no layer to adopt"):
        engines(A_LIKE, {"policy": nn.Sequential(nn.ReLU())})


def test_a_failed_adoption_leaves_the_model_alone(engines: Any, model: TwoLayers) -> None:
    with pytest.raises(Exception, match="nowhere"):
        engines({**A_LIKE, "rules": [{"layers": "nowhere.*", "format": "MXFP4"}]}, {"policy": model})
    assert type(model.up) is nn.Linear


def test_what_is_left_out_is_listed_with_its_reason(engines: Any) -> None:
    class Router(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList([nn.Linear(32, 32)])
            self.gate = nn.Linear(32, 1)

    class Odd(nn.Linear):
        pass

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.o_proj = nn.Linear(32, 32)

    class Fused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_up = nn.Parameter(torch.zeros(2, 32, 64))

    model = nn.ModuleDict(
        {
            "moe": Router(),
            "attn": Attention(),
            "fused": Fused(),
            "norm": nn.LayerNorm(32),
            "score": nn.Linear(32, 1),
            "odd": Odd(32, 32),
            "emb": nn.Embedding(4, 32),
        }
    )
    engine = engines(A_LIKE, {"reward": model})
    reasons = {item.name: item.reason for item in engine.left_out}
    assert reasons == {
        "moe.gate": "MoE router",
        "attn": "attention products and KV cache",
        "fused": "Fused holds weights of its own and is not a registered layer type",
        "norm": "norm",
        "score": "score or value head",
        "odd": "Odd, a subclass of Linear, is not a registered layer type",
        "emb": "embedding",
    }
    assert [layer.name for layer in engine.layers] == ["moe.experts.0", "attn.o_proj"]


def test_a_module_shared_by_two_roles_belongs_to_the_first(engines: Any, model: TwoLayers) -> None:
    engine = engines(A_LIKE, {"policy": model, "value": model})
    assert {layer.role for layer in engine.layers} == {"policy"}
    assert {item.reason for item in engine.left_out} == {"shared with role policy"}


# ---------------------------------------------------------------------------- hits


def test_a_layer_that_is_bypassed_in_a_phase_is_named(engines: Any, model: TwoLayers, x: torch.Tensor) -> None:
    engine = engines(C_LIKE, {"policy": model})
    with engine.phase("rollout"), torch.no_grad():
        model.up(x)
    with pytest.raises(UnhitLayersError, match=r"policy:down in rollout"):
        engine.check_hits()


def test_a_rollout_that_no_layer_saw_is_an_error(engines: Any, model: TwoLayers) -> None:
    engine = engines(C_LIKE, {"policy": model})
    with engine.phase("rollout"):
        pass
    with pytest.raises(UnhitLayersError, match="3 adopted layers"):
        engine.check_hits()


def test_layers_without_a_format_to_skip_are_not_missed(engines: Any, model: TwoLayers, x: torch.Tensor) -> None:
    engine = engines(C_LIKE, {"policy": model})
    with engine.phase("rollout"), torch.no_grad():
        model(x)
    model.down(model.up(x))  # a fused head: lm_head is not called in the gradient phase
    engine.check_hits()
    assert engine.hits()["policy"]["rollout"] == {"up": 1, "down": 1, "lm_head": 1}


def test_probing_is_no_hit_and_changes_no_route(engines: Any, model: TwoLayers, x: torch.Tensor) -> None:
    engine = engines(C_LIKE, {"policy": model})
    with torch.no_grad():
        with engine.probing(policy="rollout"):
            assert torch.equal(model(x), expected(model, x, "MXFP4", "MXFP8"))
        with engine.probing(policy="FP16"):
            assert torch.equal(model(x), expected(model, x, None, None))
        assert engine.hits() == {}
        with engine.phase("rollout"):
            assert torch.equal(model(x), expected(model, x, "MXFP4", "MXFP8"))


# ---------------------------------------------------------------------------- work


def test_work_is_booked_by_role_and_format_as_executed(engines: Any, model: TwoLayers, x: torch.Tensor) -> None:
    engine = engines(C_LIKE, {"policy": model})
    with engine.phase("rollout"), torch.no_grad():
        model(x)
        work = {(w.role, w.format): w for w in engine.collect() if w.macs}
    assert work["policy", "MXFP4/MXFP8"].macs == 5 * 2 * 64 * 48
    assert work["policy", "MXFP8/MXFP8"].macs == 5 * 64 * 10
    assert {w.dtype for w in work.values()} == {"float32"}
    assert engine.collect() == []


def test_backward_products_are_counted_when_they_happen(engines: Any, model: TwoLayers, x: torch.Tensor) -> None:
    engine = engines(A_LIKE, {"policy": model})
    y = model(x)
    forward = sum(w.macs for w in engine.collect())
    y.sum().backward()
    backward = sum(w.macs for w in engine.collect())
    assert forward == 5 * (2 * 64 * 48 + 64 * 10)
    assert backward == 2 * forward - 5 * 64 * 48, "the first layer's input needs no gradient"


def test_checkpointing_counts_the_recomputed_forward_but_backward_once(
    engines: Any, model: TwoLayers, x: torch.Tensor
) -> None:
    from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

    for gradient in ("FP16", "MXFP8"):
        engine = engines({"defaults": {"rollout": "FP16", "reward": "FP16", "gradient": gradient}}, {"policy": model})
        leaf = x.clone().requires_grad_()
        with set_checkpoint_early_stop(False):
            checkpoint(model, leaf, use_reentrant=False).sum().backward()
        once = 5 * (2 * 64 * 48 + 64 * 10)
        assert sum(w.macs for w in engine.collect()) == 2 * once + 2 * once
        engine.restore()


# ---------------------------------------------------------------------------- backends by layer


def test_a_backend_may_be_named_for_some_layers_by_a_pattern_or_a_prefix(engines: Any, model: TwoLayers) -> None:
    reference = get_backend("reference")
    x = torch.randn(2, 64)
    nested = nn.ModuleDict({"net": model})
    engine = engines(C_LIKE, {"policy": nested}, backends={"*.up": get_backend("reference"), "net": reference})
    with engine.phase("rollout"), torch.no_grad():
        model(x)
    assert reference.counters().linear_calls == 1 + 1  # down and lm_head: the first pattern took up


def test_a_pattern_for_a_backend_that_matches_no_layer_is_refused(engines: Any, model: TwoLayers) -> None:
    with pytest.raises(PolicyError, match=r"backends: 'upp' matches no adopted layer: did you mean 'up'\?"):
        engines(C_LIKE, {"policy": model}, backends={"upp": get_backend("reference")})
    assert type(model.up) is nn.Linear


def test_an_adoption_that_fails_half_way_is_taken_back(model: TwoLayers, monkeypatch: pytest.MonkeyPatch) -> None:
    from mx_plugin import get_backend
    from mx_plugin.execution.engine import Engine
    from mx_plugin.execution.layer import AdoptedLayer
    from mx_plugin.precision import PolicyProvider

    from .conftest import make_policy

    wear = AdoptedLayer.wear

    def wear_but_not_down(layer: AdoptedLayer) -> None:
        if layer.name == "down":
            raise RuntimeError("no")
        wear(layer)

    monkeypatch.setattr(AdoptedLayer, "wear", wear_but_not_down)
    engine = Engine(PolicyProvider(make_policy(**C_LIKE)), get_backend("reference"))
    with pytest.raises(RuntimeError, match="no"):
        engine.adopt({"policy": model})
    assert type(model.up) is nn.Linear


def test_a_layer_type_without_a_bias_parameter_runs_in_its_formats(x: torch.Tensor) -> None:
    from mx_plugin import get_backend
    from mx_plugin.execution.engine import Engine
    from mx_plugin.execution.layer_types import LayerType
    from mx_plugin.precision import PolicyProvider

    from .conftest import make_policy

    class Unbiased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(48, 64, generator=torch.Generator().manual_seed(2)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight.T

    model = nn.ModuleDict({"only": Unbiased()})
    engine = Engine(PolicyProvider(make_policy(**C_LIKE)), get_backend("reference"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mx_plugin.plugins.layer_types", lambda: [LayerType(Unbiased)])
        engine.adopt({"policy": model})
    with engine, engine.phase("rollout"), torch.no_grad():
        w = quantize(model["only"].weight.detach(), "MXFP4", scale_rule="rceil").dequantize()
        expected_y = fake_quantize(x, "MXFP8", scale_rule="rceil") @ w.T
        torch.testing.assert_close(model["only"](x), expected_y)


def test_a_reference_of_another_architecture_is_pointed_out(
    engines: Any, model: TwoLayers, caplog: pytest.LogCaptureFixture
) -> None:
    engines(C_LIKE, {"policy": model, "reference": nn.ModuleDict({"other": nn.Linear(64, 64)})})
    assert "1 reference layers (other, ...) have no namesake in the policy" in caplog.text
