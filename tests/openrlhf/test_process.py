"""MX in one actor's process, on real models: formats by role, phases by the grad mode, hits, books of several ranks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from mx_openrlhf.process import MXProcess, merged_rows
from mx_plugin.config import MXConfig
from mx_plugin.errors import UnhitLayersError
from mx_plugin.execution.phases import TRACKER
from mx_plugin.ledger import EnergyRow
from tests.openrlhf.tiny import tiny_model

Q = "model.layers.0.self_attn.q_proj"
IDS = torch.arange(1, 25).view(2, 12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def model(folder: Path) -> nn.Module:
    from transformers import AutoModelForCausalLM

    loaded: nn.Module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    return loaded


@pytest.fixture(autouse=True)
def _the_process_is_left_as_it_was() -> Iterator[None]:
    yield
    assert TRACKER.phase == "other" and not TRACKER._listeners


def test_a_lone_reference_takes_the_formats_of_the_policys_logprobs(model: nn.Module, tmp_path: Path) -> None:
    policy = tmp_path / "mine.yaml"
    policy.write_text("version: 1\nname: mine\ndefaults: {rollout: MXFP4, reward: MXFP6, gradient: MXFP8}\n")
    for reference, expected in (("match", "MXFP8/MXFP8"), ("own", "MXFP6/MXFP8")):
        process = MXProcess(MXConfig(policy=str(policy), reference=reference), {"reference": model})
        try:
            layer = next(layer for layer in process.engine.layers if layer.name == Q)
            assert str(process.engine.formats(layer, "reward").forward.pair) == expected
        finally:
            process.close()


def test_scoring_and_training_are_told_apart_and_booked(model: nn.Module) -> None:
    process = MXProcess(MXConfig(policy="C8"), {"value": model})
    process.expected.update({("value", "reward"), ("value", "gradient")})
    with torch.no_grad():
        model(IDS)
    process.rest()
    model(IDS).logits.float().sum().backward()
    process.rest()
    rows = process.step_ended(1)
    process.check_hits()
    hits = process.engine.hits()["value"]
    process.close()
    assert hits["reward"][Q] == 1 and hits["gradient"][Q] >= 1
    scored = {row.format for row in rows if (row.phase, row.role) == ("reward", "value") and row.macs}
    assert "MXFP8/MXFP8" in scored
    trained = {row.format for row in rows if (row.phase, row.role) == ("gradient", "value") and row.macs}
    assert trained == {"FP16"}


def test_a_role_that_was_asked_for_a_phase_and_never_executed_is_an_error(model: nn.Module) -> None:
    process = MXProcess(MXConfig(policy="A"), {"reward": model})
    process.expected.add(("reward", "reward"))
    try:
        with pytest.raises(UnhitLayersError, match="role 'reward' executed in phase 'reward'"):
            process.check_hits()
        process.config.on_unhit = "warn"
        process.check_hits()
    finally:
        process.close()


def test_policy_a_changes_no_bit(model: nn.Module) -> None:
    with torch.no_grad():
        before = model(IDS).logits
    process = MXProcess(MXConfig(policy="A"), {"policy": model})
    with torch.no_grad():
        during = model(IDS).logits
    process.close()
    assert torch.equal(before, during)


def test_rows_of_ranks_are_summed_and_unknown_stays_unknown() -> None:
    rows = [
        EnergyRow(1, "reward", "value", "MXFP8", "bfloat16", None, 10, 20, 0.5, "modelled", True),
        EnergyRow(1, "reward", "value", "MXFP8", "bfloat16", None, 1, None, 0.25, "modelled", True),
        EnergyRow(1, "gradient", "value", "MXFP8", "bfloat16", None, 7, 8, None, "modelled", None),
    ]
    first, second = merged_rows(rows)
    assert (first.macs, first.bytes, first.joules) == (11, None, 0.75)
    assert second == rows[2]
