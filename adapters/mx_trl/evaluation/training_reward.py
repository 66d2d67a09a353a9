"""The reward that the runs were trained on, in full precision: reported beside the judge, never instead of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from mx_plugin.errors import MXError

from ..errors import StageError
from ..models import context_length, load_scorer, load_tokenizer
from ..prompts import Prompt, encode
from ..rewards import columns_of, find_rule
from .settings import EvaluationSettings

Reward = Callable[[Sequence[Prompt], Sequence[str]], list[float]]
_BATCH = 16


def training_reward(settings: EvaluationSettings) -> tuple[Reward | None, str]:
    """The recipe's reward and its name, or None and why there is none."""
    path = settings.reward_model
    name = settings.reward or ("model" if path else None)
    if name is None:
        return None, "the recipe names no reward that can be computed again"
    if name in ("model", "embedded"):
        if path is None:
            return None, f"reward {name}: its model is not named in the plan"
        return ModelReward(path), path
    try:
        rule = find_rule(name)
    except MXError as error:
        return None, str(error)
    if columns_of(rule):
        return None, f"reward {name} needs the data set's answers; the judge gsm8k has them"
    return (lambda prompts, completions: list(rule(prompts=list(prompts), completions=list(completions)))), name


class ModelReward:
    """A sequence classifier's score of prompt and completion, float32."""

    def __init__(self, path: str) -> None:
        self.model = load_scorer(path, "reward model", dtype=torch.float32).eval()
        self.tokenizer = load_tokenizer(path)
        ids = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        self.pad = next(i for i in ids if i is not None)
        self.model.config.pad_token_id = self.pad
        self.context = context_length(self.model) or 2**31

    @torch.no_grad()
    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        scores: list[float] = []
        for start in range(0, len(completions), _BATCH):
            rows = [
                (encode(p, self.tokenizer) + list(self.tokenizer(c, add_special_tokens=False)["input_ids"]))
                for p, c in zip(prompts[start : start + _BATCH], completions[start : start + _BATCH], strict=True)
            ]
            rows = [ids[-self.context :] for ids in rows]
            width = max(map(len, rows))
            tokens = torch.tensor([ids + [self.pad] * (width - len(ids)) for ids in rows])
            mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in rows])
            logits = self.model(input_ids=tokens, attention_mask=mask).logits
            if logits.shape[-1] != 1:
                raise StageError(f"the reward model has {logits.shape[-1]} labels, one was expected")
            scores += logits[:, 0].float().tolist()
        return scores
