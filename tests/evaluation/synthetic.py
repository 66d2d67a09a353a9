"""Results folders with known answers: files as runner and evaluation write them, filled with drawn numbers."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mx_plugin.experiments.folder import ResultsFolder, write_done
from mx_plugin.experiments.plan import Plan, PlannedRun
from mx_plugin.interfaces import Work
from mx_plugin.ledger.modelled import ModelledMeter
from mx_plugin.ledger.rows import COLUMNS, EnergyRow
from mx_plugin.precision import load_policy

SETTINGS = {"judge": "rule:name=sentiment", "response_length": 16, "temperature": 1.0}
LAYERS = [
    f"model.layers.{n}.{part}" for n in range(3) for part in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj")
]


@dataclass
class Drawn:
    """One run name: judge's mean over the start, how much seeds differ, what it costs, and its formats."""

    gain: float
    seed_spread: float = 0.02
    seconds: float = 60.0
    policy: str = "C"
    control: str | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    joules: float | None = None
    deployed_loss: float = 0.0


def write_results(
    folder: Path,
    runs: Mapping[str, Drawn],
    *,
    seeds: Sequence[int] = (1, 2, 3),
    prompts: int = 60,
    noise: float = 0.1,
    steps: int = 8,
    evaluated: Callable[[str, int], bool] = lambda name, seed: True,
    **plan: Any,
) -> Plan:
    """Write a results folder; the same arguments give the same files. ``noise``: of one prompt's score."""
    results = ResultsFolder(folder)
    planned = tuple(
        PlannedRun(name, _safe(name), seed, control=run.control, about=run.about)
        for seed in seeds for name, run in runs.items()
    )  # fmt: skip
    settled: dict[str, Any] = {
        "stage": "ppo", "recipe": {"config": None, "options": {"response_length": 16, "learning_rate": 1e-3}},
        "runs": planned, "seeds": tuple(seeds), "num_steps": steps, "baseline": next(iter(runs)),
        "start": {"model": "start/embedded/policy", "sha256": "0" * 64}, "threads": 1,
        "margin": {"metric": "win_rate", "value": 0.05}, "judge": SETTINGS["judge"],
        "command": "mx-plugin experiment --policies A C --output results",
        "versions": {"mx-plugin": "0.1.0", "torch": "2.13.0"},
    }  # fmt: skip
    made = Plan(**{**settled, **plan})
    folder.mkdir(parents=True, exist_ok=True)
    results.write_plan(made, {_safe(name): load_policy(run.policy).to_yaml() for name, run in runs.items()})
    rng = np.random.default_rng(7)
    easy = rng.normal(0, noise, prompts)
    _evaluation(results.start, 0.0, easy, rng, noise, 0.0)
    for run in planned:
        drawn, path = runs[run.name], results.run(run)
        path.mkdir(parents=True)
        _run_files(path, run, drawn, steps, rng)
        level = drawn.gain + rng.normal(0, drawn.seed_spread)
        if evaluated(run.name, run.seed):
            _evaluation(path, level, easy, rng, noise, drawn.deployed_loss)
        write_done(path, seconds=drawn.seconds * 1.1, train_seconds=drawn.seconds, steps=steps)
    return made


def _safe(name: str) -> str:
    """A file's name for a run's policy."""
    return "".join(c if c.isalnum() else "_" for c in name)


def _evaluation(
    path: Path, level: float, easy: np.ndarray, rng: np.random.Generator, noise: float, loss: float
) -> None:
    path.mkdir(parents=True, exist_ok=True)
    rows, summary = [], {}
    for form, change in (("unquantised", 0.0), ("deployed", -loss)):
        scores = easy + level + change + rng.normal(0, noise, len(easy))
        kl = np.abs(rng.normal(level, 0.05, len(easy)))
        rows += [
            {"prompt_id": f"p{i}", "form": form, "judge": float(score), "reward": float(score * 2),
             "kl_reference": float(kl[i]), "mismatch_kl": float(abs(change) / 10), "tokens": 12, "ended": True,
             "prompt": f"prompt {i}", "response": "fine ."}
            for i, score in enumerate(scores)
        ]  # fmt: skip
        summary[form] = {
            "n_prompts": len(easy), "judge_mean": float(scores.mean()), "reward_mean": float(2 * scores.mean()),
            "kl_reference": float(kl.mean()), "perplexity": float(np.exp(1.5 + 0.1 * level)),
            "mismatch": {"kl": abs(change) / 10},
        }  # fmt: skip
    (path / "evaluation_prompts.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    about = {"judge": {"judge": SETTINGS["judge"]}, "reward": "sentiment", "settings": SETTINGS, "seconds": 1.0}
    (path / "evaluation.json").write_text(json.dumps({**summary, **about}))


def _run_files(path: Path, run: PlannedRun, drawn: Drawn, steps: int, rng: np.random.Generator) -> None:
    policy = load_policy(drawn.policy)
    phases = ("rollout", "reward", "gradient")
    formats = {
        phase: {layer: str(policy.resolve(layer, phase, "policy").forward) for layer in LAYERS} for phase in phases
    }
    config = {
        "mx": {"policy": run.name, "backend": "cpu", "meters": ["modelled"]},
        "provider": {"name": run.name}, "formats": {"policy": formats}, "backend": "cpu",
        "meters": [ModelledMeter().describe()], "seed": run.seed, "versions": {"torch": "2.13.0"},
    }  # fmt: skip
    (path / "config.json").write_text(json.dumps(config))
    (path / "training_log.txt").write_text("started\n")
    meter = ModelledMeter()
    with (path / "energy.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for step in range(1, steps + 1):
            for phase, share in zip((*phases, "other"), (0.4, 0.2, 0.35, 0.05), strict=True):
                for row in _rows(step, phase, share * drawn.seconds / steps, formats, meter, drawn.joules):
                    writer.writerow(row.to_csv())
    with (path / "metrics.csv").open("w", newline="") as file:
        file.write("step,reward,kl,entropy,ratio,clip_fraction,mismatch,kl_unquantised,seconds\n")
        for step in range(1, steps + 1):
            reward = drawn.gain * step / steps + rng.normal(0, 0.02)
            mismatch = repr(0.01 + 0.001 * step) if step % 4 == 1 else ""
            file.write(f"{step},{reward},{0.1 * step},2.0,1.0,0.05,{mismatch},,{drawn.seconds / steps}\n")


def _rows(
    step: int, phase: str, seconds: float, formats: Mapping[str, Any], meter: ModelledMeter, joules: float | None
) -> list[EnergyRow]:
    if joules is None:
        rows = [EnergyRow(step, phase, "all", "all", seconds=seconds)]
    else:
        rows = [EnergyRow(step, phase, "all", "all", seconds=seconds, joules=joules * seconds, source="zeus:cpu",
                          estimated=False)]  # fmt: skip
    if phase == "other":
        return rows
    for fmt in sorted(set(formats[phase].values())):
        dtype = "float32" if fmt == "FP16" else "bfloat16"
        work = Work("policy", fmt, dtype, macs=10**9, weight_bytes=4 * 10**6 if fmt == "FP16" else 10**6,
                    cast_elements=0 if fmt == "FP16" else 10**6)  # fmt: skip
        rows.append(EnergyRow(step, phase, "policy", fmt, dtype, macs=work.macs, bytes=work.bytes,
                              joules=meter.estimate(work).joules, source=meter.source, estimated=True))  # fmt: skip
    return rows
