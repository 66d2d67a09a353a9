"""The embedded default: made in seconds, loaded like any model, with a reward that is a known rule."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("trl")

from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2ForCausalLM, Qwen2Tokenizer

from mx_trl.embedded import EmbeddedFolder, build
from mx_trl.embedded.language import NOUNS, prompts, vocabulary
from mx_trl.embedded.policy import make_policy
from mx_trl.embedded.reward import SCALE
from mx_trl.embedded.tokenizer import make_tokenizer, word_ids
from mx_trl.errors import StageError
from mx_trl.models import load_policy, load_scorer, load_tokenizer
from mx_trl.prompts import encode, read_prompts
from mx_trl.rewards.lexicon import NEGATIVE, POSITIVE


def test_it_loads_by_the_same_classes_as_a_real_model(embedded: EmbeddedFolder) -> None:
    assert isinstance(AutoModelForCausalLM.from_pretrained(embedded.policy), Qwen2ForCausalLM)
    assert isinstance(AutoTokenizer.from_pretrained(embedded.policy), Qwen2Tokenizer)


def test_it_is_qwen2_with_grouped_queries_and_tied_embeddings(embedded: EmbeddedFolder) -> None:
    policy = load_policy(str(embedded.policy))
    assert policy.config.num_key_value_heads < policy.config.num_attention_heads
    assert policy.lm_head.weight is policy.get_input_embeddings().weight
    assert policy.generation_config.eos_token_id == load_tokenizer(str(embedded.policy)).eos_token_id


def test_every_layer_width_is_a_multiple_of_the_mx_block(embedded: EmbeddedFolder) -> None:
    policy = load_policy(str(embedded.policy))
    linear = [module for module in policy.modules() if isinstance(module, torch.nn.Linear)]
    assert linear and all(module.in_features % 32 == 0 for module in linear)


def test_every_word_of_the_language_is_one_token_and_comes_back(embedded: EmbeddedFolder) -> None:
    tokenizer = load_tokenizer(str(embedded.policy))
    words = tuple(word for word in vocabulary() if word.isalpha())
    assert tokenizer.decode(word_ids(tokenizer, words)) == "".join(f" {word}" for word in words)


def test_padding_token_and_end_token_differ(embedded: EmbeddedFolder) -> None:
    tokenizer = load_tokenizer(str(embedded.policy))
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_prompts_are_chat_messages_that_open_the_assistants_turn(embedded: EmbeddedFolder) -> None:
    tokenizer = load_tokenizer(str(embedded.policy))
    read = read_prompts(str(embedded.prompts))
    assert len(read) == len(prompts()) >= 200
    assert tokenizer.decode(encode(read[0], tokenizer)).endswith("<|im_start|>assistant\n")


def test_a_folder_with_other_things_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(StageError, match=r"other things than an embedded model \(thesis.txt\): choose another folder"):
        build(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    (tmp_path / "thesis.txt").unlink()
    (tmp_path / "VERSION").write_text("embedded 0, of an older version\n")
    assert build(tmp_path, warm_up_steps=1).policy.is_dir()


def test_prompts_hold_no_word_of_the_reward() -> None:
    words = {word for text in prompts() for word in text.split()}
    assert not words & {*POSITIVE, *NEGATIVE}


def score(embedded: EmbeddedFolder, text: str, padding_side: str = "left", width: int = 40) -> float:
    """The reward model's score of a text, padded to a width."""
    tokenizer = load_tokenizer(str(embedded.reward))
    model = load_scorer(str(embedded.reward), "reward model").eval()
    batch = tokenizer(text, return_tensors="pt", padding="max_length", max_length=width, padding_side=padding_side)
    with torch.no_grad():
        return model(**batch).logits.item()


@pytest.mark.parametrize(
    ("text", "sign_sum", "tokens"),
    [
        (" good good good good", 4, 4),
        (" bad good is the", 0, 4),
        (" bad awful is the garden", -2, 5),
        (" the garden is red and good .", 1, 7),
    ],
)
def test_the_reward_is_the_share_of_positive_less_negative_words(
    embedded: EmbeddedFolder, text: str, sign_sum: int, tokens: int
) -> None:
    assert score(embedded, text) == pytest.approx(SCALE * sign_sum / tokens, rel=0.008, abs=1e-6)


def test_padding_on_either_side_leaves_the_reward_as_it_is(embedded: EmbeddedFolder) -> None:
    text = " the garden is good"
    assert score(embedded, text, "right", 12) == pytest.approx(score(embedded, text, "left", 30), rel=1e-5)


def test_the_warmed_up_policy_knows_the_language(embedded: EmbeddedFolder) -> None:
    tokenizer, policy = load_tokenizer(str(embedded.policy)), load_policy(str(embedded.policy))
    question = encode([{"role": "user", "content": "describe the garden"}], tokenizer)
    with torch.no_grad():
        likely = policy(torch.tensor([question])).logits[0, -1].softmax(-1)
        first = likely.argmax().item()
        after_the = policy(torch.tensor([[*question, first]])).logits[0, -1].softmax(-1)
    assert tokenizer.decode([first]) == "the"
    assert after_the[word_ids(tokenizer, NOUNS)].sum() > 0.9


def test_the_same_seed_makes_the_same_weights_and_another_seed_others() -> None:
    tokenizer = make_tokenizer(64)
    first, again, other = (make_policy(tokenizer, 64, seed, steps=2).lm_head.weight for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_building_leaves_the_random_state_and_the_thread_count_as_they_were(tmp_path: Path) -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    build(tmp_path / "embedded", warm_up_steps=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_a_second_run_reuses_the_folder_and_another_seed_makes_it_anew(tmp_path: Path) -> None:
    folder = tmp_path / "embedded"
    build(folder, warm_up_steps=2)
    (folder / "trace").touch()
    build(folder, warm_up_steps=2)
    assert (folder / "trace").exists()
    build(folder, seed=1, warm_up_steps=2)
    assert not (folder / "trace").exists()


def test_a_folder_left_half_written_is_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "embedded"
    (folder / "policy").mkdir(parents=True)
    (folder / "policy" / "config.json").write_text("{")
    made = build(folder, warm_up_steps=2)
    assert load_policy(str(made.policy)).config.hidden_size == 64
    assert [path.name for path in tmp_path.iterdir()] == ["embedded"]
