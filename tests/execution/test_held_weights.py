"""Weights that an inference engine holds: described, rounded in place, and looked at."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import nn

from mx_plugin.execution.held_weights import HeldWeights, ModuleKinds, OwnFormat, rounded
from mx_plugin.precision.fused import Rounding


class UnquantizedLinearMethod:
    pass


class PackedMethod:
    pass


class EngineLinear(nn.Module):
    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, dtype=torch.bfloat16), requires_grad=False)
        self.quant_method: object = UnquantizedLinearMethod()


class RowLinear(EngineLinear):
    tp_size = 2


class EngineHead(EngineLinear):
    pass


class EngineModel(nn.Module):
    """An embedding, a fused and a plain linear, and perhaps a head of its own; the kinds are the test's."""

    packed_modules_mapping: ClassVar = {"qkv_proj": ["q_proj", "k_proj", "v_proj"]}

    def __init__(self, head: str = "own") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(8, 64)
        self.qkv_proj, self.o_proj = EngineLinear(96, 64), EngineLinear(64, 80)
        if head == "own":
            self.lm_head = EngineHead(8, 64)


def held(**options: str) -> HeldWeights:
    return HeldWeights(EngineModel(**options), ModuleKinds(EngineLinear, EngineHead, nn.Embedding))


def test_modules_are_described_as_layers_of_the_plain_model() -> None:
    layers = {layer.name: layer for layer in held().layers}
    assert layers["qkv_proj"].siblings == ("q_proj", "k_proj", "v_proj")
    assert (layers["o_proj"].out_features, layers["o_proj"].in_features) == (64, 80)
    assert layers["lm_head"].is_lm_head and not layers["lm_head"].tied


def test_a_head_that_the_engine_did_not_make_is_the_embedding() -> None:
    head = held(head="none").layers[-1]
    assert head.name == "lm_head" and head.tied and "lm_head" not in held(head="none").modules


def test_a_head_with_the_embeddings_weight_is_tied() -> None:
    model = EngineModel()
    model.lm_head.weight = model.embed.weight
    found = HeldWeights(model, ModuleKinds(EngineLinear, EngineHead, nn.Embedding))
    assert found.layers[-1].tied


def test_a_weight_is_off_grid_until_it_is_rounded() -> None:
    weights = held()
    weights.follow({"qkv_proj": Rounding("MXFP4"), "o_proj": Rounding("MXFP8"), "lm_head": Rounding("FP16")})
    before = weights.modules["lm_head"].weight.clone()
    assert weights.off_grid() == ["qkv_proj", "o_proj"]
    for name in weights.modules:
        weights.round(name)
    assert weights.off_grid() == [] and torch.equal(weights.modules["lm_head"].weight, before)
    weights.modules["o_proj"].weight[3, 79] += 0.01  # of the ragged last block
    assert weights.off_grid() == ["o_proj"]


def test_the_transposed_dimension_holds_the_inputs_where_it_is_named() -> None:
    weight = torch.randn(64, 48)
    assert torch.equal(rounded(weight.t(), Rounding("MXFP4"), 0), rounded(weight, Rounding("MXFP4")).t())
    assert rounded(weight, Rounding("FP16")) is weight


def test_a_weight_that_the_engine_quantised_or_packed_is_refused() -> None:
    weights = held()
    weights.modules["o_proj"].quant_method = PackedMethod()
    with pytest.raises(RuntimeError, match="o_proj by PackedMethod"):
        weights.follow({"o_proj": Rounding("MXFP4")})
    weights.follow({"o_proj": Rounding("FP16")})  # nothing is asked of it
    weights.modules["o_proj"].quant_method = UnquantizedLinearMethod()
    weights.modules["o_proj"].weight = nn.Parameter(torch.empty(0), requires_grad=False)
    with pytest.raises(RuntimeError, match="packed the weight of o_proj"):
        weights.follow({"o_proj": Rounding("MXFP4")})


def test_a_shard_that_cuts_through_a_block_is_refused() -> None:
    model = EngineModel()
    model.o_proj = RowLinear(64, 80)
    found = HeldWeights(model, ModuleKinds(EngineLinear, EngineHead, nn.Embedding))
    with pytest.raises(RuntimeError, match="2 parts of 80 inputs"):
        found.follow({"o_proj": Rounding("MXFP4")})


OWN = OwnFormat("MXFP8", "FP16", "SomeKernel")


class QuantisingLinear(EngineLinear):
    """Its parameter is what a kernel made of the weight; only its products tell what that was."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__(outputs, inputs)
        self.held = rounded(self.weight, Rounding("MXFP8"))
        self.weight = nn.Parameter(torch.zeros(outputs * inputs, dtype=torch.uint8), requires_grad=False)
        self.output_size_per_partition, self.input_size_per_partition = outputs, inputs
        self.quant_method = PackedMethod()


def executing(module: QuantisingLinear) -> HeldWeights:
    model = EngineModel()
    model.o_proj = module
    kinds = ModuleKinds(
        EngineLinear, EngineHead, nn.Embedding,
        own_format=lambda layer: OWN if layer is module else None,
        read=lambda layer: [layer.held[:, :32], layer.held[:, 64:]],
    )  # fmt: skip
    return HeldWeights(model, kinds)


def test_a_module_that_the_engine_executes_in_the_format_asked_for_is_looked_at_and_left_alone() -> None:
    module = QuantisingLinear(64, 96)
    weights = executing(module)
    assert {layer.name: layer.in_features for layer in weights.layers}["o_proj"] == 96
    weights.follow({"o_proj": Rounding("MXFP8"), "qkv_proj": Rounding("MXFP4")})
    packed = module.weight.clone()
    weights.round("o_proj")
    assert torch.equal(module.weight, packed) and weights.off_grid() == ["qkv_proj"]
    module.held[3, 70] += 0.01
    assert weights.off_grid() == ["qkv_proj", "o_proj"]
    assert weights.describe()["own"] == {"o_proj": {"pair": "MXFP8/FP16", "kernel": "SomeKernel"}}


@pytest.mark.parametrize("asked", ["MXFP4", "FP16"])
def test_a_module_that_the_engine_executes_in_another_format_is_refused(asked: str) -> None:
    with pytest.raises(RuntimeError, match=f"o_proj in MXFP8 by itself, but its rollout format is {asked}"):
        executing(QuantisingLinear(64, 96)).follow({"o_proj": Rounding(asked)})
