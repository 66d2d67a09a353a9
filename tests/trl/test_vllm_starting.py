"""The vLLM that a trainer is about to make: with which arguments, and what is left of that afterwards."""

from __future__ import annotations

import inspect
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import transformers
from torch import nn
from transformers import TrainerControl, TrainerState
from trl import GRPOTrainer, RLOOTrainer
from trl.experimental.online_dpo import OnlineDPOTrainer

from mx_plugin.config import MXConfig
from mx_plugin.execution.held_weights import OwnFormat
from mx_trl import MXCallback
from mx_trl.vllm import starting
from mx_trl.vllm.starting import start_with_own_formats
from mx_vllm import choice

COLOCATED: Any = SimpleNamespace(use_vllm=True, vllm_mode="colocate", world_size=1)
C8 = MXConfig(policy="C8")


class Policy(nn.Module):
    name_or_path = "somewhere/policy"

    def __init__(self) -> None:
        super().__init__()
        self.o_proj = nn.Linear(64, 64)


class LLM:
    """What is kept of an engine: its arguments, and whether its syncs are bracketed."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments
        self.reloads = False


def bracketed(llm: LLM) -> Any:
    llm.reloads = True
    return SimpleNamespace(executed=set())


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> type[Any]:
    """A class of engines whose device has a kernel for MXFP8."""
    cls = type("LLM", (LLM,), {"__init__": LLM.__init__})
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=cls))
    monkeypatch.setattr(starting, "reload_around_syncs", bracketed)
    monkeypatch.setattr(choice, "executed_here", lambda: [OwnFormat("MXFP8", "FP16", "MarlinMxfp8LinearKernel")])
    return cls


def test_the_trainers_vllm_is_made_with_the_format_and_later_ones_are_not(engines: type[Any]) -> None:
    found = start_with_own_formats(COLOCATED, Policy(), C8)
    assert found is not None and found.layers == ("o_proj",)
    other = engines(model="another")
    first = engines(model="somewhere/policy", quantization=None)
    second = engines(model="somewhere/policy")
    assert "quantization" not in other.arguments and second.arguments == {"model": "somewhere/policy"}
    assert first.arguments["quantization"] == "online"
    assert [x.reloads for x in (other, first, second)] == [False, True, False]
    assert engines.__init__ is LLM.__init__


def test_layers_that_vllm_does_not_execute_after_all_are_told(
    engines: type[Any], caplog: pytest.LogCaptureFixture
) -> None:
    start_with_own_formats(COLOCATED, Policy(), C8)
    engines(model="somewhere/policy")
    assert "vLLM does not execute 1 layers in MXFP8/FP16: o_proj" in caplog.text


def test_an_engine_that_was_never_made_leaves_nothing_behind(engines: type[Any]) -> None:
    """The trainer's constructor raised; the next trainer has no vLLM."""
    start_with_own_formats(COLOCATED, Policy(), C8)
    start_with_own_formats(SimpleNamespace(), Policy(), C8)
    assert engines.__init__ is LLM.__init__


def test_a_quantisation_of_the_trainers_own_is_left_to_it(engines: type[Any]) -> None:
    """TRL loads a policy in 4 bits into vLLM as bitsandbytes."""
    start_with_own_formats(COLOCATED, Policy(), C8)
    made = engines(model="somewhere/policy", quantization="bitsandbytes")
    assert made.arguments["quantization"] == "bitsandbytes" and "quantization_config" not in made.arguments
    assert engines.__init__ is LLM.__init__ and not made.reloads


@pytest.mark.parametrize(
    ("args", "config"),
    [
        (SimpleNamespace(), C8),
        (SimpleNamespace(use_vllm=False, vllm_mode="colocate"), C8),
        (SimpleNamespace(use_vllm=True, vllm_mode="server"), C8),
        (COLOCATED, MXConfig(policy="A")),
        (COLOCATED, MXConfig(policy="C8", vllm_formats="rounded")),
        (SimpleNamespace(use_vllm=True, vllm_mode="colocate", world_size=2), MXConfig(sensitivity_matrix="x.csv")),
    ],
    ids=["no vLLM", "vLLM off", "server", "unquantised", "option", "matrix on several ranks"],
)
def test_otherwise_vllm_is_made_as_ever(args: Any, config: MXConfig, engines: type[Any]) -> None:
    assert start_with_own_formats(args, Policy(), config) is None
    assert engines(model="somewhere/policy").arguments == {"model": "somewhere/policy"}


def test_the_callback_hears_of_a_trainer_before_that_makes_its_vllm(engines: type[Any]) -> None:
    """transformers' constructor calls it at its end; TRL's trainers make their vLLM after it."""
    MXCallback(C8).on_init_end(COLOCATED, TrainerState(), TrainerControl(), model=Policy())
    assert engines(model="somewhere/policy").arguments["quantization"] == "online"
    assert "callback_handler.on_init_end(" in inspect.getsource(transformers.Trainer.__init__)
    for trainer, making in (
        (GRPOTrainer, "VLLMGeneration("),
        (RLOOTrainer, "VLLMGeneration("),
        (OnlineDPOTrainer, "LLM("),
    ):
        source = inspect.getsource(trainer.__init__)
        assert 0 < source.index("super().__init__(") < source.index(making)
