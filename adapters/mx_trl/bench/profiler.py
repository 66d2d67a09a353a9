"""``mx-plugin bench profiler``: what the profiler costs in the steps that it does not profile."""

from __future__ import annotations

import io
import statistics
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import TrainerCallback

from mx_plugin.bench import Bench, BenchUnavailable, Row
from mx_plugin.errors import MXError

from .step import _little_garbage

STEPS = 10
"""Of one training: the first warms up, the last is the profiled one; those between are measured."""

TARGET = 0.99
"""An overhead below 1%."""

_SETTINGS: dict[str, Any] = {
    "per_device_train_batch_size": 32,
    "max_steps": STEPS,
    "learning_rate": 1e-3,
    "seed": 1,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}


def profiler_rows(bench: Bench) -> Iterator[Row]:
    """Short trainings of the embedded model by plain TRL, with and without the profiler in turn, SFT and GRPO.

    The embedded model's steps are about as short as steps get, so what is added to each weighs most there. The
    profiler's window is the last step, which is not measured.

    Raises:
        MXError: ``--profiler-rounds`` below 1.
        BenchUnavailable: a device other than the CPU.
    """
    if bench.device != "cpu":
        raise BenchUnavailable(f"profiler measures Python's part in steps on a CPU, --device is {bench.device}")
    rounds = int(bench.arguments.profiler_rounds)
    if rounds < 1:
        raise MXError(f"--profiler-rounds {rounds}: at least one round must be measured")
    with TemporaryDirectory(prefix="mx_bench_") as name, warnings.catch_warnings(), _little_garbage():
        warnings.simplefilter("ignore", FutureWarning)  # of frameworks about each other
        for stage, make in (("SFT", make_sft), ("GRPO", make_grpo)):
            with _quiet():
                trainer = make(Path(name) / stage)
            yield from _rows(stage, _measured(trainer, Path(name), rounds, bench.effort.clock))


def make_sft(folder: Path) -> Any:
    """Plain TRL's SFTTrainer on the embedded model and dialogues."""
    from trl import ModelConfig, SFTConfig

    from ..stages.arguments import SFTScriptArguments
    from ..stages.sft import build_sft

    args = SFTConfig(output_dir=str(folder), **_SETTINGS)
    return build_sft(SFTScriptArguments(no_mx=True), args, ModelConfig()).trainer


def make_grpo(folder: Path) -> Any:
    """Plain TRL's GRPOTrainer on the embedded model, prompts and reward."""
    from trl import GRPOConfig, ModelConfig

    from ..stages.arguments import GRPOScriptArguments
    from ..stages.grpo import build_grpo

    args = GRPOConfig(
        output_dir=str(folder), num_generations=8, max_completion_length=20, beta=0.02, temperature=1.0, **_SETTINGS
    )
    return build_grpo(GRPOScriptArguments(no_mx=True), args, ModelConfig()).trainer


def _measured(trainer: Any, folder: Path, rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds of every measured step, ``plain`` and ``profiled``."""
    taken: dict[str, list[float]] = {"plain": [], "profiled": []}
    for number in range(rounds):
        # Which of the two comes first changes from round to round.
        for name in sorted(taken, reverse=bool(number % 2)):
            taken[name] += _train(trainer, folder, name == "profiled", clock)
    return taken


def _train(trainer: Any, folder: Path, profiled: bool, clock: Callable[[], float]) -> list[float]:
    from ..profiler.callback import MXProfilerCallback

    watch = _Steps(clock)
    with ExitStack() as stack:
        out = stack.enter_context(TemporaryDirectory(dir=folder))
        callbacks: list[TrainerCallback] = [watch]
        if profiled:
            # The window's own files are no part of what is measured.
            callbacks.insert(0, MXProfilerCallback((STEPS - 1, 0, 1, 1), output_dir=out, trace=False, flame=False))
        for callback in callbacks:
            trainer.add_callback(callback)
            stack.callback(trainer.remove_callback, callback)
        stack.enter_context(_quiet())
        trainer.train()
    return watch.seconds[1:-1]


class _Steps(TrainerCallback):
    """Takes the time from the end of one step to that of the next, as the last of the callbacks."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last = 0.0
        self.seconds: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._last = self._clock()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        now = self._clock()
        self.seconds.append(now - self._last)
        self._last = now


def _quiet() -> ExitStack:
    stack = ExitStack()
    stack.enter_context(redirect_stdout(io.StringIO()))
    stack.enter_context(redirect_stderr(io.StringIO()))
    return stack


def _rows(stage: str, taken: dict[str, list[float]]) -> Iterator[Row]:
    plain, profiled = (statistics.median(taken[name]) for name in ("plain", "profiled"))
    case = f"{stage}, embedded model"
    number = len(taken["plain"])
    yield Row("profiler", case, "plain TRL", plain, 1.0, note=f"{number} steps")
    note = f"{number} steps; {1e6 * (profiled - plain):+.0f} us a step, {100 * (profiled / plain - 1):+.2f}%"
    yield Row("profiler", case, "--profile, outside its windows", profiled, plain / profiled, TARGET, note=note)
