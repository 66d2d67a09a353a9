"""What cannot be trained together, or not in MX, is refused before anything is adopted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

pytest.importorskip("transformers")

from mx_plugin.errors import AdoptionError
from mx_trl.distributed import RanksError, join_ranks
from mx_trl.distributed.sharding import refuse_unreachable_weights


def trainer(**state: Any) -> Any:
    accelerator = SimpleNamespace(num_processes=1, process_index=0, state=SimpleNamespace(**state))
    return SimpleNamespace(accelerator=accelerator, args=SimpleNamespace(ddp_timeout=5))


def test_zero_3_is_refused_with_what_works_instead() -> None:
    with pytest.raises(AdoptionError, match=r"ZeRO-3 .*zero_stage: 2.*fsdp_version: 2"):
        refuse_unreachable_weights(trainer(deepspeed_plugin=SimpleNamespace(zero_stage=3)), {})
    refuse_unreachable_weights(trainer(deepspeed_plugin=SimpleNamespace(zero_stage=2)), {})


def test_a_partitioned_model_is_refused_whatever_the_trainer_says() -> None:
    net = nn.Linear(4, 4)
    net.weight.ds_id = 0  # type: ignore[assignment]
    with pytest.raises(AdoptionError, match="weights of reference"):
        refuse_unreachable_weights(trainer(), {"reference": net})


def test_fsdp_1_is_refused() -> None:
    with pytest.raises(AdoptionError, match="fsdp_version: 2"):
        refuse_unreachable_weights(trainer(fsdp_plugin=SimpleNamespace(fsdp_version=1)), {})
    refuse_unreachable_weights(trainer(fsdp_plugin=SimpleNamespace(fsdp_version=2)), {})


def test_processes_that_train_apart_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RanksError, match=r"2 processes were launched.*torchrun"):
        join_ranks(trainer())


def test_one_process_has_itself_for_company() -> None:
    ranks = join_ranks(trainer())
    assert (ranks.size, ranks.main, ranks.first_of_machine) == (1, True, True)
    assert ranks.gather("anything", 3) == [3]
    ranks.same("anything", 3, "")
