"""A provider that changes its mind while training runs is of the same mind after a resumption."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mx_plugin import hookimpl, plugins
from mx_plugin.precision import PolicyProvider, load_policy
from tests.checkpoints.compared import differing, train_log

pytest.importorskip("trl")

if TYPE_CHECKING:
    from mx_trl.stages.built import BuiltStage

Make = Callable[..., "BuiltStage"]


class Narrowing(PolicyProvider):
    """Narrow formats from the step on at which it has seen a reward twice."""

    def __init__(self) -> None:
        super().__init__(load_policy("A"))
        self.seen: list[float] = []

    def observe(self, step: int, metrics: Mapping[str, float]) -> bool:
        if "reward" in metrics:
            self.seen.append(metrics["reward"])
        if len(self.seen) == 2:
            self._narrow()
        return len(self.seen) == 2

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.seen = list(state["seen"])
        if len(self.seen) >= 2:
            self._narrow()

    def _narrow(self) -> None:
        narrow = PolicyProvider(load_policy("C"))
        self.get_precision = narrow.get_precision  # type: ignore[method-assign]


class Acme:
    @hookimpl
    def mx_register_providers(self, register: Callable[..., None]) -> None:
        register("narrowing", Narrowing)


@pytest.fixture(autouse=True)
def acme() -> Iterator[None]:
    plugins.register(Acme(), name="acme")
    yield
    plugins.reset()


def test_resumed_is_unbroken_bit_for_bit(make_grpo: Make, tmp_path: Path) -> None:
    unbroken = make_grpo(tmp_path / "unbroken", "narrowing")
    unbroken.train()
    plain = make_grpo(tmp_path / "plain", "A")
    plain.train()
    assert differing(unbroken.trainer, plain.trainer)  # it did change its mind
    for step in (1, 4):  # before it, and after
        checkpoint = tmp_path / "unbroken" / "checkpoints" / f"checkpoint-{step}"
        resumed = make_grpo(tmp_path / f"from{step}", "narrowing", resume_from_checkpoint=str(checkpoint))
        resumed.train()
        assert differing(unbroken.trainer, resumed.trainer) == []
        assert train_log(tmp_path / f"from{step}") == train_log(tmp_path / "unbroken")
