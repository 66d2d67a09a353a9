"""``RuleReward``: a rule over text in the shape in which TRL's PPOTrainer wants a reward model.

PPOTrainer (trl 1.12, ``trl.experimental.utils.get_reward``) calls ``getattr(model, model.base_model_prefix)``
with token ids, then ``model.score`` on the last hidden states, and reads the value at the last token of the
response. So the backbone here decodes and scores the text, writes the score at every position, and the
score head is the identity. Nothing in TRL is patched.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput

from ..errors import StageError
from .rules import Rule


class _TextScorer(nn.Module):
    def __init__(self, rule: Rule, tokenizer: PreTrainedTokenizerBase, prompt_width: int) -> None:
        super().__init__()
        self.rule, self.tokenizer, self.prompt_width = rule, tokenizer, prompt_width

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> BaseModelOutput:
        """Token ids and mask, both (rows, width) -> hidden states (rows, width, 1), float32."""
        prompts, completions = [], []
        for ids, kept in zip(input_ids.tolist(), attention_mask.bool().tolist(), strict=True):
            prompts.append(self._decode(ids[: self.prompt_width], kept[: self.prompt_width]))
            completions.append(self._decode(ids[self.prompt_width :], kept[self.prompt_width :]))
        scores = self.rule(prompts=prompts, completions=completions)
        if len(scores) != len(completions):
            raise StageError(f"reward rule {_name(self.rule)} gave {len(scores)} scores for {len(completions)} texts")
        column = torch.tensor(scores, dtype=torch.float32, device=input_ids.device)
        return BaseModelOutput(hidden_states=(column[:, None, None].expand(*input_ids.shape, 1),))

    def _decode(self, ids: list[int], kept: list[bool]) -> str:
        text = self.tokenizer.decode([i for i, k in zip(ids, kept, strict=True) if k], skip_special_tokens=True)
        return str(text)


class RuleReward(nn.Module):
    """A reward module without weights whose score is ``rule(prompts=[...], completions=[...])``.

    Args:
        rule: gives one float per completion; texts arrive decoded, without special tokens.
        tokenizer: the policy's.
        prompt_width: tokens, padding included, before the response. It must be the same for every batch
            (PPOTrainer does not tell the reward model where the response begins), so prompts are padded
            to a fixed width: ``DataCollatorWithPadding(tokenizer, padding="max_length", max_length=prompt_width)``.
    """

    base_model_prefix = "text"

    def __init__(self, rule: Rule, tokenizer: PreTrainedTokenizerBase, prompt_width: int) -> None:
        super().__init__()
        self.text = _TextScorer(rule, tokenizer, prompt_width)
        self.score = nn.Identity()

    def extra_repr(self) -> str:
        return f"rule={_name(self.text.rule)}, prompt_width={self.text.prompt_width}"


def _name(rule: Rule) -> str:
    return getattr(rule, "__name__", type(rule).__name__)
