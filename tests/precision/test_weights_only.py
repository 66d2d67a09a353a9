"""A run's provider where the policy rolls out in an engine that holds rounded weights and fuses layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from mx_plugin.errors import PolicyError
from mx_plugin.interfaces import LayerInfo, Provider
from mx_plugin.precision import LayerFormats, PolicyProvider, PrecisionPolicy
from mx_plugin.precision.weights_only import WeightsOnlyRollouts

PACKED = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}
NAMES = [f"model.layers.{i}.self_attn.{x}_proj" for i in (0, 1) for x in "qkvo"]
LAYERS = [
    *(LayerInfo(name, role, 64, 64) for role in ("policy", "reference") for name in NAMES),
    LayerInfo("lm_head", "policy", 64, 100, is_lm_head=True),
]
POLICY = {
    "version": 1,
    "name": "mine",
    "defaults": {"rollout": "MXFP4", "reward": "MXFP8", "gradient": "MXFP8"},
    "lm_head": {"rollout": "MXFP8"},
    "rules": [{"layers": "*.0.self_attn.k_proj", "format": "MXFP6", "phases": ["rollout"]}],
    "scale_rule": "floor",
}


def started(tied_head: bool = False, inner: Provider | None = None) -> WeightsOnlyRollouts:
    provider = WeightsOnlyRollouts(inner or PolicyProvider(PrecisionPolicy.from_dict(POLICY)), PACKED, tied_head)
    provider.start(LAYERS)
    return provider


def test_activations_that_the_engine_casts_by_itself_are_told() -> None:
    provider = started()
    provider.activations = {NAMES[0]: "MXFP8"}
    assert str(provider.get_precision(NAMES[0], "rollout").forward) == "MXFP6/MXFP8"
    assert str(provider.get_precision(NAMES[3], "rollout").forward) == "MXFP4/FP16"
    assert provider.siblings(NAMES[1]) == tuple(NAMES[:3])


@pytest.mark.parametrize("phase", ["rollout", "eval/rollout"])
def test_the_policy_rolls_out_with_rounded_weights_and_unquantised_activations(phase: str) -> None:
    formats = started().get_precision("model.layers.1.self_attn.q_proj", phase)
    assert str(formats.forward) == "MXFP4/FP16" and formats.forward.scale_rule == "floor"
    assert not formats.dgrad.pair.quantised and not formats.wgrad.pair.quantised


def test_every_other_phase_and_role_is_the_inner_providers() -> None:
    provider = started()
    for name in NAMES:
        for phase, role in (("reward", "policy"), ("gradient", "policy"), ("rollout", "reference")):
            assert provider.get_precision(name, phase, role) == provider.inner.get_precision(name, phase, role)


def test_fused_siblings_share_the_widest_of_their_formats_and_that_is_told() -> None:
    provider = started()
    found = {name: provider.get_precision(name, "rollout").weights for name in NAMES}
    assert [found[name] for name in NAMES[:3]] == ["MXFP6"] * 3
    assert {found[name] for name in NAMES[3:]} == {"MXFP4"}
    held = provider.by_module()
    assert list(held["projected"]) == ["model.layers.0.self_attn.qkv_proj"]
    assert held["projected"]["model.layers.0.self_attn.qkv_proj"].startswith("q_proj MXFP4, k_proj MXFP6")
    assert held["siblings"]["model.layers.0.self_attn.qkv_proj"] == NAMES[:3]
    assert held["formats"]["model.layers.1.self_attn.o_proj"] == "MXFP4"


def test_a_tied_head_keeps_its_dtype_and_another_does_not() -> None:
    assert started().get_precision("lm_head", "rollout") == "MXFP8/FP16"
    tied = started(tied_head=True)
    assert tied.get_precision("lm_head", "rollout") == "FP16"
    assert "embedding" in tied.by_module()["projected"]["lm_head"]


def test_a_prefix_has_the_answer_that_all_layers_below_it_share() -> None:
    provider = started()
    assert provider.get_precision("model.layers.1", "rollout") == "MXFP4/FP16"
    with pytest.raises(PolicyError, match="differ in rollout"):
        provider.get_precision("model.layers", "rollout")
    with pytest.raises(PolicyError, match="no policy layer"):
        provider.get_precision("model.norm", "rollout")


class Changing(Provider):
    """Adaptive, with a state."""

    def __init__(self) -> None:
        self.format = "MXFP4"

    def get_precision(self, layer_name: str, phase: str, role: str = "policy") -> LayerFormats:
        policy = {"version": 1, "name": "x", "defaults": {"rollout": self.format}}
        return PrecisionPolicy.from_dict(policy).resolve(layer_name, "rollout", role)

    def observe(self, step: int, metrics: Mapping[str, float]) -> bool:
        self.format = "MXFP8"
        return True

    def state_dict(self) -> Mapping[str, str]:
        return {"format": self.format}

    def load_state_dict(self, state: Mapping[str, str]) -> None:
        self.format = state["format"]


def test_a_provider_that_changes_its_mind_is_followed_and_keeps_its_state() -> None:
    inner = Changing()
    provider = started(inner=inner)
    assert provider.get_precision(NAMES[0], "rollout") == "MXFP4/FP16"
    assert provider.observe(1, {}) and provider.rounding(NAMES[0]).format == "MXFP8"
    assert provider.state_dict() == {"format": "MXFP8"}  # type: ignore[attr-defined]
    provider.load_state_dict({"format": "MXFP4"})  # type: ignore[attr-defined]
    assert provider.rounding(NAMES[0]).format == "MXFP4"
    assert not hasattr(started(), "state_dict")


def test_a_policy_that_does_not_fit_is_refused_as_without_vllm() -> None:
    wrong: Sequence[LayerInfo] = [LayerInfo("model.w1", "policy", 64, 64)]
    with pytest.raises(PolicyError, match="k_proj"):
        WeightsOnlyRollouts(PolicyProvider(PrecisionPolicy.from_dict(POLICY)), PACKED).start(wrong)
