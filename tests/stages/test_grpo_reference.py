"""GRPO's reference is the policy as it began: the same dtype, the same rows, a KL of 0 in the first step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from trl import GRPOConfig, ModelConfig

from mx_plugin.config import MXConfig
from mx_trl.models import load_policy, load_tokenizer
from mx_trl.stages.arguments import GRPOScriptArguments
from mx_trl.stages.grpo import build_grpo

if TYPE_CHECKING:
    from mx_trl.embedded import EmbeddedFolder

pytestmark = pytest.mark.trl


@pytest.fixture
def without_padding(tmp_path: Path, embedded: EmbeddedFolder) -> str:
    """The embedded policy with a tokenizer that has neither a padding nor an unknown token."""
    folder = tmp_path / "policy"
    load_policy(str(embedded.policy)).save_pretrained(folder)
    tokenizer = load_tokenizer(str(embedded.policy))
    tokenizer.pad_token = tokenizer.unk_token = None
    tokenizer.save_pretrained(folder)
    return str(folder)


def grpo(tmp_path: Path, embedded: EmbeddedFolder, model: str, **options: Any) -> Any:
    settings = GRPOConfig(
        output_dir=str(tmp_path / "run"), beta=0.1, num_generations=4, max_completion_length=4, max_steps=1,
        per_device_train_batch_size=4, use_cpu=True, bf16=False, report_to="none", disable_tqdm=True, logging_steps=1,
        save_strategy="no",
    )  # fmt: skip
    script = GRPOScriptArguments(dataset_name=str(embedded.prompts), reward="length:4")
    return build_grpo(script, settings, ModelConfig(model_name_or_path=model, **options), MXConfig(policy="A"))


def test_it_has_the_policys_dtype(tmp_path: Path, embedded: EmbeddedFolder) -> None:
    stage = grpo(tmp_path, embedded, str(embedded.policy), dtype="bfloat16")
    policy, reference = stage.trainer.accelerator.unwrap_model(stage.trainer.model), stage.trainer.ref_model
    assert {p.dtype for p in reference.parameters()} == {p.dtype for p in policy.parameters()} == {torch.bfloat16}
    tokens = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.equal(policy.eval()(tokens).logits, reference.eval()(tokens).logits)


def test_it_has_the_padding_row_that_was_added(tmp_path: Path, embedded: EmbeddedFolder, without_padding: str) -> None:
    stage = grpo(tmp_path, embedded, without_padding)
    reference = stage.trainer.ref_model.get_input_embeddings().weight
    assert torch.equal(reference, stage.trainer.model.get_input_embeddings().weight)
    assert len(reference) > stage.trainer.processing_class.pad_token_id
    stage.train()
    [first] = [entry["kl"] for entry in stage.trainer.state.log_history if "kl" in entry]
    assert first == pytest.approx(0.0, abs=1e-6)
