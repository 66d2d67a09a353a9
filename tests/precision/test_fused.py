"""Which format each of vLLM's weights takes, where vLLM fuses layers and where it ties the head."""

from __future__ import annotations

import pytest
import torch

from mx_plugin.config import MXConfig
from mx_plugin.errors import PolicyError
from mx_plugin.precision import PolicyProvider, PrecisionPolicy
from mx_plugin.precision.fused import FusedLayer, Rounding, rollout_rounding, sibling_names, width
from mx_plugin.precision.provider_choice import make_provider

PACKED = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}
QKV = "model.layers.0.self_attn.qkv_proj"
DOWN = "model.layers.0.mlp.down_proj"


def layers(tied: bool = False) -> list[FusedLayer]:
    trunk = [FusedLayer(name, sibling_names(name, PACKED), 64, 64) for name in (QKV, DOWN)]
    return [*trunk, FusedLayer("lm_head", ("lm_head",), 64, 64, True, tied)]


def test_siblings_are_named_as_in_the_plain_model() -> None:
    assert sibling_names(QKV, PACKED) == tuple(f"model.layers.0.self_attn.{x}_proj" for x in "qkv")
    assert sibling_names(DOWN, PACKED) == (DOWN,)
    assert sibling_names("lm_head", PACKED) == ("lm_head",)


def test_the_policy_holds_where_nothing_is_fused() -> None:
    found = rollout_rounding(make_provider(MXConfig(policy="C")), layers())
    assert found == {QKV: Rounding("MXFP4"), DOWN: Rounding("MXFP4"), "lm_head": Rounding("MXFP8")}


def test_fused_siblings_share_the_widest_of_their_formats() -> None:
    rules = [{"layers": "*.k_proj", "format": "MXFP8", "phases": ["rollout"]}]
    policy = PrecisionPolicy.from_dict(
        {"version": 1, "name": "mine", "defaults": {"rollout": "MXFP4"}, "rules": rules, "scale_rule": "floor"}
    )
    found = rollout_rounding(PolicyProvider(policy), layers())
    assert found[QKV].format == "MXFP8" and found[QKV].scale_rule == "floor"
    assert found[QKV].projected == "q_proj MXFP4, k_proj MXFP8, v_proj MXFP4"
    assert found[DOWN] == Rounding("MXFP4", "floor")


def test_an_excluded_sibling_leaves_the_whole_group_unquantised() -> None:
    policy = PrecisionPolicy.from_dict(
        {"version": 1, "name": "mine", "defaults": {"rollout": "MXFP4"}, "exclude": ["*.v_proj"]}
    )
    found = rollout_rounding(PolicyProvider(policy), layers())
    assert not found[QKV].quantised and "v_proj FP16" in found[QKV].projected
    assert found[DOWN].quantised


def test_a_tied_head_keeps_its_dtype_and_says_so() -> None:
    found = rollout_rounding(make_provider(MXConfig(policy="C")), layers(tied=True))
    assert not found["lm_head"].quantised and "embedding" in found["lm_head"].projected
    plain = rollout_rounding(make_provider(MXConfig(policy="A")), layers(tied=True))
    assert plain["lm_head"].projected == ""


def test_a_policy_that_does_not_fit_vllms_layers_is_refused() -> None:
    rules = [{"layers": "*.w1", "format": "MXFP8", "phases": ["rollout"]}]
    policy = PrecisionPolicy.from_dict({"version": 1, "name": "mine", "rules": rules})
    with pytest.raises(PolicyError, match=r"\*\.w1"):
        rollout_rounding(PolicyProvider(policy), layers())


def test_widths_order_the_formats() -> None:
    assert width("MXFP4") < width("MXFP6") < width("MXFP8") == width("MXINT8") < width("FP16")


@pytest.mark.parametrize("fmt", ["MXFP4", "MXFP6", "MXFP8", "MXINT8"])
@pytest.mark.parametrize("rule", ["rceil", "floor", "even"])
def test_a_weight_that_is_rounded_again_stays_as_it_is(fmt: str, rule: str) -> None:
    """A fused weight is rounded once per sibling that is synced."""
    from mx_plugin.formats.cast import fake_quantize_

    weight = torch.randn(96, 144).to(torch.bfloat16)
    once = fake_quantize_(weight, fmt, -1, scale_rule=rule)
    assert not torch.equal(once, weight)
    assert torch.equal(fake_quantize_(once, fmt, -1, scale_rule=rule), once)
