"""Trains the embedded model many times, well and badly, and counts which built-in alerts come: docs/dashboard.md.

    python docs/tables/alerts_series.py [--seeds 11 12 13] [--kinds ppo grpo] [--cases healthy rate hacked]

Cases: ``healthy``, the demo's own settings; ``rate``, its learning rate times 100; ``hacked``, a reward that any single
word satisfies (``length:1``), and next to no KL term to hold the policy back.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

CASES: dict[str, dict[str, Any]] = {
    "healthy": {"steps": 16},
    "rate": {"steps": 8, "rate": 100.0},
    "hacked": {"steps": 12, "rate": 2.0, "kl": 0.001, "reward": "length:1"},
}
RATE, KL = 1e-3, 0.02
_SHARED: dict[str, Any] = {
    "lr_scheduler_type": "constant", "per_device_train_batch_size": 32, "temperature": 1.0, "bf16": False,
    "use_cpu": True, "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "logging_steps": 1,
}  # fmt: skip


def train(kind: str, case: str, seed: int, folder: Path, embedded: Path, steps: int, mx: str | None = None) -> Path:
    """One run; returns the folder with its stability.jsonl and alerts.jsonl."""
    from trl import ModelConfig

    from mx_plugin.config import MXConfig
    from mx_trl.dashboard import StabilityCallback
    from mx_trl.stages.arguments import GRPOScriptArguments, PPOScriptArguments

    what = CASES[case]
    reward = {"reward": what["reward"]} if "reward" in what else {}
    settings = _SHARED | {
        "output_dir": str(folder), "seed": seed, "max_steps": steps, "learning_rate": RATE * what.get("rate", 1.0)
    }  # fmt: skip
    config = MXConfig(policy=mx) if mx else None
    kl = what.get("kl", KL)
    callback = StabilityCallback(output_dir=folder)
    if kind == "ppo":
        from trl.experimental.ppo import PPOConfig

        from mx_trl.stages.ppo import build_ppo

        more = {"num_mini_batches": 2, "num_ppo_epochs": 4, "response_length": 20, "kl_coef": kl, "vf_coef": 0.5}
        script = PPOScriptArguments(no_mx=mx is None, **reward)
        stage = build_ppo(script, PPOConfig(**settings, **more), ModelConfig(), config, embedded_dir=str(embedded))
    else:
        from trl import GRPOConfig

        from mx_trl.stages.grpo import build_grpo

        more = {"num_generations": 8, "max_completion_length": 20, "beta": kl, "gradient_checkpointing": False}
        script = GRPOScriptArguments(no_mx=mx is None, **reward)
        stage = build_grpo(script, GRPOConfig(**settings, **more), ModelConfig(), config, embedded_dir=str(embedded))
    stage.trainer.add_callback(callback)
    with contextlib.redirect_stdout(io.StringIO()):
        stage.train()
    return next(iter(folder.rglob("stability.jsonl"))).parent


def lines(run: Path, name: str) -> list[dict[str, Any]]:
    """The records of one of a run's files."""
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def row(kind: str, case: str, seed: int, run: Path) -> str:
    """A line of the table: the first step of every rule that was met, and the extremes of what rules look at."""
    first: dict[str, int] = {}
    for alert in lines(run, "alerts.jsonl"):
        first.setdefault(alert["rule"], alert["step"])
    records = lines(run, "stability.jsonl")

    def extreme(name: str, pick: Any) -> str:
        known = [record[name] for record in records if record.get(name) is not None]
        return f"{pick(known):.2g}" if known else ""

    alerts = ", ".join(f"{rule} ({step})" for rule, step in first.items()) or "none"
    figures = [extreme("kl_per_token", max), extreme("entropy", min), extreme("reward_std", min),
               extreme("grad_norm/policy", max), extreme("length", min)]  # fmt: skip
    return f"| {kind} | {case} | {seed} | {alerts} | {' | '.join(figures)} |"


def main() -> None:
    """Print the table, a line as each run ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[12, 13, 14, 15, 16])
    parser.add_argument("--kinds", nargs="+", default=["ppo", "grpo"])
    parser.add_argument("--cases", nargs="+", default=list(CASES))
    parser.add_argument("--steps", type=int, help="of every run (default: healthy 16, rate 8, hacked 12)")
    parser.add_argument("--mx", help="a precision policy; default: plain TRL")
    parser.add_argument("--keep", type=Path, help="keep the runs there")
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    print("| trainer | case | seed | alerts (first at step) | largest KL a token | least entropy | least reward_std "
          "| largest gradient norm | shortest mean length |\n|---|---|---|---|---|---|---|---|---|")  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        where = chosen.keep or Path(scratch)
        for seed in chosen.seeds:
            for kind in chosen.kinds:
                for case in chosen.cases:
                    run = where / f"{kind}_{case}_{seed}"
                    steps = chosen.steps or CASES[case]["steps"]
                    found = train(kind, case, seed, run, where / "embedded", steps, chosen.mx)
                    print(row(kind, case, seed, found), flush=True)


if __name__ == "__main__":
    main()
