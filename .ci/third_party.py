"""Third parties' packages beside the installed wheel: those of examples/, and what `mx-plugin new` writes.

Called by packages.py, whose fresh environment has the wheel and not the repository. They are installed there, trained
with by their names alone, and their own tests run there.
"""

from __future__ import annotations

import csv
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
EXAMPLES = [REPOSITORY / "examples" / f"third_party_{kind}" for kind in ("backend", "provider", "meter")]
KINDS = ("backend", "board", "provider", "meter")
ENVIRONMENT = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}


def install(python: Path, *folders: Path) -> None:
    """Install without an index: what a package depends on must be there, and it is."""
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-index"]
    subprocess.run([*pip, "--no-build-isolation", *map(str, folders)], check=True)


def own_tests(python: Path, *folders: Path) -> bool:
    """Whether the packages' own tests pass there; one process for all, since most of its time is torch's import."""
    print(f"--- tests of {', '.join(folder.name for folder in folders)}", flush=True)
    pytest = [str(python), "-I", "-m", "pytest", "-q", "--import-mode=importlib", "-p", "no:cacheprovider"]
    tests = [str(folder / "tests") for folder in folders]
    command = [*pytest, "-c", os.devnull, "--rootdir", str(folders[0].parent), *tests]
    return subprocess.run(command, env=ENVIRONMENT, check=False).returncode == 0


def train_by_names(python: Path, scratch: Path) -> list[str]:
    """Three steps of PPO with backend, provider and meter of third parties; return what is missing from its files."""
    plug = runpy.run_path(str(EXAMPLES[2] / "tests" / "plug.py"))["Plug"](watts=50.0)
    output = scratch / "by_names"
    words = f"""--backend bf16
        --policy kl-budget --policy_options kl-budget.max_mismatch=1e-9 kl-budget.layers_per_move=3 --mismatch_every 1
        --meters modelled smart-plug --meter_options smart-plug.url={plug.url} smart-plug.poll_s=0.02
        --max_steps 3 --per_device_train_batch_size 8 --num_mini_batches 1 --report_to none --output_dir {output}"""
    print("--- PPO: --backend bf16 --policy kl-budget --meters modelled smart-plug", flush=True)
    command = [str(python), "-I", str(REPOSITORY / "examples" / "ppo_mx.py"), *words.split()]
    try:
        subprocess.run(command, env=ENVIRONMENT, cwd=scratch, check=True)
    finally:
        plug.close()
    run = output / "policy_kl-budget"
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    with (run / "energy.csv").open(encoding="utf-8", newline="") as file:
        return unused(config, list(csv.DictReader(file)))


def unused(config: dict, rows: list[dict[str, str]]) -> list[str]:
    """What config.json and energy.csv do not show of the three."""
    faults = []
    rollouts = [row for row in rows if (row["phase"], row["role"]) == ("rollout", "policy")]
    linear = [row for row in rollouts if row["format"].startswith("MX")]
    if config["backend"] != "bf16" or {row["dtype"] for row in linear} != {"bfloat16"}:
        faults.append(
            f"backend {config['backend']!r} multiplied {sorted({row['dtype'] for row in linear})}, not bfloat16"
        )
    if config["provider"]["name"] != "kl-budget" or not config["provider"]["history"]:
        faults.append(f"the provider was {config['provider']}, without a move")
    formats = [{row["format"] for row in linear if row["step"] == step} for step in ("1", "3")]
    if "MXFP6/MXFP8" in formats[0] or "MXFP6/MXFP8" not in formats[1]:
        faults.append(f"rollouts ran in {formats[0]} at step 1 and {formats[1]} at step 3: no layer moved to MXFP6")
    if "smart-plug" not in [meter["meter"] for meter in config["meters"]]:
        faults.append(f"the meters were {config['meters']}")
    joules = [float(row["joules"]) for row in rows if row["source"] == "smart-plug" and row["joules"]]
    if (
        not joules
        or min(joules) <= 0.0
        or any(row["estimated"] == "true" for row in rows if row["source"] == "smart-plug")
    ):
        faults.append(f"the plug's joules were {joules}")
    return faults


def trained_by_the_kit(python: Path) -> list[str]:
    """The conformance kit's level that trains by TRL, through its command; what is wrong."""
    command = [str(python.with_name("mx-plugin")), "conformance"]
    faults = []
    for words in ("bf16", "kl-budget max_mismatch=1e-9 layers_per_move=3"):
        print(f"--- mx-plugin conformance {words} --level trl", flush=True)
        done = subprocess.run([*command, *words.split(), "--level", "trl"], env=ENVIRONMENT, check=False)
        if done.returncode != 0:
            faults.append(f"{words} does not conform at the level trl")
    return faults


def new_packages(python: Path, scratch: Path) -> list[Path]:
    """One of each kind, as `mx-plugin new` writes it."""
    command = [str(python.with_name("mx-plugin")), "new"]
    for kind in KINDS:
        subprocess.run([*command, kind, f"acme-{kind}", "--output", "new"], cwd=scratch, check=True)
    return [scratch / "new" / f"acme-{kind}-mx" for kind in KINDS]


def check(python: Path, scratch: Path) -> list[str]:
    """Everything; what is wrong, empty when all is well."""
    written = new_packages(python, scratch)
    install(python, *EXAMPLES, *written)
    faults = train_by_names(python, scratch) + trained_by_the_kit(python)
    for folders in (EXAMPLES, written):
        if not own_tests(python, *folders):
            faults.append(f"tests fail: {', '.join(folder.name for folder in folders)}")
    return faults
