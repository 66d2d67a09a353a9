"""Trainers beside ``trl vllm-serve`` in a process of its own: what the server held after each update."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.vllm.oracle import rounded
from tests.vllm.runs import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture
def run(trained: Callable[[str], Run]) -> Run:
    return trained("served")


def weights(run: Run) -> list[dict[str, torch.Tensor]]:
    assert run.server_weights is not None
    return [torch.load(file, weights_only=True) for file in sorted(run.server_weights.glob("*.pt"))]


def test_the_server_holds_rounded_weights_before_the_first_rollout_and_after_each_step(run: Run) -> None:
    held = weights(run)
    assert len(held) == 3
    for state in held:
        quantised = [name for name in state if "proj" in name or name.startswith("lm_head")]
        assert len(quantised) == 9
        for name in quantised:
            fmt = "MXFP8" if name.startswith("lm_head") else "MXFP4"
            assert torch.equal(rounded(state[name], fmt), state[name].double()), name
        assert not torch.equal(rounded(state["model.embed_tokens.weight"], "MXFP8"), state["model.embed_tokens.weight"])
    assert any(not torch.equal(held[0][name], held[-1][name]) for name in held[0])


def test_books_tell_what_was_checked_and_what_the_server_said(run: Run) -> None:
    told = run.config["rollout"]
    assert (told["mode"], told["execution"], told["synced"]) == ("server", "weights-only", 3)
    assert told["dtype"] == "bfloat16" and told["checked"] == "sent weights"
    assert told["siblings"]["model.layers.0.self_attn.qkv_proj"][-1].endswith("v_proj")
    formats = {row["format"] for row in run.rows("energy.csv") if row["phase"] == "rollout" and row["macs"]}
    assert formats == {"MXFP4/FP16+weights-only", "MXFP8/FP16+weights-only"}


def test_what_the_probe_foretells_is_what_the_server_does(run: Run) -> None:
    foretold, found = run.logged("mx/mismatch/mean_abs_logratio"), run.logged("sampling/sampling_logp_difference/mean")
    assert len(foretold) == len(found) == 3
    for one, other in zip(foretold, found, strict=True):
        assert one == pytest.approx(other, rel=0.1) and one > 0.1


@pytest.mark.parametrize("kind", ["rloo", "online_dpo"])
def test_other_trainers_send_it_rounded_weights_too(kind: str, trained: Callable[[str], Run]) -> None:
    """OnlineDPO sends each weight as an update of its own."""
    other = trained(f"served_{kind}")
    held = weights(other)
    assert len(held) % 3 == 0
    each = len(held) // 3
    for state in held[each - 1 :: each]:
        for name in (name for name in state if "proj" in name or name.startswith("lm_head")):
            fmt = "MXFP8" if name.startswith("lm_head") else "MXFP4"
            assert torch.equal(rounded(state[name], fmt), state[name].double()), name
    assert any(not torch.equal(held[each - 1][name], held[-1][name]) for name in held[0])
    told = other.config["rollout"]
    assert (told["mode"], told["execution"], told["synced"]) == ("server", "weights-only", 3)
    formats = {row["format"] for row in other.rows("energy.csv") if row["phase"] == "rollout" and row["macs"]}
    assert formats >= {"MXFP4/FP16+weights-only", "MXFP8/FP16+weights-only"}
