"""``mx-plugin export``: which model of a run it takes, under which policy, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from mx_plugin.cli.main import main
from mx_plugin.precision import load_policy
from mx_trl import load_model
from mx_trl.errors import StageError
from mx_trl.export.command import export_model
from mx_trl.export.manifest import MANIFEST
from mx_trl.export.source import find_source

if TYPE_CHECKING:
    from mx_trl.embedded import EmbeddedFolder


def run_config(policy: str) -> str:
    """What a run writes to config.json, as far as an export reads it."""
    from mx_plugin.config import MXConfig
    from mx_plugin.precision import PolicyProvider

    return json.dumps(
        {
            "mx": MXConfig(policy=f"/gone/{policy}.yaml").to_dict(),
            "provider": PolicyProvider(load_policy(policy)).describe(),
        }
    )


def put_run(folder: Path, policy: str) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(run_config(policy), encoding="utf-8")


# ---------------------------------------------------------------------------- from a real run


@pytest.mark.trl
def test_what_a_real_run_leaves_is_exported_in_its_rollout_formats(
    embedded: EmbeddedFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM
    from trl import GRPOConfig, ModelConfig

    from mx_plugin.config import MXConfig
    from mx_trl.stages.arguments import GRPOScriptArguments
    from mx_trl.stages.grpo import run_grpo

    arguments = GRPOConfig(
        output_dir=str(tmp_path / "run"), per_device_train_batch_size=4, num_generations=4, max_completion_length=4,
        max_steps=1, save_steps=1, use_cpu=True, bf16=False, report_to="none", disable_tqdm=True, learning_rate=1e-3,
    )  # fmt: skip
    script = GRPOScriptArguments(
        dataset_name=str(embedded.prompts), reward="plain_words", num_prompts=8, dataset_train_split="train"
    )
    run_grpo(script, arguments, ModelConfig(model_name_or_path=str(embedded.policy)), MXConfig(policy="C8"))
    capsys.readouterr()
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "plain")]) == 0
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "packed"), "--packed"]) == 0
    assert "policy C8, rollout: 15 packed layers" in capsys.readouterr().out
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    packed = load_model(tmp_path / "packed")
    trained, before = plain.state_dict(), AutoModelForCausalLM.from_pretrained(embedded.policy).state_dict()
    assert not torch.equal(trained["model.norm.weight"], before["model.norm.weight"])  # the trained one, not the start
    assert torch.equal(packed.state_dict()["model.norm.weight"], trained["model.norm.weight"])


# ---------------------------------------------------------------------------- where a run keeps its model


@pytest.mark.parametrize("place", ["checkpoints/final", "model", "checkpoint-12", "checkpoints/checkpoint-12"])
def test_the_last_model_of_a_run_is_found(place: str, embedded: EmbeddedFolder, tmp_path: Path) -> None:
    put_run(tmp_path / "run" / "policy_C8", "C8")
    shutil.copytree(embedded.policy, tmp_path / "run" / "checkpoint-9")
    shutil.copytree(embedded.policy, tmp_path / "run" / place)
    run = tmp_path / "run"
    for given in (run, run / "policy_C8"):
        found = find_source(given)
        assert (found.model, found.run) == (run / place, run / "policy_C8" / "config.json")
    found = find_source(run / place)
    assert (found.model, found.run) == (run / place, (run / "policy_C8" / "config.json").resolve())
    assert found.provider(None).describe()["name"] == "C8"


def test_the_policy_is_the_one_in_config_json_though_its_file_is_gone(embedded: EmbeddedFolder, tmp_path: Path) -> None:
    put_run(tmp_path / "run", "C8")
    shutil.copytree(embedded.policy, tmp_path / "run" / "model")
    done = export_model(tmp_path / "run", tmp_path / "out", packed=True)
    assert done.manifest is not None and done.manifest.policy == "C8"
    assert {layer.weights for layer in done.manifest.layers.values()} == {"MXFP8"}


def test_an_older_run_that_was_moved_aside_does_not_count(embedded: EmbeddedFolder, tmp_path: Path) -> None:
    put_run(tmp_path / "policy_C", "C")
    put_run(tmp_path / "policy_C.1", "C")
    shutil.copytree(embedded.policy, tmp_path / "model")
    assert find_source(tmp_path).run == tmp_path / "policy_C" / "config.json"


def test_several_runs_in_one_folder_must_be_told_apart(embedded: EmbeddedFolder, tmp_path: Path) -> None:
    for policy in ("A", "C"):
        put_run(tmp_path / f"policy_{policy}", policy)
    shutil.copytree(embedded.policy, tmp_path / "model")
    with pytest.raises(StageError, match=r"holds 2 runs: give the folder of one.*policy_A.*policy_C"):
        find_source(tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "is no folder: give a run's folder"),
        (lambda path: path.mkdir(), r"holds no model \(looked for checkpoints/final, model"),
    ],
)
def test_a_folder_without_a_model_says_what_was_looked_for(
    make: Callable[[Path], Any], message: str, tmp_path: Path
) -> None:
    make(tmp_path / "run")
    with pytest.raises(StageError, match=message):
        export_model(tmp_path / "run", tmp_path / "out")


def test_a_lora_adapter_is_merged(embedded: EmbeddedFolder, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(embedded.policy)
    tuned = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    ids = torch.arange(12).view(2, 6)
    with torch.no_grad():
        wanted = tuned.eval()(ids).logits
    tuned.save_pretrained(tmp_path / "adapter")
    export_model(tmp_path / "adapter", tmp_path / "out")
    with torch.no_grad():
        found = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(ids).logits
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert (tmp_path / "out" / "tokenizer.json").is_file()


# ---------------------------------------------------------------------------- what is refused


def test_a_model_without_a_run_needs_a_policy(embedded: EmbeddedFolder, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"belongs to no run.*--policy C"):
        export_model(embedded.policy, tmp_path / "out", packed=True)
    assert not (tmp_path / "out").exists()


def test_a_policy_that_packs_nothing_says_so(embedded: EmbeddedFolder, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="policy A leaves every policy layer unquantised in rollout"):
        export_model(embedded.policy, tmp_path / "out", packed=True, policy="A")
    with pytest.raises(StageError, match="needs --packed"):
        export_model(embedded.policy, tmp_path / "out", policy="C")


def test_quantised_activations_on_plain_weights_cannot_be_packed(embedded: EmbeddedFolder, tmp_path: Path) -> None:
    policy = tmp_path / "p.yaml"
    policy.write_text("version: 1\nname: p\ndefaults: {rollout: FP16/MXFP8}\n", encoding="utf-8")
    with pytest.raises(StageError, match="q_proj runs as FP16/MXFP8 in rollout: activations alone"):
        export_model(embedded.policy, tmp_path / "out", packed=True, policy=str(policy))


def test_what_is_there_is_replaced_only_when_asked_and_only_if_it_is_a_model(
    embedded: EmbeddedFolder, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(StageError, match="is no exported model"):
        export_model(embedded.policy, tmp_path / "mine", overwrite=True)
    export_model(embedded.policy, tmp_path / "out")
    with pytest.raises(StageError, match="give --overwrite"):
        export_model(embedded.policy, tmp_path / "out", packed=True, policy="C")
    export_model(embedded.policy, tmp_path / "out", packed=True, policy="C", overwrite=True)
    assert (tmp_path / "out" / MANIFEST).is_file() and not (tmp_path / "out" / "model.safetensors").exists()
    (tmp_path / "out" / "checkpoint-500").mkdir()
    with pytest.raises(StageError, match=r"holds more than an exported model \(checkpoint-500\)"):
        export_model(embedded.policy, tmp_path / "out", overwrite=True)
    with pytest.raises(StageError, match="holds the model that is exported"):
        export_model(embedded.policy, embedded.policy, overwrite=True)


def test_a_failed_export_leaves_nothing_behind(embedded: EmbeddedFolder, tmp_path: Path) -> None:
    with pytest.raises(StageError):
        export_model(embedded.policy, tmp_path / "deep" / "out", packed=True, policy="A")
    assert not any((tmp_path / "deep").iterdir())


def test_the_model_can_be_converted_first(embedded: EmbeddedFolder, tmp_path: Path) -> None:
    done = export_model(embedded.policy, tmp_path / "out", packed=True, policy="C8", dtype="bfloat16")
    model = load_model(tmp_path / "out")
    assert model.dtype == torch.bfloat16 and done.manifest is not None
    assert done.manifest.other_bytes == sum(p.nbytes for p in model.parameters() if type(p) is torch.nn.Parameter)
