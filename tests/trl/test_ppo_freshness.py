"""Packed weights follow the optimiser, and a layer whose format is skipped is named."""

from __future__ import annotations

import logging
import types
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from mx_cpu.reference import ReferenceBackend
from mx_plugin import plugins, quantize
from mx_plugin.errors import UnhitLayersError
from mx_plugin.execution.phases import TRACKER
from mx_plugin.hookspecs import hookimpl
from mx_plugin.interfaces import INTERFACE_VERSION
from mx_trl import MXCallback

pytestmark = pytest.mark.trl("<1.13")


class WatchfulBackend(ReferenceBackend):
    """At every multiplication, compares the weight that it was given with the model's weight as it is now."""

    name = "watchful"

    def __init__(self) -> None:
        super().__init__()
        self.checked: dict[str, int] = defaultdict(int)
        self.stale = 0
        self.used: dict[int, list[torch.Tensor]] = defaultdict(list)
        """By address of the model's weight: the different packed weights that it was multiplied as."""
        self._sources: list[tuple[Any, torch.Tensor]] = []
        self._loaded: list[tuple[Any, Any]] = []

    def quantize(self, x: torch.Tensor, *args: Any, **options: Any) -> Any:
        packed = super().quantize(x, *args, **options)
        self._sources.append((packed, x))
        return packed

    def load_weight(self, packed: Any) -> Any:
        handle = super().load_weight(packed)
        self._loaded.append((handle, packed))
        return handle

    def bind(self, handle: Any, activations: str, scale_rule: str) -> Any:
        bound = super().bind(handle, activations, scale_rule)
        packed = next(packed for given, packed in self._loaded if given is handle)
        live = next(x for made, x in self._sources if made is packed)
        mine = packed.element_codes()

        def watched(x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            now = quantize(live, packed.format, scale_rule=scale_rule)
            self.checked[TRACKER.phase] += 1
            self.stale += not torch.equal(now.element_codes(), mine)
            self.stale += not torch.equal(now.scale_codes(), packed.scale_codes())
            seen = self.used[live.data_ptr()]
            if not any(torch.equal(mine, other) for other in seen):
                seen.append(mine)
            return bound(x, bias)

        return watched


@pytest.fixture
def watchful() -> Iterator[list[WatchfulBackend]]:
    """The backends that were made under the name ``watchful``."""
    made: list[WatchfulBackend] = []

    class Plugin:
        MX_PLUGIN_INTERFACE = INTERFACE_VERSION

        @hookimpl
        def mx_register_backends(self, register: Any) -> None:
            def make() -> WatchfulBackend:
                made.append(WatchfulBackend())
                return made[-1]

            register("watchful", make)

    plugins.register(Plugin(), "watchful")
    yield made
    plugins.reset()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_every_rollout_and_scoring_uses_the_weights_of_the_last_update(
    make_ppo: Callable[..., Any], watchful: list[WatchfulBackend], tmp_path: Path, dtype: torch.dtype
) -> None:
    trainer = make_ppo(
        tmp_path, [MXCallback(policy="C", backend="watchful", output_dir=tmp_path)], dtype=dtype, steps=3
    )
    trainer.train()
    [backend] = watchful
    assert backend.stale == 0
    assert backend.checked["rollout"] > 0
    assert backend.checked["reward"] > 0
    # Three rollouts, two updates between them: the policy's layers were multiplied as three different weights.
    weight = trainer.policy_model.model.layers[0].mlp.up_proj.weight
    assert len(backend.used[weight.data_ptr()]) == 3
    # The reference is never trained.
    frozen = trainer.ref_model.model.layers[0].mlp.up_proj.weight
    assert len(backend.used[frozen.data_ptr()]) == 1


def test_weights_that_a_callback_loads_between_steps_are_used(
    make_ppo: Callable[..., Any], watchful: list[WatchfulBackend], tmp_path: Path
) -> None:
    class Reload(TrainerCallback):
        """Puts the first weights back after each step, as an early-stopping recipe may."""

        def on_train_begin(self, *_: Any, model: Any, **__: Any) -> None:
            self.first = {name: tensor.clone() for name, tensor in model.state_dict().items()}

        def on_step_end(self, *_: Any, model: Any, **__: Any) -> None:
            model.load_state_dict(self.first)

    callback = MXCallback(policy="C", backend="watchful", output_dir=tmp_path)
    trainer = make_ppo(tmp_path, [callback, Reload()], steps=3)
    trainer.train()
    [backend] = watchful
    assert backend.stale == 0
    weight = trainer.policy_model.model.layers[0].mlp.up_proj.weight
    assert len(backend.used[weight.data_ptr()]) == 1


# ---------------------------------------------------------------------------- layers that are never hit


class Bypass(TrainerCallback):
    """Replaces the forward of one adopted layer on the instance, as some fused kernels do."""

    def on_train_begin(self, *_: Any, model: Any, **__: Any) -> None:
        layer = model.policy.model.layers[1].mlp.down_proj
        layer.forward = types.MethodType(nn.Linear.forward, layer)


def test_a_layer_whose_forward_was_replaced_stops_the_run_after_the_first_step(
    make_ppo: Callable[..., Any], rows_of: Callable[..., Any], tmp_path: Path
) -> None:
    callback = MXCallback(policy="C", output_dir=tmp_path)
    trainer = make_ppo(tmp_path, [callback, Bypass()], steps=3)
    with pytest.raises(UnhitLayersError, match=r"policy:model\.layers\.1\.mlp\.down_proj in rollout") as caught:
        trainer.train()
    assert str(caught.value).count(" in rollout") == 1
    assert trainer.state.global_step == 1
    assert [row["step"] for row in rows_of(callback.run_dir, "metrics.csv")] == ["1"]


def test_a_layer_that_the_model_never_calls_stops_the_run(make_ppo: Callable[..., Any], tmp_path: Path) -> None:
    trainer = make_ppo(tmp_path, [MXCallback(policy="C", output_dir=tmp_path)])
    trainer.policy_model.model.layers[0].mlp.spare = nn.Linear(64, 64)
    with pytest.raises(UnhitLayersError, match=r"policy:model\.layers\.0\.mlp\.spare in rollout"):
        trainer.train()


def test_a_value_layer_that_is_skipped_while_scoring_is_named_by_its_role(
    make_ppo: Callable[..., Any], tmp_path: Path
) -> None:
    trainer = make_ppo(tmp_path, [MXCallback(policy="C", output_dir=tmp_path)])
    trainer.value_model.model.layers[0].mlp.spare = nn.Linear(64, 64)
    with pytest.raises(UnhitLayersError, match=r"value:model\.layers\.0\.mlp\.spare in reward"):
        trainer.train()


def test_an_unhit_layer_can_be_made_a_warning(
    make_ppo: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_ppo(tmp_path, [MXCallback(policy="C", on_unhit="warn", output_dir=tmp_path), Bypass()])
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert trainer.state.global_step == 2
    assert any("policy:model.layers.1.mlp.down_proj in rollout" in record.message for record in caplog.records)


def test_a_skipped_layer_that_has_no_format_to_skip_is_fine(make_ppo: Callable[..., Any], tmp_path: Path) -> None:
    trainer = make_ppo(tmp_path, [MXCallback(policy="A", output_dir=tmp_path), Bypass()])
    trainer.train()
    assert trainer.state.global_step == 2
