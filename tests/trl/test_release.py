"""``release_frozen=True`` in real trainers: less memory, the same numbers, and every weight back at the end."""

from __future__ import annotations

import copy
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from mx_plugin import quantize
from mx_plugin.errors import ReleasedWeightError
from mx_plugin.execution.released_weight import ReleasedWeight

from .trainers import ALL_MX, SEED, TRUNK, Workshop, config_of, losses, plain, same_weights, tiny_model

pytest.importorskip("trl")

from mx_trl import MXCallback
from mx_trl.weight_files import weight_files

if TYPE_CHECKING:
    from mx_trl.embedded import EmbeddedFolder

DGRAD_PLAIN = """
version: 1
name: dgrad_plain
defaults:
  rollout: MXFP8
  reward: MXFP8
  gradient: {forward: MXFP8/MXFP8, dgrad: FP16, wgrad: FP16}
"""


@pytest.fixture
def workshop(embedded: EmbeddedFolder, tmp_path: Path) -> Workshop:
    return Workshop(embedded, tmp_path)


class During(TrainerCallback):
    """Calls ``look(trainer)`` at the end of every step."""

    def __init__(self, look: Callable[[Any], Any]) -> None:
        self.look = look
        self.trainer: Any = None
        self.seen: list[Any] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seen.append(self.look(self.trainer))


def released(module: nn.Module) -> list[str]:
    return [name for name, p in module.named_parameters() if isinstance(p, ReleasedWeight)]


def watched(trainer: Any, look: Callable[[Any], Any]) -> During:
    watch = During(look)
    watch.trainer = trainer
    trainer.add_callback(watch)
    return watch


def of_role(run_dir: Path, role: str) -> list[dict[str, Any]]:
    return [entry for entry in config_of(run_dir)["released"]["layers"] if entry["role"] == role]


# ---------------------------------------------------------------------------- PPO: reference and reward models


@pytest.mark.trl("<1.13")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_ppo_with_released_reference_and_reward_gives_the_same_bits(
    make_ppo: Callable[..., Any],
    numbers_of: Callable[..., Any],
    weights_of: Callable[..., Any],
    tmp_path: Path,
    dtype: torch.dtype,
) -> None:
    results, logs = [], []
    for release in (False, True):
        callback = MXCallback(policy="C", output_dir=tmp_path / str(release), release_frozen=release)
        trainer = make_ppo(tmp_path, [callback], dtype=dtype)
        before = [copy.deepcopy(model.state_dict()) for model in (trainer.ref_model, trainer.reward_model)]
        watch = watched(trainer, lambda t: [released(m) for m in (t.ref_model, t.reward_model, t.model)])
        trainer.train()
        results.append((numbers_of(trainer), weights_of(trainer)))
        logs.append(trainer.state.log_history)
        for model, state in zip((trainer.ref_model, trainer.reward_model), before, strict=True):
            assert plain(model) and not released(model)
            assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    (numbers, weights), (same_numbers, same) = results
    assert numbers == same_numbers
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    reference, reward, trained = watch.seen[0]
    assert (len(reference), len(reward), trained) == (2 * len(TRUNK), len(TRUNK), [])
    measured = [any("mx/kl_unquantised" in entry for entry in log) for log in logs]
    assert measured == [True, False], "a released model has no unquantised KL to measure"
    assert callback.run_dir is not None
    assert {(e["format"], e["restored"]) for e in of_role(callback.run_dir, "reference")} == {("MXFP4", "source")}
    assert {(e["format"], e["restored"]) for e in of_role(callback.run_dir, "reward")} == {("MXFP8", "source")}
    text = (callback.run_dir / "training_log.txt").read_text()
    assert "gave up" in text and "kl_unquantised is not measured" in text and "reloaded from their source" in text


@pytest.mark.trl("<1.13")
def test_ppo_on_a_lora_base_scores_its_reference_on_the_same_packed_copy(
    make_ppo: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(ALL_MX)
    callback = MXCallback(policy=str(path), output_dir=tmp_path, release_frozen=True)
    trainer = make_ppo(tmp_path, [callback], peft_config=lora())
    watch = watched(trainer, lambda t: len(released(t.model.policy)))
    trainer.train()
    assert watch.seen == [2 * len(TRUNK)] * 2
    assert plain(trainer.model) and not released(trainer.model)
    assert {e["restored"] for e in of_role(callback.run_dir, "policy")} == {"source"}


@pytest.mark.trl("<1.13")
def test_a_policy_that_quantises_nothing_says_that_nothing_was_released_and_why(
    make_ppo: Callable[..., Any], tmp_path: Path
) -> None:
    callback = MXCallback(policy="A", output_dir=tmp_path, release_frozen=True)
    make_ppo(tmp_path, [callback], steps=1).train()
    assert callback.run_dir is not None
    told = config_of(callback.run_dir)["released"]
    assert told["layers"] == [] and (told["bytes"], told["packed_bytes"]) == (0, 0)
    assert {item["reason"] for item in told["kept"] if item["role"] == "reward"} == {
        "its weight is not quantised in reward"
    }
    assert {item["reason"] for item in told["kept"] if item["role"] == "policy"} == {"its weight is trained"}
    assert "released no layer" in (callback.run_dir / "training_log.txt").read_text()


@pytest.mark.trl("<1.13")
def test_weights_come_back_when_training_raises(make_ppo: Callable[..., Any], tmp_path: Path) -> None:
    callback = MXCallback(policy="C", output_dir=tmp_path, release_frozen=True)
    trainer = make_ppo(tmp_path, [callback])
    before = copy.deepcopy(trainer.reward_model)

    def interrupt(trainer: Any) -> None:
        raise KeyboardInterrupt

    watched(trainer, interrupt)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert plain(trainer.reward_model) and same_weights(trainer.reward_model, before)
    assert [p.requires_grad for p in trainer.reward_model.parameters()] == [
        p.requires_grad for p in before.parameters()
    ]
    assert {entry["restored"] for entry in of_role(callback.run_dir, "reward")} == {"source"}


@pytest.mark.trl("<1.13")
def test_a_file_that_changes_during_training_is_not_reloaded(
    make_ppo: Callable[..., Any], embedded: EmbeddedFolder, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    from mx_trl.models import load_scorer

    folder = tmp_path / "reward"
    shutil.copytree(embedded.reward, folder)
    reward = load_scorer(str(folder), "reward")
    target = "model.layers.0.mlp.up_proj.weight"
    with torch.no_grad():
        reward.get_parameter(target).normal_()
    reward.save_pretrained(folder)
    before = copy.deepcopy(reward.state_dict())
    callback = MXCallback(policy="C", output_dir=tmp_path, release_frozen=True)
    trainer = make_ppo(tmp_path, [callback], reward=reward, steps=1)

    def overwrite(trainer: Any) -> None:
        tensors = load_file(folder / "model.safetensors")
        tensors[target] = tensors[target] + 1
        save_file(tensors, folder / "other.safetensors", metadata={"format": "pt"})
        (folder / "other.safetensors").replace(folder / "model.safetensors")

    watched(trainer, overwrite)
    trainer.train()
    told = {entry["layer"]: entry for entry in of_role(callback.run_dir, "reward")}
    changed = told.pop(target.removesuffix(".weight"))
    assert changed["restored"] == "decoded" and "has changed since" in changed["why_not_from_source"]
    assert {entry["restored"] for entry in told.values()} == {"source"}
    decoded = quantize(before[target], "MXFP8", scale_rule="rceil").dequantize()
    assert torch.equal(reward.get_parameter(target), decoded)
    assert "keep decoded MX values" in (callback.run_dir / "training_log.txt").read_text()


# ---------------------------------------------------------------------------- LoRA


def lora(r: int = 4) -> Any:
    from peft import LoraConfig

    return LoraConfig(r=r, target_modules=["q_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM")


def lora_trainer(workshop: Workshop, kind: str, policy: str, release: bool, **config: Any) -> tuple[Any, MXCallback]:
    path = workshop.folder / "policy.yaml"
    path.write_text(policy)
    callback = MXCallback(policy=str(path), output_dir=workshop.folder / f"{kind}-{release}", release_frozen=release)
    extra = {"peft_config": lora()}
    return workshop.trainer(kind, [callback], extra=extra, out=f"{kind}{release}", **config), callback


@pytest.mark.parametrize("kind", ["grpo", "dpo", "sft"])
def test_a_base_under_lora_trains_on_one_packed_copy(kind: str, workshop: Workshop) -> None:
    """Without MX products in dgrad the plain run differs only by taking the full-precision W there."""
    beta = {"beta": 0.1} if kind != "sft" else {}
    first = {}
    for release in (False, True):
        trainer, callback = lora_trainer(workshop, kind, DGRAD_PLAIN, release, **beta)
        base = copy.deepcopy(trainer.model.base_model.model.state_dict())
        watch = watched(trainer, lambda t: released(t.model))
        trainer.train()
        first[release] = losses(trainer)
        assert plain(trainer.model) and not released(trainer.model)
        after = trainer.model.base_model.model.state_dict()
        assert all(torch.equal(after[name], base[name]) for name in base if "lora_" not in name)
    assert len(watch.seen[0]) == 2 * len(TRUNK)
    told = of_role(callback.run_dir, "policy")
    assert {(e["format"], e["restored"]) for e in told} == {("MXFP8", "source")}
    assert {e["dgrad"] for e in told} == {"W is the decoded forward weight, blocked along in, not cast again along out"}
    assert all(e["source"]["tensor"] == f"{e['layer']}.weight" for e in told)
    # Rollout, scoring and forward are the same bits; only gradients may differ, by the rounding of W.
    assert first[True][0].keys() == first[False][0].keys()
    for key in ("loss", "kl", "reward", "rewards/chosen", "completions/mean_length"):
        if key in first[True][0]:
            assert first[True][0][key] == first[False][0][key], key
    gradients = [first[release][0]["grad_norm"] for release in (False, True)]
    assert gradients[0] != gradients[1] and abs(gradients[0] - gradients[1]) < 0.1 * gradients[0]


def test_policy_b_releases_a_lora_base_and_books_dgrad_as_executed(workshop: Workshop) -> None:
    trainer, callback = lora_trainer(workshop, "grpo", ALL_MX, True, beta=0.0)
    trainer.train()
    told = config_of(callback.run_dir)
    assert len(told["released"]["layers"]) == 2 * len(TRUNK)
    formats = told["formats"]["policy"]["gradient"]["model.layers.0.mlp.up_proj"]
    assert formats.startswith("forward MXFP8/MXFP8, dgrad MXFP8/MXFP8")


def test_merging_saving_and_loading_while_released(workshop: Workshop, tmp_path: Path) -> None:
    """Saving decodes; merging and loading are refused before anything changes."""
    from transformers import AutoModelForCausalLM

    trainer, _ = lora_trainer(workshop, "grpo", ALL_MX, True, beta=0.0, save_strategy="steps", save_steps=1)
    name = "model.layers.1.mlp.down_proj"

    def look(trainer: Any) -> None:
        model = trainer.model
        layer = model.base_model.model.get_submodule(name)
        with pytest.raises(ReleasedWeightError, match="release_frozen=False"):
            model.merge_adapter()
        with pytest.raises(ReleasedWeightError, match="release_frozen=False"):
            model.merge_adapter(safe_merge=True)
        assert not any(getattr(module, "merged_adapters", None) for module in model.modules())
        with pytest.raises(RuntimeError, match="release_frozen=False"):
            model.load_state_dict({key: tensor + 1 for key, tensor in model.state_dict().items()}, strict=False)
        model.unload  # noqa: B018  what PEFT offers is still there
        trainer.accelerator.unwrap_model(model)
        state = model.base_model.model.state_dict()
        assert type(state[f"{name}.base_layer.weight"]) is torch.Tensor
        if not (tmp_path / "saved").exists():
            bare = copy.deepcopy(model).unload()
            assert plain(bare) and not released(bare)
            bare.save_pretrained(tmp_path / "saved")
            saved = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
            assert torch.equal(saved.get_submodule(name).weight, layer.base_layer.weight)

    watch = watched(trainer, look)
    trainer.train()
    assert len(watch.seen) == 2
    assert list((workshop.folder / "grpoTrue").glob("checkpoint-*/adapter_model.safetensors"))


def test_a_model_saved_while_released_loads_with_decoded_values(workshop: Workshop, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from mx_plugin import get_backend
    from mx_plugin.execution.engine import Engine
    from mx_plugin.precision import PolicyProvider, PrecisionPolicy

    for family in ("qwen2", "llama", "gpt2"):
        model = tiny_model(family, workshop.tokenizer()).requires_grad_(False)
        bare = copy.deepcopy(model)
        defaults = {"rollout": "MXFP8", "reward": "MXFP8", "gradient": "MXFP8"}
        policy = PrecisionPolicy.from_dict({"version": 1, "name": "all", "defaults": defaults})
        with Engine(PolicyProvider(policy), get_backend("cpu")) as engine:
            engine.adopt({"reference": model})
            engine.release()
            assert len(released(model)) == len(engine.layers) - 1
            assert model.num_parameters() == bare.num_parameters() and model.dtype == bare.dtype
            model.to("cpu")
            model.save_pretrained(tmp_path / family)
            expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        saved = AutoModelForCausalLM.from_pretrained(tmp_path / family)
        assert plain(saved)
        for name, tensor in saved.state_dict().items():
            assert torch.equal(tensor, expected[name])
        assert not same_weights(saved, bare)


# ---------------------------------------------------------------------------- who else writes


def test_a_reference_that_trl_synchronises_keeps_its_weights(workshop: Workshop) -> None:
    callback = MXCallback(policy="B", output_dir=workshop.folder, release_frozen=True)
    trainer = workshop.trainer("grpo", [callback], beta=0.1, sync_ref_model=True, ref_model_sync_steps=1)
    trainer.train()
    told = config_of(callback.run_dir)["released"]
    assert not [entry for entry in told["layers"] if entry["role"] == "reference"]
    assert "SyncRefModelCallback writes its weight" in {i["reason"] for i in told["kept"] if i["role"] == "reference"}


def test_references_and_reward_models_of_grpo_are_released_and_change_no_number(workshop: Workshop) -> None:
    results = []
    for release in (False, True):
        callback = MXCallback(policy="B", output_dir=workshop.folder / str(release), release_frozen=release)
        trainer = workshop.trainer("grpo", [callback], beta=0.1, rewards=[workshop.scorer()], out=str(release))
        trainer.train()
        results.append((losses(trainer), copy.deepcopy(trainer.model.state_dict())))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(results[0][1][name], tensor) for name, tensor in results[1][1].items())
    assert len(of_role(callback.run_dir, "reference")) == 2 * len(TRUNK)
    assert len(of_role(callback.run_dir, "reward")) == len(TRUNK)


def test_a_reward_model_in_training_is_not_a_frozen_one(workshop: Workshop) -> None:
    callback = MXCallback(policy="B", output_dir=workshop.folder, release_frozen=True)
    workshop.trainer("reward", [callback]).train()
    told = config_of(callback.run_dir)["released"]
    assert not told["layers"] and {item["reason"] for item in told["kept"]} == {"its weight is trained"}


# ---------------------------------------------------------------------------- where weights were loaded from


class Layer:
    def __init__(self, module: nn.Module) -> None:
        self.module = module


def test_sharded_files_and_other_prefixes_are_found(workshop: Workshop, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    torch.manual_seed(SEED)
    model = tiny_model("llama", workshop.tokenizer())
    model.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").is_file()
    model.model.save_pretrained(tmp_path / "bare")
    for folder, auto in (
        ("shards", AutoModelForCausalLM),
        ("shards", AutoModelForSequenceClassification),
        ("bare", AutoModelForCausalLM),
    ):
        loaded = auto.from_pretrained(tmp_path / folder)
        find = weight_files({"policy": nn.ModuleList([loaded])})
        for name, module in loaded.named_modules():
            if name.endswith(TRUNK):
                source = find(Layer(module))
                assert source is not None, name
                assert torch.equal(source.read(), module.weight)
                assert source.describe()["file"].startswith(str(tmp_path / folder))
    assert find(Layer(nn.Linear(2, 2))) is None


def test_a_model_of_the_hubs_cache_is_found_there(
    embedded: EmbeddedFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mx_trl.models import load_policy

    snapshot = tmp_path / "models--someone--something" / "snapshots" / "0123456789abcdef"
    shutil.copytree(embedded.policy, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(snapshot.name)
    model = load_policy("someone/something", cache_dir=tmp_path, local_files_only=True)
    assert model.config._name_or_path == "someone/something"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    layer = model.model.layers[0].mlp.up_proj
    source = weight_files({"policy": model})(Layer(layer))
    assert source is not None and torch.equal(source.read(), layer.weight)


@pytest.mark.parametrize("content", [None, "no safetensors at all", "index"])
def test_unreadable_files_are_no_source(workshop: Workshop, tmp_path: Path, content: str | None) -> None:
    model = tiny_model("llama", workshop.tokenizer())
    model.config._name_or_path = str(tmp_path)
    if content == "index":
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"no": "map"}))
    elif content:
        (tmp_path / "model.safetensors").write_text(content)
    assert weight_files({"policy": model})(Layer(model.model.layers[0].mlp.up_proj)) is None


def test_a_released_policy_without_a_source_says_at_the_start_and_at_the_end_that_it_stays_decoded(
    workshop: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    model = workshop.policy()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(1.001)
    path = workshop.folder / "policy.yaml"
    path.write_text(ALL_MX)
    callback = MXCallback(policy=str(path), output_dir=workshop.folder, release_frozen=True)
    trainer = workshop.trainer("sft", [callback], model=model, extra={"peft_config": lora()})
    trainer.train()
    assert "1 layers will keep decoded MX values at the end" in caplog.text
    assert "1 layers keep decoded MX values" in caplog.text and "policy:model.layers.0.mlp.up_proj" in caplog.text
    told = {entry["layer"]: entry["restored"] for entry in of_role(callback.run_dir, "policy")}
    assert told.pop("model.layers.0.mlp.up_proj") == "decoded" and set(told.values()) == {"source"}
