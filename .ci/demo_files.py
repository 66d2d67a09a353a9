"""Check what `make demo` wrote. Usage: demo_files.py FOLDER, which holds policy_A and policy_C."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections import defaultdict
from pathlib import Path

COLUMNS = "step,phase,role,format,dtype,seconds,macs,bytes,joules,source,estimated"
FILES = ("config.json", "metrics.csv", "metrics.jsonl", "training_log.txt")
Rows = list[dict[str, str]]


def energy(run: Path) -> Rows:
    """Rows of a run's energy.csv.

    Raises:
        SystemExit: the file is missing, empty, or has other columns.
    """
    path = run / "energy.csv"
    header, *lines = path.read_text().splitlines() if path.is_file() else [""]
    if header != COLUMNS or not lines:
        raise SystemExit(
            f"{path}: expected columns {COLUMNS} and at least one row, found {header!r}, {len(lines)} rows"
        )
    return list(csv.DictReader([header, *lines]))


def rollout_macs(rows: Rows) -> dict[str, float]:
    """MACs of the policy model's rollouts by format; attention products, which no policy names, left out."""
    total: dict[str, float] = defaultdict(float)
    for row in rows:
        if (row["phase"], row["role"]) == ("rollout", "policy") and row["format"] not in ("all", "attention"):
            total[row["format"]] += float(row["macs"] or 0)
    return dict(total)


def faults_of_any(rows: Rows) -> list[str]:
    """What must hold under every policy: all phases timed, and an unknown figure is empty, not 0 or nan."""
    timed = {row["phase"] for row in rows if row["seconds"] and float(row["seconds"]) > 0}
    faults = [
        f"no seconds for phase {phase}" for phase in ("rollout", "reward", "gradient", "other") if phase not in timed
    ]
    for row in rows:
        for column in ("seconds", "macs", "bytes", "joules"):
            if row[column] and not math.isfinite(float(row[column])):
                faults.append(f"step {row['step']}, {row['phase']}: {column} is {row[column]}")
    return faults


def faults_of_a(macs: dict[str, float]) -> list[str]:
    quantised = [fmt for fmt in macs if fmt.startswith("MX")]
    return [f"rollouts ran in {quantised}, though policy A quantises nothing"] if quantised or not macs else []


def faults_of_c(macs: dict[str, float]) -> list[str]:
    four_bit = sum(n for fmt, n in macs.items() if fmt.startswith("MXFP4"))
    plain = {fmt: n for fmt, n in macs.items() if not fmt.startswith("MX") and n}
    faults = [] if four_bit > 0 else [f"no rollout MACs in MXFP4: {macs}"]
    return faults + ([f"rollout MACs of the policy left unquantised: {plain}"] if plain else [])


def main(folder: Path) -> int:
    faults = []
    for name, specific in (("A", faults_of_a), ("C", faults_of_c)):
        run = folder / f"policy_{name}"
        rows = energy(run)
        macs = rollout_macs(rows)
        faults += [f"{run}: {fault}" for fault in faults_of_any(rows) + specific(macs)]
        missing = [file for file in FILES if not (run / file).is_file()]
        if missing:
            raise SystemExit(f"{run} lacks {', '.join(missing)}")
        json.loads((run / "config.json").read_text())
        steps = len((run / "metrics.csv").read_text().splitlines()) - 1
        if steps < 1:
            faults.append(f"{run}/metrics.csv holds no step")
        print(f"policy {name}: {len(rows)} rows, {steps} steps, rollout MACs {macs}")
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
