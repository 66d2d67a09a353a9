"""The real train_sft, train_rm and train_dpo, in one process."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable

import pytest

from tests.openrlhf.recipes import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

PHASES = {
    "train_sft": {"policy": {"gradient"}},
    "train_rm": {"reward": {"gradient"}},
    "train_dpo": {"policy": {"gradient"}, "reference": {"reward"}},
}
STEPS = 4


@pytest.fixture(params=PHASES)
def recipe(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_layers_execute_in_the_policys_formats_and_files_are_written(recipe: str, trained: Callable[..., Run]) -> None:
    run = trained(recipe, "B")
    assert run.status == 0, run.output[-5000:]
    config = json.loads((run.files / "config.json").read_text())
    assert {role: set(phases) for role, phases in config["hits"].items()} == PHASES[recipe]
    for role, phases in PHASES[recipe].items():
        for phase in phases:
            assert "MXFP" in config["formats"][role][phase]["model.layers.0.mlp.down_proj"]
    with (run.files / "energy.csv").open() as file:
        rows = list(csv.DictReader(file))
    for role, phases in PHASES[recipe].items():
        for phase in phases:
            macs = [row for row in rows if (row["role"], row["phase"]) == (role, phase) and row["macs"]]
            assert any(row["format"].startswith("MX") for row in macs)
    with (run.files / "metrics.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == [str(i + 1) for i in range(STEPS)]


def test_policy_a_gives_the_losses_of_openrlhf_alone(recipe: str, trained: Callable[..., Run]) -> None:
    def losses(run: Run) -> list[str]:
        assert run.status == 0, run.output[-5000:]
        return re.findall(r"(?:gpt_)?loss=([\d.e-]+)", run.output)

    alone, under_a = losses(trained(recipe, None)), losses(trained(recipe, "A"))
    assert alone == under_a and len(set(alone)) > 1
