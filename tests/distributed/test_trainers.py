"""Two ranks under torchrun with TRL's own trainers: policy A is plain TRL, and the books are those of both ranks."""

from __future__ import annotations

import csv
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet

pytest.importorskip("trl")

from mx_trl.embedded import build
from tests.distributed.launch import run_ranks

KINDS = [pytest.param("ppo", marks=pytest.mark.trl("<1.13")), "grpo", "sft", "dpo"]
UNTIMED = ("runtime", "per_second", "time", "eps", "mx/")
POLICY = """
version: 1
name: two_ranks
defaults: {rollout: MXFP4, reward: MXFP8, gradient: MXFP8}
"""


def numbers(seen: dict[str, Any]) -> list[dict[str, Any]]:
    return [{k: v for k, v in entry.items() if not any(word in k for word in UNTIMED)} for entry in seen["log"]]


def table(seen: dict[str, Any], name: str) -> list[dict[str, str]]:
    with (Path(seen["run_dir"]) / name).open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """One job for all trainers, since ranks take longer to start than to train: each plain, under A, and quantised."""
    folder = tmp_path_factory.mktemp("ranks")
    build(folder / "embedded")
    (folder / "mx.yaml").write_text(POLICY)
    kinds = ["grpo", "sft", "dpo", *(["ppo"] if version("trl") in SpecifierSet("<1.13") else [])]
    policies: dict[str, dict[str, str]] = {"plain": {}, "A": {"policy": "A"}, "mx": {"policy": str(folder / "mx.yaml")}}
    runs = [{"name": f"{kind}-{name}", "kind": kind, **policy} for kind in kinds for name, policy in policies.items()]
    job = {"ranks": 2, "folder": str(folder / "runs"), "embedded": str(folder / "embedded"), "runs": runs}
    return run_ranks(job, folder / "job.json", seconds=550)


@pytest.mark.parametrize("kind", KINDS)
def test_policy_a_is_plain_trl(kind: str, seen: dict[str, list[dict[str, Any]]]) -> None:
    plain, exact = seen[f"{kind}-plain"], seen[f"{kind}-A"]
    for rank in range(2):
        assert numbers(exact[rank]) == numbers(plain[rank])
        assert exact[rank]["weights"] == plain[rank]["weights"]


@pytest.mark.parametrize("kind", KINDS)
def test_both_ranks_learn_the_same_and_the_books_are_those_of_both(
    kind: str, seen: dict[str, list[dict[str, Any]]]
) -> None:
    quantised = seen[f"{kind}-mx"]
    assert quantised[0]["weights"] == quantised[1]["weights"] != seen[f"{kind}-plain"][0]["weights"]
    assert quantised[1]["run_dir"] is None  # one rank writes
    _check_books(quantised)


def _check_books(ranks: list[dict[str, Any]]) -> None:
    main = ranks[0]
    config = json.loads((Path(main["run_dir"]) / "config.json").read_text())
    assert config["ranks"] == {"size": 2, "machines": 1, "rank_of_seconds": 0}
    for role, phases in config["hits"].items():
        for phase, layers in phases.items():
            for layer, calls in layers.items():
                assert calls == sum(rank["hits"][role][phase][layer] for rank in ranks)
    energy, of_rank = table(main, "energy.csv"), table(main, "ranks.csv")
    assert {row["rank"] for row in of_rank} == {"0", "1"}
    for column in ("macs", "bytes"):
        assert sum(int(row[column] or 0) for row in energy) == sum(int(row[column]) for row in of_rank) > 0
    seconds = sum(float(row["seconds"]) for row in of_rank if row["rank"] == "0")
    assert sum(float(row["seconds"] or 0) for row in energy) == pytest.approx(seconds)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_two_ranks_learn_what_one_learns_from_the_same_micro_batches(kind: str, tmp_path: Path) -> None:
    """One rank that accumulates two micro-batches has the same blocks; with one of twice the size dW's differ."""
    build(tmp_path / "embedded")
    (tmp_path / "mx.yaml").write_text(POLICY)
    losses = {}
    for name, ranks, batch, accumulated in (("two", 2, 4, 1), ("accumulating", 1, 4, 2), ("large", 1, 8, 1)):
        settings = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulated}
        run = {"name": name, "kind": kind, "policy": str(tmp_path / "mx.yaml"), "settings": settings}
        job = {"ranks": ranks, "folder": str(tmp_path), "embedded": str(tmp_path / "embedded"), "runs": [run]}
        seen = run_ranks(job, tmp_path / f"{name}.json", seconds=300)[name][0]
        losses[name] = [entry["loss"] for entry in seen["log"] if "loss" in entry]
    assert losses["two"] == pytest.approx(losses["accumulating"], rel=1e-5)
    assert losses["two"] == pytest.approx(losses["large"], rel=1e-2)
