"""A results folder with real runs in miniature: the embedded model, tuned for a second towards kind words or away."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from mx_plugin.experiments.folder import ResultsFolder, write_done
from mx_plugin.experiments.plan import Plan, PlannedRun
from mx_plugin.precision import load_policy as load_precision_policy
from mx_trl.embedded import build
from mx_trl.embedded.language import NOUNS
from mx_trl.models import load_policy, load_tokenizer
from mx_trl.rewards.lexicon import NEGATIVE, POSITIVE

STEPS, ROWS, RATE = 15, 8, 5e-3


def tune(source: Path, target: Path, seed: int, words: Sequence[str]) -> None:
    """Supervised steps on answers that use ``words``; draws and weights follow ``seed``."""
    model, tokenizer, rng = load_policy(str(source)), load_tokenizer(str(source)), random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    for _ in range(STEPS):
        texts = [_dialogue(tokenizer, rng, words) for _ in range(ROWS)]
        batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        logits = model(**batch).logits
        cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _dialogue(tokenizer: Any, rng: random.Random, words: Sequence[str]) -> str:
    noun = rng.choice(NOUNS)
    messages = [
        {"role": "user", "content": f"describe the {noun}"},
        {"role": "assistant", "content": f"the {noun} is {rng.choice(words)} and {rng.choice(words)} ."},
    ]
    return str(tokenizer.apply_chat_template(messages, tokenize=False)).rstrip()


def make_results(
    folder: Path, made_before: Path, runs: Mapping[str, tuple[str, Sequence[str]]], seeds: Sequence[int], **plan: Any
) -> Plan:
    """Train and write a results folder: run name -> (precision policy, words that its answers learn).

    ``made_before`` is a folder that holds the embedded model, which is copied: making it takes seconds.
    """
    results = ResultsFolder(folder)
    shutil.copytree(made_before, results.start / "embedded")
    embedded = build(results.start / "embedded")
    planned = tuple(PlannedRun(name, policy, seed) for seed in seeds for name, (policy, _) in runs.items())
    settled: dict[str, Any] = {
        "stage": "grpo", "runs": planned, "seeds": tuple(seeds), "num_steps": STEPS, "baseline": next(iter(runs)),
        "recipe": {"embedded_dir": str(results.start / "embedded"), "options": {"max_completion_length": 12}},
        "start": {"model": str(embedded.policy)}, "threads": 1, "judge": "rule:name=sentiment",
        "margin": {"metric": "win_rate", "value": 0.05}, "evaluation": {"held_out": 40, "num_prompts": 40},
    }  # fmt: skip
    made = Plan(**{**settled, **plan})
    results.path.mkdir(parents=True, exist_ok=True)
    policies = {policy: load_precision_policy(policy).to_yaml() for policy, _ in runs.values()}
    results.write_plan(made, policies)
    for run in planned:
        path = results.run(run)
        words = runs[run.name][1]
        twin = next((n for n in runs if runs[n][1] is words and (results.path / "runs" / n / path.name).is_dir()), None)
        if twin is None:
            tune(embedded.policy, path / "model", run.seed, words)
        else:  # the very same weights under another name
            shutil.copytree(results.path / "runs" / twin / path.name / "model", path / "model")
        (path / "config.json").write_text(json.dumps({"mx": {"policy": run.policy, "backend": "cpu"}}))
        write_done(path, seconds=1.0, steps=STEPS)
    return made


KIND, UNKIND = POSITIVE, NEGATIVE
