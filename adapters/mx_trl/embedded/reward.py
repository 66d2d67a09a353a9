"""The demo's reward model: a real sequence classifier whose weights are set, not trained, to a known rule.

score = SCALE * (positive words - negative words) / tokens, prompt included (prompts hold neither kind).

How: the first embedding coordinate of a token is its sign s in {-1, 0, 1}, the second sqrt(1 - s^2), the
third a constant, so all embeddings have one norm. Queries and keys are zero, so causal attention averages
s over the tokens so far; the score head reads that average m. Only the last RMSNorm depends on m, as
1 / sqrt(1 + C^2 + m^2) with C = 8: with unquantised layers the score is the rule to within 0.8%.
"""

from __future__ import annotations

import math

import torch
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForSequenceClassification

from ..rewards.lexicon import NEGATIVE, POSITIVE
from .tokenizer import word_ids

SCALE = 4.0
_CONSTANT = 8.0
_HIDDEN = 32
_SIGN, _REST, _BIAS, _MEAN = range(4)


def make_reward_model(tokenizer: PreTrainedTokenizerBase, context: int) -> Qwen2ForSequenceClassification:
    """One-layer Qwen2 classifier with one label, float32; see the module's text for the rule."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=_HIDDEN,
        intermediate_size=_HIDDEN,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=context,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        num_labels=1,
        tie_word_embeddings=False,
    )
    model = Qwen2ForSequenceClassification(config).float()
    with torch.no_grad():
        _write_rule(model, tokenizer)
    return model.eval()


def _write_rule(model: Qwen2ForSequenceClassification, tokenizer: PreTrainedTokenizerBase) -> None:
    norms = {name for name, _ in model.named_parameters() if "norm" in name}
    for name, parameter in model.named_parameters():
        parameter.fill_(1.0 if name in norms else 0.0)
    embedding = model.model.embed_tokens.weight
    embedding[:, _REST] = 1.0
    embedding[:, _BIAS] = _CONSTANT
    for words, sign in ((POSITIVE, 1.0), (NEGATIVE, -1.0)):
        ids = word_ids(tokenizer, words)
        embedding[ids, _SIGN], embedding[ids, _REST] = sign, 0.0
    attention = model.model.layers[0].self_attn
    root_mean_square = math.sqrt((1.0 + _CONSTANT**2) / _HIDDEN)
    attention.v_proj.weight[0, _SIGN] = root_mean_square
    attention.o_proj.weight[_MEAN, 0] = 1.0
    model.score.weight[0, _MEAN] = SCALE * root_mean_square
