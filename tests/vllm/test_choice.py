"""Which layers a vLLM executes in an MX format of its own, and how it is told so before it is made."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn
from transformers.pytorch_utils import Conv1D

from mx_plugin.config import MXConfig
from mx_plugin.errors import PolicyError
from mx_plugin.execution.held_weights import OwnFormat
from mx_plugin.interfaces import LayerInfo, Provider
from mx_plugin.precision import PolicyProvider, PrecisionPolicy
from mx_plugin.precision.weights_only import WeightsOnlyRollouts
from mx_vllm import choice as room
from mx_vllm.choice import OwnChoice, choose, own_choice
from mx_vllm.kernels import ACTIVATIONS, METHODS, VLLM_NAMES, executed_here

MARLIN = OwnFormat("MXFP8", "FP16", "MarlinMxfp8LinearKernel")
BLACKWELL = OwnFormat("MXFP8", "MXFP8", "FlashInferCutlassMxfp8LinearKernel")
FOUR = OwnFormat("MXFP4", "MXFP4", "FlashInferMxFp4LinearKernel")
FOUR_MARLIN = OwnFormat("MXFP4", "FP16", "MarlinMxFp4LinearKernel")

PACKED = {"qkv_proj": ["q_proj", "k_proj", "v_proj"]}
ATTENTION = [f"layers.0.{x}_proj" for x in "qkvo"]
LAYERS = [
    *(LayerInfo(name, "policy", 128, 128) for name in ATTENTION),
    LayerInfo("layers.0.down_proj", "policy", 144, 128),
    LayerInfo("lm_head", "policy", 128, 256, is_lm_head=True),
]


class Adaptive(PolicyProvider):
    def observe(self, step: int, metrics: Mapping[str, float]) -> bool:
        return False


PLAIN: dict[str, Any] = {
    "version": 1,
    "name": "mine",
    "defaults": {"rollout": "MXFP8", "reward": "FP16", "gradient": "FP16"},
}


def chosen(*executed: OwnFormat, provider: type[PolicyProvider] = PolicyProvider, **policy: Any) -> OwnChoice | None:
    inner: Provider = provider(PrecisionPolicy.from_dict(PLAIN | policy))
    rollouts = WeightsOnlyRollouts(inner, PACKED)
    rollouts.start(LAYERS)
    return choose(rollouts, LAYERS, executed)


def rule(layers: str, fmt: str) -> dict[str, Any]:
    return {"rules": [{"layers": layers, "format": fmt, "phases": ["rollout"]}]}


def test_layers_in_whole_blocks_are_executed_and_the_head_never_is() -> None:
    found = chosen(MARLIN, lm_head={"rollout": "MXFP8"})
    assert found == OwnChoice(MARLIN, tuple(ATTENTION))


@pytest.mark.parametrize(("own", "fits"), [(MARLIN, True), (BLACKWELL, False)])
def test_a_kernel_that_casts_activations_must_cast_them_as_the_policy_does(own: OwnFormat, fits: bool) -> None:
    """One that leaves them alone computes what rounded weights do."""
    assert (chosen(own, **rule("*", "MXFP8/MXFP6")) is not None) == fits
    assert chosen(own, **rule("*", "MXFP8/MXFP8")) is not None


def test_a_kernel_that_casts_activations_by_another_rule_or_to_shapes_it_does_not_take_is_not_used() -> None:
    assert chosen(BLACKWELL, scale_rule="floor") is None and chosen(MARLIN, scale_rule="floor") is not None
    four = {"defaults": {"rollout": "MXFP4/MXFP4", "reward": "FP16", "gradient": "FP16"}}
    assert chosen(FOUR, **four) is None, "by which rule it casts is not known"
    assert chosen(FOUR_MARLIN, **four) is not None
    narrow = [LayerInfo("o_proj", "policy", 96, 128)]
    rollouts = WeightsOnlyRollouts(PolicyProvider(PrecisionPolicy.from_dict(PLAIN)), {})
    rollouts.start(narrow)
    assert choose(rollouts, narrow, [BLACKWELL]) is None and choose(rollouts, narrow, [MARLIN]) is not None


def test_fused_layers_are_executed_together_or_not_at_all() -> None:
    """k is wider: the three share its format, and so its fate."""
    policy = {"defaults": {"rollout": "MXFP4", "reward": "FP16", "gradient": "FP16"}}
    found = chosen(FOUR_MARLIN, **policy, **rule("*.k_proj", "MXFP8"))
    assert found is not None and found.layers == ("layers.0.o_proj",)
    found = chosen(BLACKWELL, **rule("*.q_proj", "MXFP8/MXFP6"))
    assert found is not None and found.layers == ("layers.0.o_proj",)


def test_of_two_formats_the_one_of_most_weights_is_taken() -> None:
    found = chosen(MARLIN, FOUR_MARLIN, **rule("*.o_proj", "MXFP4"))
    assert found is not None and found.own == MARLIN and "layers.0.o_proj" not in found.layers
    found = chosen(MARLIN, FOUR_MARLIN, **rule("*.[qkv]_proj", "MXFP4"))
    assert found is not None and found.own == FOUR_MARLIN and len(found.layers) == 3


@pytest.mark.parametrize(
    "policy",
    [
        {"defaults": {"rollout": "FP16", "reward": "FP16", "gradient": "FP16"}},
        {"defaults": {"rollout": "MXFP6", "reward": "FP16", "gradient": "FP16"}},
        {"defaults": {"rollout": "MXFP8_E5M2", "reward": "FP16", "gradient": "FP16"}},
        {"provider": Adaptive},
    ],
    ids=["unquantised", "MXFP6", "E5M2", "adaptive"],
)
def test_what_vllm_does_not_do_is_left_to_rounding(policy: dict[str, Any]) -> None:
    assert chosen(MARLIN, FOUR, **policy) is None


def test_vllm_is_told_to_ignore_all_but_the_chosen_layers() -> None:
    arguments = OwnChoice(MARLIN, ("layers.0.o_proj", "layers.1.o_proj")).engine_arguments()
    assert arguments["quantization"] == "online" and arguments["quantization_config"]["linear"] == "mxfp8"
    (ignored,) = arguments["quantization_config"]["ignore"]
    assert ignored.startswith("re:")
    names = [
        "layers.0.o_proj",
        "layers.10.o_proj",
        "layers.0.o_proj.x",
        "layersx0.o_proj",
        "layers.1.o_proj",
        "visual.o",
    ]
    assert [name for name in names if not re.match(ignored[3:], name)] == ["layers.0.o_proj", "layers.1.o_proj"]


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.o_proj = nn.Linear(64, 64)
        self.c_proj = Conv1D(64, 64)
        """Its weight is transposed: blocks of what is sent would run along outputs."""


def test_the_option_leaves_vllm_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "executed_here", lambda: [MARLIN])
    assert own_choice(Model, MXConfig(policy="C8")) == OwnChoice(MARLIN, ("o_proj",))
    assert own_choice(Model, MXConfig(policy="C8", vllm_formats="rounded")) is None
    with pytest.raises(PolicyError, match="vllm_formats='own' is not a choice"):
        MXConfig(vllm_formats="own")


class Renamed:
    """vLLM's class of a model with images."""

    @staticmethod
    def apply_dict(values: dict[str, Any]) -> dict[str, Any]:
        return {f"language_model.{name}": value for name, value in values.items()}

    hf_to_vllm_mapper = SimpleNamespace(apply_dict=apply_dict)


def test_layers_are_named_to_vllm_as_it_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "executed_here", lambda: [MARLIN])
    monkeypatch.setattr(room, "class_in_vllm", lambda _: Renamed)
    found = own_choice(Model, MXConfig(policy="C8"))
    assert found is not None and found.layers == ("language_model.o_proj",)


def test_every_kernel_is_one_of_a_format_that_vllm_is_asked_for() -> None:
    assert set(ACTIVATIONS.values()) == {"MXFP8", "MXFP4", "FP16"} and set(METHODS.values()) == set(VLLM_NAMES)


def test_without_vllm_nothing_is_executed_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    assert executed_here() == []
