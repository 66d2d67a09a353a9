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
from .columns import ColumnsByTokens
from .rules import Rule, columns_of, rule_name


class _TextScorer(nn.Module):
    def __init__(
        self, rule: Rule, tokenizer: PreTrainedTokenizerBase, prompt_width: int, columns: ColumnsByTokens | None
    ) -> None:
        super().__init__()
        self.rule, self.tokenizer, self.prompt_width, self.columns = rule, tokenizer, prompt_width, columns

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> BaseModelOutput:
        """Token ids and mask, both (rows, width) -> hidden states (rows, width, 1), float32."""
        asked, answered = [], []
        for ids, kept in zip(input_ids.tolist(), attention_mask.bool().tolist(), strict=True):
            asked.append(_kept(ids[: self.prompt_width], kept[: self.prompt_width]))
            answered.append(_kept(ids[self.prompt_width :], kept[self.prompt_width :]))
        columns = {} if self.columns is None else self.columns.of(asked)
        prompts, completions = [self._decode(ids) for ids in asked], [self._decode(ids) for ids in answered]
        scores = self.rule(prompts=prompts, completions=completions, **columns)
        if len(scores) != len(completions):
            raise StageError(
                f"reward rule {rule_name(self.rule)} gave {len(scores)} scores for {len(completions)} texts"
            )
        column = torch.tensor(scores, dtype=torch.float32, device=input_ids.device)
        return BaseModelOutput(hidden_states=(column[:, None, None].expand(*input_ids.shape, 1),))

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))


def _kept(ids: list[int], kept: list[bool]) -> list[int]:
    return [i for i, k in zip(ids, kept, strict=True) if k]


class RuleReward(nn.Module):
    """A reward module without weights whose score is ``rule(prompts=[...], completions=[...])``.

    Args:
        rule: gives one float per completion; texts arrive decoded, without special tokens.
        tokenizer: the policy's.
        prompt_width: tokens, padding included, before the response. It must be the same for every batch
            (PPOTrainer does not tell the reward model where the response begins), so prompts are padded
            to a fixed width: ``DataCollatorWithPadding(tokenizer, padding="max_length", max_length=prompt_width)``.
        columns: what the rule needs from the data set, by prompt.

    Raises:
        StageError: the rule needs columns that ``columns`` does not have.
    """

    base_model_prefix = "text"

    def __init__(
        self,
        rule: Rule,
        tokenizer: PreTrainedTokenizerBase,
        prompt_width: int,
        columns: ColumnsByTokens | None = None,
    ) -> None:
        super().__init__()
        missing = set(columns_of(rule)) - set(() if columns is None else columns.names)
        if missing:
            raise StageError(
                f"reward {rule_name(rule)} needs the data set's {', '.join(sorted(missing))}: give columns"
            )
        self.text = _TextScorer(rule, tokenizer, prompt_width, columns)
        self.score = nn.Identity()

    @property
    def shaping(self) -> Any:
        """The shaping of a :class:`~mx_trl.rewards.shaping.ShapedRule`, whose state a checkpoint keeps; else None."""
        return getattr(self.text.rule, "shaping", None)

    def extra_repr(self) -> str:
        return f"rule={rule_name(self.text.rule)}, prompt_width={self.text.prompt_width}"
