"""FSDP2 on two ranks (gloo): sharded layers execute, pack and learn what whole ones do."""

from __future__ import annotations

from typing import Any

import pytest

from tests.distributed.launch import REPOSITORY, run_ranks

POLICY = """
version: 1
name: sharded
defaults: {rollout: MXFP4, reward: MXFP8, gradient: MXFP8}
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("fsdp2")
    (folder / "sharded.yaml").write_text(POLICY)
    runs = [{"name": name} for name in ("never", "before", "after")]
    job = {"ranks": 2, "folder": str(folder), "policy": str(folder / "sharded.yaml"), "runs": runs}
    return run_ranks(job, folder / "job.json", script=REPOSITORY / "tests" / "distributed" / "fsdp2_worker.py")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("rank", [0, 1])
def test_sharded_before_or_after_adoption_is_what_the_whole_model_is(
    seen: dict[str, list[dict[str, Any]]], when: str, rank: int
) -> None:
    whole, sharded = seen["never"][rank], seen[when][rank]
    # The reduce-scatter adds two numbers, as the all-reduce by hand does; casts are the same, bit for bit.
    assert sharded["losses"] == pytest.approx(whole["losses"], rel=1e-6)
    assert sharded["rewards"] == pytest.approx(whole["rewards"], rel=1e-6)
    assert sharded["norms"] == pytest.approx(whole["norms"], rel=1e-6)
    assert sharded["hits"] == whole["hits"]
    assert len(set(whole["rewards"])) == 3  # weights changed, so what was packed must have changed too


def test_ranks_hold_the_same_model_after_training(seen: dict[str, list[dict[str, Any]]]) -> None:
    for ranks in seen.values():
        assert ranks[0]["norms"] == ranks[1]["norms"]
        assert ranks[0]["losses"] != ranks[1]["losses"]  # each had data of its own
