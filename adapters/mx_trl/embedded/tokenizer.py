"""The demo's tokenizer: Qwen2's byte-level BPE, trained in milliseconds so that a toy-language word is one token."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase, Qwen2Tokenizer

from .language import prompts, vocabulary

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_MORE_THAN_ENOUGH = 2048


def make_tokenizer(context: int) -> PreTrainedTokenizerBase:
    """Tokenizer with chat template, end token ``<|im_end|>`` and a padding token of its own; some 800 tokens.

    Args:
        context: longest input in tokens, recorded as ``model_max_length``.
    """
    words = vocabulary()
    openings = sorted({text.split()[0] for text in prompts()})
    corpus = [" " + " ".join(words), *openings, "user\n", "assistant\n", "the\n"]
    tokenizer = Qwen2Tokenizer().train_new_from_iterator(
        corpus * 2, _MORE_THAN_ENOUGH, new_special_tokens=[START, END], show_progress=False
    )
    tokenizer.eos_token, tokenizer.pad_token = END, PAD
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.padding_side = "left"
    tokenizer.model_max_length = context
    return tokenizer


def word_ids(tokenizer: PreTrainedTokenizerBase, words: tuple[str, ...]) -> list[int]:
    """Token of each word as it stands inside a sentence (after a space)."""
    ids = [tokenizer.encode(f" {word}", add_special_tokens=False) for word in words]
    split = [word for word, pieces in zip(words, ids, strict=True) if len(pieces) != 1]
    if split:
        raise AssertionError(f"not single tokens: {split}")
    return [pieces[0] for pieces in ids]
