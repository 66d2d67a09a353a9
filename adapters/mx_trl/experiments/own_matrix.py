"""The sensitivity matrix that an experiment measures by itself, for a policy such as D that was given none."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mx_plugin.experiments.executor import Job, LocalExecutor
from mx_plugin.experiments.folder import ResultsFolder
from mx_plugin.experiments.runner import tail_of

from ..errors import StageError
from .processes import environment
from .request import default_threads

MOST_EXACT = 64
"""Layers of the policy up to which each is measured by itself; above, the fast estimate is taken."""

_PROMPTS = 16
_LONGEST = 128


def own_matrix(folder: ResultsFolder, start: Mapping[str, Any], threads: int | None) -> Path:
    """Profile the rollouts of the recipe's start on its first prompts; resumes what a kill cut off.

    Args:
        start: what examining the recipe gave.

    Raises:
        StageError: the profile failed; with the end of its log.
    """
    matrix, log = folder.start / "sensitivity_matrix.csv", folder.start / "profile.log"
    command = [sys.executable, "-m", "mx_plugin", "profile", *profile_words(start, matrix)]
    engine = command[command.index("--engine") + 1]
    print(f"no --matrix: measuring one ({engine}; mx-plugin profile, see {log}) ...", file=sys.stderr, flush=True)
    job = Job("profile", command, log, environment(threads or default_threads(1, embedded=False)))
    for outcome in LocalExecutor().execute([job], lambda running: None):
        if outcome.status:
            tail = "\n".join(tail_of(log))
            raise StageError(f"the profile ended with status {outcome.status}; the end of {log}:\n{tail}")
    return matrix


def profile_words(start: Mapping[str, Any], matrix: Path) -> Sequence[str]:
    """The command line of ``mx-plugin profile`` after its name."""
    prompts = dict(start["prompts"])
    trust = prompts.pop("trust_remote_code")
    longest = min(prompts.pop("max_length") or _LONGEST, _LONGEST)
    generate = min(prompts.pop("generate"), longest // 2)
    layers = sum(layer["role"] == "policy" for layer in start["layers"])
    words = ["--model", start["start"]["model"], "--phases", "rollout", "--output", str(matrix), "--resume"]
    words += ["--engine", "exact" if layers <= MOST_EXACT else "fast", "--num_prompts", str(_PROMPTS)]
    words += ["--generate", str(generate), "--max_length", str(longest)]
    for name, value in prompts.items():
        words += [] if value is None else [f"--{name}", str(value)]
    return [*words, "--trust_remote_code"] if trust else words
