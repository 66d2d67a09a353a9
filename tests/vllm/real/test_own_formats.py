"""A vLLM that executes MXFP8 by itself, its GPU kernel stood in for by vLLM's emulation; all around it is real."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mx_vllm.kernels import ACTIVATIONS, METHODS, VLLM_NAMES
from mx_vllm.reload import LayerwiseReload
from tests.vllm.oracle import decoded, expected, rounded
from tests.vllm.runs import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

STEPS = 3
OWN = [
    *(f"model.layers.{i}.self_attn.{name}" for i in (0, 1) for name in ("qkv_proj", "o_proj")),
    "model.layers.0.mlp.gate_up_proj",
]
ROUNDED = ["model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj", "lm_head"]
PLAIN = ["model.layers.1.mlp.gate_up_proj"]
FORMATS = dict.fromkeys([*OWN, *ROUNDED], "MXFP8")


def weight(held: dict[str, torch.Tensor], module: str) -> torch.Tensor:
    """What vLLM multiplies by, from codes and scales where it holds those."""
    found = held[f"{module}.weight"]
    return decoded(found, held[f"{module}.weight_scale"]) if module in OWN else found


def differing(snapshot: dict[str, Any], formats: dict[str, str], rule: str = "floor") -> list[str]:
    """Modules whose weight is not the trainer's as the oracle casts it; the policy's scale rule is not vLLM's."""
    held, trained = snapshot["held"], snapshot["trained"]
    wanted = {x: expected(trained, x, formats, rule).double() for x in (*OWN, *ROUNDED, *PLAIN)}
    return [x for x, values in wanted.items() if not torch.equal(weight(held, x).double(), values)]


@pytest.mark.parametrize("name", ["grpo_own", "online_dpo_own"])
def test_vllm_holds_codes_of_the_trainers_weights_at_every_rollout(name: str, trained: Callable[[str], Run]) -> None:
    snapshots = [found for found in trained(name).snapshots() if not differing(found, FORMATS)]
    assert [snapshot["step"] for snapshot in snapshots] == list(range(STEPS))
    for snapshot in snapshots:
        assert {snapshot["held"][f"{module}.weight"].dtype for module in OWN} == {torch.float8_e4m3fn}
    first, last = snapshots[0]["held"], snapshots[-1]["held"]
    assert any(not torch.equal(weight(first, x), weight(last, x)) for x in OWN), "training changed no code in vLLM"


def test_an_evaluation_outside_of_training_reloads_as_well(trained: Callable[[str], Run]) -> None:
    """Weights come unrounded then, and vLLM quantises what it executes by itself, from its dtype, by its rule."""
    outside = [found for found in trained("grpo_own").snapshots() if differing(found, FORMATS)]
    assert {found["step"] for found in outside} == {0, STEPS}
    for found in outside:
        found["trained"] = {name: tensor.to(torch.bfloat16) for name, tensor in found["trained"].items()}
        assert differing(found, dict.fromkeys(OWN, "MXFP8"), "rceil") == []


def test_a_sync_that_breaks_off_leaves_modules_as_they_were(trained: Callable[[str], Run]) -> None:
    """All but those that came whole before: here the embedding, which vLLM has no format for."""
    assert trained("online_dpo_own").result["changed"] == ["model.embed_tokens.weight"]


def test_modules_whose_weight_is_not_what_was_sent_are_named(trained: Callable[[str], Run]) -> None:
    """Unrounded weights are not, once vLLM has quantised them; nor is a module of which a part did not come."""
    whole, partly = trained("online_dpo_own").result["differing"]
    assert set(whole) == set(OWN) and "model.layers.0.self_attn.qkv_proj" in partly


@pytest.mark.parametrize("name", ["grpo_own", "online_dpo_own"])
def test_books_and_config_tell_which_layers_vllm_executed_by_itself(name: str, trained: Callable[[str], Run]) -> None:
    run = trained(name)
    told = run.config["rollout"]
    own = {"pair": "MXFP8/FP16", "kernel": "MarlinMxfp8LinearKernel"}
    assert told["own"] == {name: own for module in OWN for name in told["siblings"][module]}
    assert told["synced"] == STEPS and told["execution"] == "weights-only, engine"
    rolled = {row["format"] for row in run.rows("energy.csv") if row["phase"] == "rollout" and row["macs"]}
    assert {"MXFP8/FP16+engine", "MXFP8/FP16+weights-only", "FP16"} <= rolled


def test_what_the_probe_foretells_is_what_vllm_does(trained: Callable[[str], Run]) -> None:
    run = trained("grpo_own")
    foretold, found = run.logged("mx/mismatch/mean_abs_logratio"), run.logged("sampling/sampling_logp_difference/mean")
    assert len(foretold) == len(found) == STEPS
    for one, other in zip(foretold, found, strict=True):
        assert one == pytest.approx(other, rel=0.1)


def test_losses_are_those_of_rounded_weights(trained: Callable[[str], Run]) -> None:
    """Codes or values: the same numbers are multiplied, by the same activations."""
    own, rounded = trained("grpo_own"), trained("grpo_own_off")
    assert rounded.config["rollout"]["own"] == {}
    assert len(own.logged("loss")) == STEPS
    for key in ("loss", "reward", "grad_norm"):
        assert own.logged(key) == pytest.approx(rounded.logged(key), rel=1e-6), key


def test_a_server_that_executes_the_policys_format_by_itself_is_sent_weights_that_lose_nothing_more(
    trained: Callable[[str], Run],
) -> None:
    """vLLM's server reloads by itself around an update. Codes of rounded weights are those of the policy's rounding."""
    run = trained("served_own")
    assert run.server_weights is not None
    held = [torch.load(file, weights_only=True) for file in sorted(run.server_weights.glob("*.pt"))]
    assert len(held) == STEPS
    for state in held:
        quantised = [name for name, tensor in state.items() if tensor.dtype == torch.float8_e4m3fn]
        assert len(quantised) == 8
        head = state["lm_head.weight"]
        assert torch.equal(rounded(head, "MXFP8"), head.double())
    assert any(not torch.equal(held[0][name].float(), held[-1][name].float()) for name in held[0])
    told = run.config["rollout"]
    assert {own["pair"] for own in told["own"].values()} == {"MXFP8/unknown"} and len(told["own"]) == 14
    rolled = {row["format"] for row in run.rows("energy.csv") if row["phase"] == "rollout" and row["macs"]}
    assert rolled == {"MXFP8/unknown+engine", "MXFP8/FP16+weights-only"}
    foretold, found = run.logged("mx/mismatch/mean_abs_logratio"), run.logged("sampling/sampling_logp_difference/mean")
    for one, other in zip(foretold, found, strict=True):
        assert one == pytest.approx(other, rel=0.1)


def test_the_model_behind_the_wrapper_of_its_graphs_is_reloaded() -> None:
    """vLLM's own reload takes it too: what is set on the wrapper would be passed by."""
    model = torch.nn.Module()
    assert LayerwiseReload(SimpleNamespace(model=object(), get_model=lambda: model)).model is model


def test_kernels_and_methods_are_vllms() -> None:
    from vllm.config.quantization import QUANT_KEY_NAMES
    from vllm.model_executor.kernels import linear
    from vllm.model_executor.layers.quantization.online import base

    assert [name for name in ACTIVATIONS if not hasattr(linear, name)] == []
    assert [name for name in METHODS if not hasattr(base, name)] == []
    assert set(VLLM_NAMES.values()) <= set(QUANT_KEY_NAMES)
