"""Trainers that generate with vLLM, as far as they run without it: TRL's own syncing, and an engine of the test's.

What a real vLLM holds is seen under ``tests/vllm/real`` (``make test_vllm``); here both lines of TRL are.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.vllm.oracle import rounded

from .trainers import Workshop, config_of, csv_rows, losses, plain

pytest.importorskip("trl")

from trl import GRPOTrainer, RLOOTrainer
from trl.experimental.online_dpo import OnlineDPOTrainer
from trl.generation.vllm_client import VLLMClient
from trl.generation.vllm_generation import VLLMGeneration

from mx_plugin.errors import AdoptionError, UnhitLayersError
from mx_trl import MXCallback
from mx_trl.vllm.place import find_vllm
from mx_trl.vllm.rollouts import read_tokens

if TYPE_CHECKING:
    from mx_trl.embedded import EmbeddedFolder

POLICY = """
version: 1
name: rolled
defaults: {rollout: MXFP4, reward: FP16, gradient: FP16}
lm_head: {rollout: MXFP8}
rules:
  - {layers: "*.0.self_attn.k_proj", format: MXFP8, phases: [rollout]}
"""


class Server:
    """In the place of TRL's client: keeps what it is sent, and answers with words that a seed draws."""

    def __init__(self, quantization: str | None = None) -> None:
        self.quantization = quantization
        self.syncs: list[dict[str, torch.Tensor]] = []
        self.announced: list[Any] = []
        self.generator = torch.Generator().manual_seed(0)

    def get_server_info(self) -> dict[str, Any]:
        return {"model_config": {"dtype": "torch.bfloat16", "quantization": self.quantization}}

    def update_named_params(self, metadata: Any, named_params: Any) -> None:
        self.announced = metadata
        self.syncs.append({name: tensor.clone() for name, tensor in named_params})

    def reset_prefix_cache(self) -> None:
        pass

    def generate(self, prompts: list[list[int]], n: int, **_: Any) -> dict[str, Any]:
        answers = [torch.randint(5, 60, (6,), generator=self.generator).tolist() for _ in range(n * len(prompts))]
        chances = [[[-1.0]] * len(answer) for answer in answers]
        return {"prompt_ids": prompts, "completion_ids": answers, "logprobs": chances, "logprob_token_ids": None}


@pytest.fixture
def workshop(embedded: EmbeddedFolder, tmp_path: Path) -> Workshop:
    return Workshop(embedded, tmp_path)


@pytest.fixture
def policy(tmp_path: Path) -> str:
    path = tmp_path / "rolled.yaml"
    path.write_text(POLICY)
    return str(path)


def with_vllm(trainer: Any, client: Server) -> Any:
    """Give a trainer that was made without vLLM TRL's own object for it, in server mode."""
    generation = VLLMGeneration.__new__(VLLMGeneration)
    for name, value in inspect.signature(VLLMGeneration.__init__).parameters.items():
        if value.default is not inspect.Parameter.empty:
            setattr(generation, name, value.default)
    generation.mode, generation.vllm_client, generation.generation_kwargs = "server", client, {}
    generation.model, generation.accelerator, generation._weight_metadata = trainer.model, trainer.accelerator, None
    generation.max_completion_length = 8
    made = VLLMGeneration.__init__.__globals__.get("DistributedBackend")
    if made is not None:
        generation._dist = made(trainer.accelerator)
    trainer.use_vllm, trainer.vllm_mode, trainer.vllm_generation = True, "server", generation
    trainer._last_loaded_step = -1
    return trainer


def run(workshop: Workshop, policy: str, client: Server, kind: str = "grpo", **options: Any) -> tuple[Any, MXCallback]:
    callback = MXCallback(policy=policy, output_dir=workshop.folder, mismatch_every=1, **options.pop("mx", {}))
    trainer = with_vllm(workshop.trainer(kind, [callback], model=workshop.policy("llama"), **options), client)
    trainer.train()
    return trainer, callback


def formats_of(name: str) -> str:
    """By the policy: siblings of the wider k_proj take its format, for vLLM fuses them."""
    if name == "lm_head.weight" or name.startswith(tuple(f"model.layers.0.self_attn.{x}_proj" for x in "qkv")):
        return "MXFP8"
    return "MXFP4" if "_proj" in name else "FP16"


# ---------------------------------------------------------------------------- what is sent


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_what_is_sent_is_the_trainers_weights_in_their_rollout_formats_and_nothing_trained_is_written(
    kind: str, workshop: Workshop, policy: str
) -> None:
    client = Server()
    model = workshop.policy("llama")
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    trainer, _ = run(workshop, policy, client, kind)
    assert len(client.syncs) == 2
    first = client.syncs[0]
    assert first.keys() == before.keys()
    for name, tensor in first.items():
        fmt = formats_of(name)
        expected = before[name] if fmt == "FP16" else rounded(before[name], fmt).float()
        assert torch.equal(tensor, expected), name
    assert [name for name, *_ in client.announced] == list(first)
    assert plain(trainer.model) and not {"sync_weights", "generate"} & trainer.vllm_generation.__dict__.keys()
    assert "update_named_params" not in client.__dict__ and trainer._last_loaded_step == -1


def test_adapters_are_merged_before_the_weight_is_rounded(workshop: Workshop, policy: str) -> None:
    from peft import LoraConfig

    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    client = Server()
    callback = MXCallback(policy=policy, output_dir=workshop.folder)
    trainer = workshop.trainer("grpo", [callback], model=workshop.policy("llama"), extra={"peft_config": config})
    layer = trainer.model.base_model.model.model.layers[1].mlp.down_proj
    expected = layer.base_layer.weight + layer.get_delta_weight("default")
    with_vllm(trainer, client).train()
    sent = client.syncs[0]["model.layers.1.mlp.down_proj.weight"]
    assert torch.equal(sent, rounded(expected, "MXFP4").float())
    assert not torch.equal(sent, rounded(layer.base_layer.weight, "MXFP4").float())
    assert not [name for name in client.syncs[0] if "lora" in name]


def test_policy_a_sends_the_weights_as_they_are_and_gives_the_losses_of_trl_alone(workshop: Workshop) -> None:
    bare = with_vllm(workshop.trainer("grpo", model=workshop.policy("llama"), out="bare"), Server())
    bare.train()
    trainer, _ = run(workshop, "A", Server())
    assert losses(trainer) == losses(bare)
    for ours, theirs in zip(
        trainer.vllm_generation.vllm_client.syncs, bare.vllm_generation.vllm_client.syncs, strict=True
    ):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_weights_synced_by_an_evaluation_before_training_are_synced_again(workshop: Workshop, policy: str) -> None:
    client = Server()
    callback = MXCallback(policy=policy, output_dir=workshop.folder)
    trainer = with_vllm(workshop.trainer("grpo", [callback], model=workshop.policy("llama"), max_steps=1), client)
    trainer.evaluate()
    trainer.train()
    assert len(client.syncs) == 2
    name = "model.layers.1.mlp.down_proj.weight"
    assert not torch.equal(client.syncs[0][name], client.syncs[1][name])
    assert torch.equal(client.syncs[1][name], rounded(client.syncs[0][name], "MXFP4").float())


# ---------------------------------------------------------------------------- what is written down


def test_rows_formats_and_gate_tell_of_weights_only_rollouts(workshop: Workshop, policy: str) -> None:
    trainer, callback = run(workshop, policy, Server())
    assert callback.run_dir is not None
    config = config_of(callback.run_dir)
    told = config["rollout"]
    assert (told["engine"], told["mode"], told["execution"], told["synced"]) == ("vllm", "server", "weights-only", 2)
    assert list(told["projected"]) == ["model.layers.0.self_attn.qkv_proj"] and told["dtype"] == "bfloat16"
    assert config["formats"]["policy"]["rollout"]["model.layers.1.self_attn.q_proj"] == "MXFP4/FP16"
    rows = [row for row in csv_rows(callback.run_dir, "energy.csv", phase="rollout") if row["role"] == "policy"]
    assert {row["format"] for row in rows} == {"MXFP4/FP16+weights-only", "MXFP8/FP16+weights-only"}
    assert all(row["bytes"] == row["joules"] == row["source"] == "" and int(row["macs"]) > 0 for row in rows)
    log = trainer.state.log_history[0]
    assert log["mx/mismatch/mean_abs_logratio"] > 0 and log["mx/rollout/seconds"] > 0
    assert "sampling/importance_sampling_ratio/mean" in log and "rollout" not in config["hits"].get("policy", {})


def test_tokens_are_read_from_lists_and_from_padded_tensors() -> None:
    assert read_tokens(([[1, 2]], [[3]], None, None)) == ([[1, 2]], [[3]])
    tensors = [torch.tensor(rows) for rows in ([[0, 7, 8]], [[0, 1, 1]], [[9, 2, 0]], [[1, 1, 0]])]
    assert read_tokens(tuple(tensors)) == ([[7, 8]], [[9, 2]])


# ---------------------------------------------------------------------------- nothing in silence


def test_a_weight_that_is_not_sent_ends_the_run(
    workshop: Workshop, policy: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original = VLLMGeneration._iter_named_params

    def forgetful(self: Any) -> Iterator[Any]:
        return ((name, tensor) for name, tensor in original(self) if "up_proj" not in name)

    monkeypatch.setattr(VLLMGeneration, "_iter_named_params", forgetful)
    with pytest.raises(UnhitLayersError, match=r"2 layers have a rollout format but were not sent .*up_proj"):
        run(workshop, policy, Server())
    with caplog.at_level(logging.WARNING):
        run(workshop, policy, Server(), mx={"on_unhit": "warn"})
    assert "were not sent to vLLM" in caplog.text


def test_a_rollout_before_any_sync_ends_the_run(
    workshop: Workshop, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    callback = MXCallback(policy=policy, output_dir=workshop.folder)
    trainer = with_vllm(workshop.trainer("grpo", [callback], model=workshop.policy("llama")), Server())
    monkeypatch.setattr(type(trainer), "_last_loaded_step", property(lambda _: 0, lambda *_: None), raising=False)
    with pytest.raises(UnhitLayersError, match="before the policy's weights were synced"):
        trainer.train()
    assert plain(trainer.model)


def test_a_server_that_quantises_by_itself_is_refused_unless_rollouts_are_not_quantised(
    workshop: Workshop, policy: str
) -> None:
    with pytest.raises(AdoptionError, match="quantises weights by itself \\(mxfp8\\)"):
        run(workshop, policy, Server("mxfp8"))
    run(workshop, "A", Server("mxfp8"))


@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        ({"use_vllm": True}, "has no _move_model_to_vllm"),
        ({"rollout_worker": object()}, "asynchronously"),
        ({"use_vllm": True, "vllm_generation": SimpleNamespace(sync_weights=print, generate=print)}, "mode None"),
    ],
)
def test_a_trainer_that_generates_with_vllm_in_another_way_is_refused(attributes: dict[str, Any], why: str) -> None:
    with pytest.raises(AdoptionError, match=why):
        find_vllm(SimpleNamespace(args=SimpleNamespace(), **attributes))
    assert find_vllm(SimpleNamespace(args=SimpleNamespace(use_vllm=False))) is None


# ---------------------------------------------------------------------------- what is taken for granted of TRL


def test_trl_syncs_before_the_first_rollout_through_the_methods_that_are_followed() -> None:
    for trainer in (GRPOTrainer, RLOOTrainer):
        source = inspect.getsource(trainer)
        assert "self._last_loaded_step = -1" in source and "self.vllm_generation.sync_weights()" in source
        assert "self.vllm_generation.generate(" in source and "self.use_vllm" in source
    source = inspect.getsource(OnlineDPOTrainer)
    assert "self._last_loaded_step = -1" in source and "self._move_model_to_vllm()" in source
    assert "self._generate_vllm(prompts, images)" in source and "self.vllm_client.update_named_param(" in source
    assert "self.update_named_params(" in inspect.getsource(VLLMClient.update_named_param)
    assert list(inspect.signature(VLLMClient.update_named_params).parameters)[1:] == ["metadata", "named_params"]
    for source in (inspect.getsource(VLLMGeneration), inspect.getsource(OnlineDPOTrainer)):
        assert "llm.llm_engine.model_executor.driver_worker.model_runner.model" in source
        assert "load_weights([(name, param" in source
