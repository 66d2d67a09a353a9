"""Loading models: padding, end tokens and sampling settings as PPO needs them; GGUF conversion."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("trl")

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, GenerationConfig, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from mx_trl.embedded import EmbeddedFolder
from mx_trl.errors import StageError
from mx_trl.gguf import convert_gguf
from mx_trl.models import (
    PAD,
    end_tokens,
    ensure_padding,
    load_policy,
    load_scorer,
    load_tokenizer,
    plain_generation,
)


@pytest.mark.parametrize("load", [load_tokenizer, load_policy, lambda path: load_scorer(path, "reward model")])
def test_a_folder_without_a_model_is_named(tmp_path: Path, load: object) -> None:
    with pytest.raises(StageError, match=f"cannot load the (tokenizer|policy|reward model) from '{tmp_path}'"):
        load(str(tmp_path))  # type: ignore[operator]


@pytest.mark.real_data
def test_all_end_tokens_of_the_generation_config_are_found(stories260k: Path) -> None:
    policy, tokenizer = load_policy(str(stories260k)), load_tokenizer(str(stories260k))
    assert end_tokens(policy, tokenizer) == [1, 2]
    assert end_tokens(policy, tokenizer, "<s>") == [1]
    assert end_tokens(policy, tokenizer, "none") == []
    with pytest.raises(StageError, match="end token '<end>' is not in the tokenizer's vocabulary of 512"):
        end_tokens(policy, tokenizer, "<end>")


def test_without_an_end_token_in_the_generation_config_the_tokenizers_counts(embedded: EmbeddedFolder) -> None:
    policy, tokenizer = load_policy(str(embedded.policy)), load_tokenizer(str(embedded.policy))
    policy.generation_config.eos_token_id = None
    assert end_tokens(policy, tokenizer) == [tokenizer.eos_token_id]


@pytest.mark.real_data
def test_padding_that_ends_a_response_is_replaced_by_the_unknown_token(stories260k: Path) -> None:
    policy, tokenizer = load_policy(str(stories260k)), load_tokenizer(str(stories260k))
    assert tokenizer.pad_token_id == 2
    ensure_padding(tokenizer, policy, [1, 2])
    assert tokenizer.pad_token == "<unk>"


def test_a_tokenizer_without_padding_and_unknown_token_gets_a_new_token_and_the_policy_a_row(
    embedded: EmbeddedFolder,
) -> None:
    policy, tokenizer = load_policy(str(embedded.policy)), load_tokenizer(str(embedded.policy))
    rows = policy.get_input_embeddings().weight.shape[0]
    tokenizer.pad_token = tokenizer.unk_token = None
    ensure_padding(tokenizer, policy, [tokenizer.eos_token_id])
    assert tokenizer.pad_token == PAD
    assert policy.get_input_embeddings().weight.shape[0] == policy.lm_head.weight.shape[0] == rows + 1
    assert tokenizer.pad_token_id == rows


@pytest.mark.parametrize("tied", [True, False])
def test_the_new_row_is_the_mean_of_the_others(tied: bool) -> None:
    """GPT-2's logits are all far below 0: a small row would win, and the policy would generate padding only."""
    configuration = GPT2Config(vocab_size=40, n_embd=32, n_layer=1, n_head=1, tie_word_embeddings=tied)
    policies = [GPT2LMHeadModel(configuration) for _ in range(2)]
    policies[1].load_state_dict(policies[0].state_dict())
    for policy in policies:
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({str(i): i for i in range(40)})))
        ensure_padding(tokenizer, policy, [0])
        assert tokenizer.pad_token_id == 40
        for weight in (policy.transformer.wte.weight, policy.lm_head.weight):
            torch.testing.assert_close(weight[40], weight[:40].mean(0))
    assert torch.equal(policies[0].lm_head.weight, policies[1].lm_head.weight), "a reference is the same model"


def test_a_padding_token_of_its_own_is_kept(embedded: EmbeddedFolder) -> None:
    policy, tokenizer = load_policy(str(embedded.policy)), load_tokenizer(str(embedded.policy))
    ensure_padding(tokenizer, policy, [tokenizer.eos_token_id])
    assert tokenizer.pad_token == "<|endoftext|>"


@pytest.mark.real_data
def test_generation_stops_at_any_end_token_and_pads_what_follows(stories260k: Path) -> None:
    policy, tokenizer = load_policy(str(stories260k)), load_tokenizer(str(stories260k))
    ends = tokenizer.convert_tokens_to_ids([".", ","])
    ensure_padding(tokenizer, policy, ends)
    plain_generation(policy, tokenizer, ends)
    prompt = tokenizer("Lily and Tom saw a big", return_tensors="pt")
    # As PPOTrainer generates: a config without token ids, which come from the policy's own.
    sampling = GenerationConfig(max_new_tokens=40, do_sample=True, temperature=1.0, top_k=0, top_p=1.0)
    rows = policy.generate(prompt.input_ids.repeat(16, 1), generation_config=sampling)[:, prompt.input_ids.shape[1] :]
    last = [row[row != tokenizer.pad_token_id][-1].item() for row in rows]
    assert set(last) == set(ends)
    for row in rows.tolist():
        first = next(i for i, token in enumerate(row) if token in ends)
        assert set(row[first + 1 :]) <= {tokenizer.pad_token_id}


def test_sampling_settings_that_come_with_a_model_are_dropped_and_named(
    embedded: EmbeddedFolder, caplog: pytest.LogCaptureFixture
) -> None:
    policy, tokenizer = load_policy(str(embedded.policy)), load_tokenizer(str(embedded.policy))
    policy.generation_config.update(repetition_penalty=1.3, top_p=0.5)
    plain_generation(policy, tokenizer, [tokenizer.eos_token_id])
    assert "not used: repetition_penalty, top_p" in caplog.text
    assert policy.generation_config.repetition_penalty is None


def test_nothing_is_said_of_a_model_without_sampling_settings(
    embedded: EmbeddedFolder, caplog: pytest.LogCaptureFixture
) -> None:
    plain_generation(load_policy(str(embedded.policy)), load_tokenizer(str(embedded.policy)), [])
    assert not caplog.text


# ---------------------------------------------------------------------------- GGUF


@pytest.mark.parametrize(("files", "found"), [([], "none"), (["a.gguf", "b.gguf"], r"a\.gguf, b\.gguf")])
def test_a_folder_without_exactly_one_gguf_is_refused(tmp_path: Path, files: list[str], found: str) -> None:
    for name in ["config.json", *files]:
        (tmp_path / name).touch()
    with pytest.raises(StageError, match=f"exactly one .gguf file; .gguf files found: {found}"):
        convert_gguf(tmp_path, tmp_path / "out")


def test_an_unknown_dtype_is_refused(tmp_path: Path) -> None:
    for name in ("config.json", "a.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(StageError, match="dtype 'int8' is not a floating torch dtype"):
        convert_gguf(tmp_path, tmp_path / "out", "int8")


@pytest.mark.slow
@pytest.mark.real_data
def test_the_converted_smollm2_names_the_capital_of_france(smollm2_gguf: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    assert convert_gguf(smollm2_gguf, tmp_path) == 134_515_008
    tokenizer = load_tokenizer(str(tmp_path))
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.dtype == torch.bfloat16
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt.input_ids.shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"
