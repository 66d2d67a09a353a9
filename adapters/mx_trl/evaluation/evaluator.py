"""Evaluates the models of one experiment on the same held-out prompts, each unquantised and as deployed."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from mx_plugin.config import MXConfig
from mx_plugin.execution.engine import Engine
from mx_plugin.execution.phases import GRADIENT, ROLLOUT
from mx_plugin.experiments.evaluated import DEPLOYED, PROMPTS, SUMMARY, UNQUANTISED
from mx_plugin.interfaces import Provider
from mx_plugin.ledger.writers import json_record, write_atomically

from ..errors import StageError
from ..models import context_length, end_tokens, ensure_padding, load_policy, load_tokenizer, plain_generation
from ..rewards import shared_rules
from .answers import PLAIN, Answers, answer
from .deployed import adopted, quantises
from .distances import Distance, distance, log_probs_of
from .held_out import held_out_prompts
from .judges import Judge, JudgeContext, open_judge, scores_of
from .perplexity import perplexity, text_windows
from .settings import EvaluationSettings
from .text import as_text
from .training_reward import training_reward

logger = logging.getLogger(__name__)

_UNQUANTISED = "FP16"


class Evaluator:
    """Loads prompts, judge, reward and reference once; then evaluates one model after the other.

    Args:
        folder: where a judge keeps what it made.

    Raises:
        StageError: what does not fit, with the remedy.
    """

    def __init__(self, settings: EvaluationSettings, folder: Path) -> None:
        transformers_logging.disable_progress_bar()
        self.settings = settings
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer = load_tokenizer(settings.model)
        self.reference = self._load(settings.model)
        self.held_out = held_out_prompts(settings, self.tokenizer, context_length(self.reference))
        used = [*self.held_out.trained, *self.held_out.prompts]
        self.judge: Judge = open_judge(settings.judge, JudgeContext(settings.dataset, settings.model, folder, used))
        self._refuse_training_reward()
        self.reward, self.reward_name = training_reward(settings)
        self.windows = (
            text_windows(settings.text, self.tokenizer, context_length(self.reference), settings.text_tokens)
            if settings.text
            else []
        )

    def evaluate(
        self, model: str | None, provider: Provider, config: MXConfig, output: Path, seed: int = 0
    ) -> dict[str, Any]:
        """Evaluate a model folder (None: the start) and write both files to ``output``; returns evaluation.json."""
        began = time.perf_counter()
        policy = self._load(model or self.settings.model)
        if self.settings.backend:
            config = config.merged({"backend": self.settings.backend, "backends": None, "fpga_layers": None})
        rows: list[dict[str, Any]] = []
        with adopted(policy, provider, config, seed, self.device) as engine:
            summaries = {UNQUANTISED: self._form(policy, engine, UNQUANTISED, rows)}
            if quantises(engine, ROLLOUT):
                summaries[DEPLOYED] = self._form(policy, engine, DEPLOYED, rows)
            else:
                summaries[DEPLOYED] = {**summaries[UNQUANTISED], "same_as": UNQUANTISED}
                rows += [{**row, "form": DEPLOYED} for row in list(rows)]
        found = {**summaries, **self._about(time.perf_counter() - began)}
        output.mkdir(parents=True, exist_ok=True)
        write_atomically(output / PROMPTS, "".join(json_record(row) for row in rows))
        write_atomically(output / SUMMARY, json.dumps(json.loads(json_record(found)), indent=2) + "\n")
        return found

    # ------------------------------------------------------------------ one form

    def _form(self, policy: PreTrainedModel, engine: Engine, form: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
        settings = self.settings
        deployed = form == DEPLOYED
        answers = answer(
            policy,
            self.tokenizer,
            self.held_out.tokens,
            engine=engine,
            phase=ROLLOUT if deployed else PLAIN,
            new_tokens=settings.response_length,
            temperature=settings.temperature,
            batch_size=settings.batch_size,
            seed=settings.seed,
        )
        as_scored = ROLLOUT if deployed else _UNQUANTISED
        own = log_probs_of(policy, settings.temperature, engine, as_scored)
        training = log_probs_of(policy, settings.temperature, engine, GRADIENT)
        reference = log_probs_of(self.reference, settings.temperature)
        to_reference = distance(own, reference, answers.samples, settings.clip)
        mismatch = distance(own, training, answers.samples, settings.clip)
        judged = scores_of(self.judge, settings.judge, self.held_out.prompts, answers.texts)
        rewards = None if self.reward is None else self.reward(self.held_out.prompts, answers.texts)
        rows += self._rows(form, answers, judged, rewards, to_reference, mismatch)
        windows = self.windows
        return {
            "n_prompts": len(answers.texts),
            "judge_mean": _mean(judged),
            "reward_mean": None if rewards is None else _mean(rewards),
            "kl_reference": to_reference.mean_kl,
            "perplexity": perplexity(policy, windows, engine, as_scored) if windows else None,
            "mismatch": mismatch.mismatch(),
            "response_tokens_mean": _mean(answers.lengths),
            "ended_share": _mean(answers.ended),
        }

    def _rows(
        self,
        form: str,
        answers: Answers,
        judged: Sequence[float],
        rewards: Sequence[float] | None,
        to_reference: Distance,
        mismatch: Distance,
    ) -> list[dict[str, Any]]:
        return [
            {
                "prompt_id": self.held_out.ids[i],
                "form": form,
                "judge": judged[i],
                "reward": None if rewards is None else rewards[i],
                "kl_reference": to_reference.kl[i],
                "mismatch_kl": mismatch.kl[i],
                "tokens": answers.lengths[i],
                "ended": answers.ended[i],
                "prompt": as_text(self.held_out.prompts[i]),
                "response": answers.texts[i],
            }
            for i in range(len(answers.texts))
        ]

    # ------------------------------------------------------------------ around it

    def _about(self, seconds: float) -> dict[str, Any]:
        describe = getattr(self.judge, "describe", dict)
        settings = {key: value for key, value in asdict(self.settings).items() if value is not None}
        return {
            "judge": {**describe(), "judge": self.settings.judge},
            "reward": self.reward_name,
            "text": {"file": self.settings.text, "tokens": sum(map(len, self.windows))} if self.windows else None,
            "settings": settings,
            "seconds": seconds,
        }

    def _load(self, path: str) -> PreTrainedModel:
        policy = load_policy(path, dtype=getattr(torch, self.settings.dtype)).to(self.device).eval()
        ends = end_tokens(policy, self.tokenizer, self.settings.end_token)
        ensure_padding(self.tokenizer, policy, ends)
        plain_generation(policy, self.tokenizer, ends)
        loaded: PreTrainedModel = policy
        return loaded

    def _refuse_training_reward(self) -> None:
        rule = getattr(self.judge, "trained_on", None)
        shared = [] if rule is None else shared_rules(rule, self.settings.reward)
        if shared:
            raise StageError(
                f"judge {self.settings.judge}: the runs were trained on {', '.join(shared)}; judge by something else, "
                "e.g. reading_ease, gsm8k, likelihood:model=FOLDER or preference:pairs=FILE"
            )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / max(len(values), 1)
