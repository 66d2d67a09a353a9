"""Blocks that come before a changed layer are replayed: the same logits, bit for bit, and nothing stale."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mx_plugin.sensitivity import profile
from mx_plugin.sensitivity.replay import Replay
from tests.sensitivity.tiny import TinyModel, tiny_batches


class InPlace(TinyModel):
    """Writes into the first block's output after it was returned."""

    def hidden(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(input_ids)
        for block in self.blocks:
            x = block(x)
            x += 0.5
        return x


class Twice(TinyModel):
    """Every block runs twice: its second input depends on all layers."""

    def hidden(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(input_ids)
        for block in (*self.blocks, *self.blocks):
            x = block(x)
        return x


def costs(model: nn.Module) -> dict[str, dict[tuple[str, str], float]]:
    found = profile(model, tiny_batches(), formats=["MXFP4"], phases=["rollout"])
    return {metric: found.costs(metric) for metric in ("kl", "kl_all_but")}


@pytest.mark.parametrize("kind", [TinyModel, InPlace, Twice])
def test_costs_are_the_same_bits_with_and_without(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    replayed = costs(kind())
    monkeypatch.setattr("mx_plugin.sensitivity.replay._blocks", lambda model: [])
    assert costs(kind()) == replayed


def test_only_blocks_from_the_changed_one_on_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []
    model = TinyModel()
    for number, block in enumerate(model.blocks):
        block.up.register_forward_pre_hook(lambda *_, n=number: computed.append(n))
    skipped: list[int] = []
    original = Replay.replaying

    def counting(self: Replay, batch: int, layer: Any) -> Any:
        class Context:
            def __enter__(self_) -> None:
                self_.inner = original(self, batch, layer)  # type: ignore[attr-defined]
                skipped.append(self_.inner.__enter__())  # type: ignore[attr-defined]

            def __exit__(self_, *error: Any) -> None:
                self_.inner.__exit__(*error)  # type: ignore[attr-defined]

        return Context()

    monkeypatch.setattr(Replay, "replaying", counting)
    profile(model, tiny_batches(1), formats=["MXFP4"], phases=["rollout"])
    # Layer by layer: two in each block, then the head, which comes after all of them; alone and in company.
    assert skipped == [0, 0, 1, 1, 2, 2, 3] * 2
    # Three full passes (baseline, all, the estimate's) and, of each layer's, the blocks that were not skipped.
    assert len(computed) == 3 * 3 + sum(3 - n for n in skipped)
