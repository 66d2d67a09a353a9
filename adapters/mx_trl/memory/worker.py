"""The process that ``--validate`` measures: reads a request on standard input, writes peaks by phase as JSON."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from .request import NO_POLICY, Request

LATE = (
    "torch.utils.data",
    "torch.utils.checkpoint",
    "transformers.generation.utils",
    "transformers.modeling_utils",
    "transformers.models.llama.modeling_llama",
    "transformers.models.qwen2.modeling_qwen2",
    "transformers.trainer",
    "datasets",
    "accelerate",
    "peft",
    "trl",
    "mx_trl",
    "mx_trl.session",
    "mx_trl.observer",
)
"""What a training script has imported before it makes a trainer: transformers and trl import their parts on first use,
which would count as memory of the run."""


def main(folder: Path) -> None:
    """Train and print."""
    told: dict[str, Any] = json.loads(sys.stdin.read())
    request = Request(**told["request"])
    for module in LATE:
        importlib.import_module(module)
    from mx_trl import MXCallback

    from .trial import make_trial, prepare
    from .watch import PhasePeaks, resident

    prepare(request)
    watch = PhasePeaks(resident())
    callbacks: list[Any] = [watch]
    if request.policy != NO_POLICY:
        # Every step, so that few steps hold what ten of a real run do.
        options = {
            "release_frozen": request.release_frozen, "mismatch_samples": request.mismatch_samples, "mismatch_every": 1,
        }  # fmt: skip
        callbacks.insert(0, MXCallback(policy=request.policy, output_dir=str(folder / "mx"), **options))
    trainer = make_trial(request, folder / "run", int(told["steps"]), callbacks)
    trainer.train()
    print()
    print(json.dumps(watch.peaks))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
