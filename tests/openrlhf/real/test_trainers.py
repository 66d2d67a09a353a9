"""The real train_sft, train_rm and train_dpo, in one process."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable

import pytest

from tests.openrlhf.recipes import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

PHASES = {
    "train_sft": {"policy": {"gradient", "reward"}},
    "train_rm": {"reward": {"gradient", "reward"}},
    "train_dpo": {"policy": {"gradient", "reward"}, "reference": {"reward"}},
}
"""``reward`` of a trained model is its evaluation, ``eval/reward`` in energy.csv."""

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
            booked = phase if role == "reference" or phase == "gradient" else f"eval/{phase}"
            macs = [row for row in rows if (row["role"], row["phase"]) == (role, booked) and row["macs"]]
            assert any(row["format"].startswith("MX") for row in macs), (role, booked)
    with (run.files / "metrics.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == [str(i + 1) for i in range(STEPS)]


def logged(run: Run) -> dict[str, list[float]]:
    """What OpenRLHF itself wrote to TensorBoard, by name; our own keys left out."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert run.status == 0, run.output[-5000:]
    (events,) = run.folder.glob("tensorboard/**/events.*")
    accumulator = EventAccumulator(str(events))
    accumulator.Reload()
    names = [name for name in accumulator.Tags()["scalars"] if "mx/" not in name]
    return {name: [event.value for event in accumulator.Scalars(name)] for name in names}


def test_policy_a_gives_the_losses_of_openrlhf_alone(recipe: str, trained: Callable[..., Run]) -> None:
    alone, under_a = logged(trained(recipe, None)), logged(trained(recipe, "A"))
    assert alone == under_a
    assert len(set(alone["train/loss_mean"])) > 1 and len(alone["train/loss_mean"]) == STEPS


def test_policy_b_gives_others(recipe: str, trained: Callable[..., Run]) -> None:
    assert logged(trained(recipe, "B"))["train/loss_mean"] != logged(trained(recipe, None))["train/loss_mean"]
