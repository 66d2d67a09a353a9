"""Measures the memory planner on three model sizes and writes the table of docs/memory.md.

python docs/tables/memory.py            measure every case, each in a fresh process (about half an hour, 7 GB)
python docs/tables/memory.py --planned  predict again beside what docs/data/memory.csv holds as measured
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from mx_trl.memory.planner import plan
from mx_trl.memory.request import Request
from mx_trl.memory.terms import PHASES
from mx_trl.memory.validate import measure

DOCS = Path(__file__).parents[1]
DATA, PAGE = DOCS / "data" / "memory.csv", DOCS / "memory.md"
BEGIN, END = "<!-- begin table: python docs/tables/memory.py -->", "<!-- end table -->"

CASES = {
    "stories15m, float32": Request("stories15m", batch=4, prompt_length=64, response_length=64),
    "stories15m, bfloat16, LoRA r=16": Request(
        "stories15m", batch=4, prompt_length=64, response_length=64, dtype="bfloat16", lora_r=16
    ),
    "smollm2-135m, float32": Request("smollm2-135m", batch=2, prompt_length=48, response_length=48),
    "qwen2.5-0.5b, bfloat16, LoRA r=16": Request(
        "qwen2.5-0.5b", batch=2, prompt_length=32, response_length=32, dtype="bfloat16", lora_r=16
    ),
    **{
        f"stories15m, float32, {stage}": Request(
            "stories15m", stage=stage.lower(), batch=8, prompt_length=64, response_length=64
        )
        for stage in ("GRPO", "SFT", "DPO", "Reward")
    },
}
"""PPO, the stage with all roles, and the others on one model; two steps, padded batches."""

POLICIES = ("A", "C")


def requests() -> dict[tuple[str, str], Request]:
    """Every case under every policy."""
    return {
        (name, policy): Request(**{**request.options(), "policy": policy})
        for name, request in CASES.items()
        for policy in POLICIES
    }


def read() -> dict[tuple[str, str, str], int]:
    """Measured bytes by (case, policy, phase)."""
    if not DATA.is_file():
        return {}
    with DATA.open(newline="", encoding="utf-8") as file:
        return {(row["case"], row["policy"], row["phase"]): int(row["measured"]) for row in csv.DictReader(file)}


def write(measured: dict[tuple[str, str, str], int]) -> None:
    """The CSV, in the order of the cases."""
    with DATA.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["case", "policy", "phase", "measured"])
        rows.writerows([*key, size] for key, size in measured.items())


def table(measured: dict[tuple[str, str, str], int]) -> str:
    """Markdown; MB are 10^6 bytes."""
    lines = ["| model | policy | phase | predicted MB | measured MB | error |", "|---|---|---|---:|---:|---:|"]
    for (name, policy), request in requests().items():
        if not any((name, policy, phase) in measured for phase in PHASES):
            continue
        made = plan(request)
        for phase in made.phases:
            found = measured.get((name, policy, phase))
            if found is not None:
                peak = made.peak(phase)
                numbers = f"{peak / 1e6:,.0f} | {found / 1e6:,.0f} | {peak / found - 1:+.1%}"
                lines.append(f"| {name} | {policy} | {phase} | {numbers} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planned", action="store_true", help="measure nothing")
    parser.add_argument("--only", metavar="TEXT", default="", help="cases whose name and policy contain this")
    arguments = parser.parse_args()
    measured = read()
    for (name, policy), request in requests().items():
        if arguments.planned or arguments.only not in f"{name} {policy}":
            continue
        print(f"{name}, policy {policy} ...", flush=True)
        for phase, size in measure(request, steps=2).items():
            measured[name, policy, phase] = size
            print(f"  {phase}: {size / 1e6:,.0f} MB", flush=True)
        write(measured)
    if PAGE.is_file():
        before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
        after = rest.split(END)[1]
        PAGE.write_text(f"{before}{BEGIN}\n{table(measured)}\n{END}{after}", encoding="utf-8")
    print(table(measured))


if __name__ == "__main__":
    main()
