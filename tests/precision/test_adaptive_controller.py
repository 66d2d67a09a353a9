"""The controller: formats by name and phase, and an attached model that runs in them."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import mx_plugin
from mx_plugin.errors import AdoptionError, PolicyError
from mx_plugin.precision import AdaptiveController, load_policy

Controllers = Callable[..., AdaptiveController]

ATTENTION = "transformer.h.0.attn"


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "matrix.csv"
    path.write_text(
        "layer,phase,role,format,cost,metric,unit\n"
        "transformer.h.0.attn,rollout,policy,MXFP4,0.004,kl,nats\n"
        "transformer.h.0.attn,rollout,policy,MXFP8,0.0005,kl,nats\n"
        "transformer.h.0.mlp,rollout,policy,MXFP4,0.09,kl,nats\n"
        "transformer.h.0.mlp,rollout,policy,MXFP8,0.002,kl,nats\n"
        "transformer.h.1,rollout,policy,MXFP4,0.5,kl,nats\n",
        encoding="utf-8",
    )
    return path


# ---------------------------------------------------------------------------- formats


def test_formats_are_chosen_from_the_matrix_before_any_model_is_attached(csv: Path, controllers: Controllers) -> None:
    controller = controllers(sensitivity_matrix=str(csv), policy="D", max_cost=0.01)
    assert controller.get_precision(layer_name=ATTENTION, phase="rollout") == "MXFP4"
    assert controller.get_precision(layer_name="transformer.h.0.mlp", phase="rollout") == "MXFP8"
    assert controller.get_precision(layer_name="transformer.h.1.mlp", phase="rollout") == "FP16"
    assert controller.get_precision(layer_name=ATTENTION, phase="gradient") == "FP16"


def test_policy_d_is_the_default_and_needs_its_matrix_and_limit(csv: Path) -> None:
    with pytest.raises(PolicyError, match="give sensitivity_matrix"):
        AdaptiveController()
    with pytest.raises(PolicyError, match="needs max_cost"):
        AdaptiveController(csv)


def test_any_policy_serves(controllers: Controllers) -> None:
    for policy in ("C", replace(load_policy("C"), name="mine")):
        controller = controllers(policy=policy, activations="MXFP6")
        assert controller.get_precision(ATTENTION, "rollout") == "MXFP4/MXFP6"


# ---------------------------------------------------------------------------- an attached model


def test_an_attached_model_runs_each_phase_in_the_policys_formats(model: nn.Module, controllers: Controllers) -> None:
    x = torch.randn(5, 64)
    with torch.no_grad():
        plain = model(x)
        controller = controllers(policy="C")
        controller.attach(model)
        with controller.phase("rollout"):
            rollout = model(x)
        with controller.phase("reward"):
            reward = model(x)
        controller.detach()
        again = model(x)
    errors = [(y - plain).norm() / plain.norm() for y in (rollout, reward)]
    assert errors[0] > errors[1] > 0
    assert torch.equal(again, plain)


def test_a_layer_computes_the_product_of_the_quantised_operands(model: nn.Module, controllers: Controllers) -> None:
    controller = controllers(policy="C", scale_rule="rceil")
    controller.attach(model)
    layer, x = model.get_submodule("transformer.h.0.mlp"), torch.randn(3, 64)
    with torch.no_grad(), controller.phase("rollout"):
        y = layer(x)
    w = mx_plugin.quantize(layer.weight.detach(), "MXFP4", scale_rule="rceil").dequantize(torch.float32)
    xq = mx_plugin.quantize(x, "MXFP8", scale_rule="rceil").dequantize(torch.float32)
    torch.testing.assert_close(y, xq @ w.T + layer.bias)


def test_an_attached_controller_knows_its_layers(model: nn.Module, csv: Path, controllers: Controllers) -> None:
    controller = controllers(csv, max_cost=0.01)
    controller.attach(model)
    assert controller.get_precision(ATTENTION, "rollout") == "MXFP4"
    with pytest.raises(PolicyError, match=r"did you mean 'transformer\.h\.0\.attn"):
        controller.get_precision("transformer.h.0.atn", "rollout")
    with pytest.raises(PolicyError, match=r"layers below 'transformer\.h\.0' differ in rollout"):
        controller.get_precision("transformer.h.0", "rollout")


def test_a_matrix_of_another_model_is_refused_and_the_model_is_left_alone(
    tmp_path: Path, model: nn.Module, controllers: Controllers
) -> None:
    (tmp_path / "m.csv").write_text("layer,phase,format,cost\nmodel.layers.0,rollout,MXFP4,0\n")
    controller = controllers(tmp_path / "m.csv", max_cost=0.1)
    with pytest.raises(PolicyError, match=r"'model\.layers\.0', which matches no adopted layer"):
        controller.attach(model)
    assert type(model.get_submodule("transformer.h.0.mlp")) is nn.Linear


def test_a_second_model_is_refused_until_the_first_is_detached(model: nn.Module, controllers: Controllers) -> None:
    controller = controllers(policy="C")
    controller.attach(model)
    with pytest.raises(AdoptionError, match=r"already has a model attached: detach\(\) it first"):
        controller.attach(deepcopy(model))
    controller.detach()
    controller.detach()
    controller.attach(deepcopy(model), role="value")
    assert controller.get_precision(ATTENTION, "reward", "value") == "MXFP8"


def test_without_a_model_there_is_no_phase_and_no_weight(controllers: Controllers) -> None:
    controller = controllers(policy="C")
    with pytest.raises(AdoptionError, match=r"call attach\(model\) first"):
        controller.phase("rollout")
    with pytest.raises(AdoptionError, match=r"call attach\(model\) first"):
        controller.load_quantized_weights(ATTENTION, "MXFP4")


def test_an_unknown_phase_is_refused(model: nn.Module, controllers: Controllers) -> None:
    controller = controllers(policy="C")
    controller.attach(model)
    with pytest.raises(PolicyError, match="did you mean 'rollout'"):
        controller.phase("rolout")
