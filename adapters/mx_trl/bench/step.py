"""``mx-plugin bench step``: a whole PPO step under MX against plain TRL, phase by phase."""

from __future__ import annotations

import gc
import io
import statistics
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import Qwen2Config, TrainerCallback

from mx_plugin.bench import Bench, BenchUnavailable, Row
from mx_plugin.errors import MXError

from ..callback import MXCallback
from ..errors import StageError
from .ppo_setup import MEASURED_STEPS, make_trainer, products_in_bf16

MX_GRADIENT = """
version: 1
name: C_gradient
description: Policy C with the updates quantised too.
activations: MXFP8
scale_rule: rceil
defaults: {rollout: MXFP4, reward: MXFP8, gradient: MXFP8}
lm_head: {rollout: MXFP8}
"""

HEADLINE = "C, MXFP8 gradient"
TARGETS = {torch.bfloat16: (1.2, 1.6), torch.float32: (1.5, 2.5)}
"""(target, stretch) of ``HEADLINE`` against plain TRL on a CPU, by the model's dtype."""

PHASES = ("rollout", "reward", "gradient")


@dataclass(frozen=True)
class Variant:
    """One way to train: ``policy`` None is plain TRL, ``bf16_products`` plain TRL under autocast."""

    dtype: torch.dtype
    what: str
    policy: str | None = None
    bf16_products: bool = False
    unwatched: bool = False
    """Mismatch is measured before the first step only, not at every step as by default."""
    epochs: int = 4


def variants(gradient: Path, epochs: int) -> Iterator[Variant]:
    """All that is compared, each dtype's baseline first. ``gradient``: where policy ``C_gradient`` is written."""
    for dtype in (torch.bfloat16, torch.float32):
        yield Variant(dtype, "plain TRL", epochs=epochs)
        if dtype == torch.float32:
            yield Variant(dtype, "bf16 products, no casts", bf16_products=True, epochs=epochs)
        yield Variant(dtype, HEADLINE, str(gradient), epochs=epochs)
        yield Variant(dtype, f"{HEADLINE}, mismatch_every=0", str(gradient), unwatched=True, epochs=epochs)
        yield Variant(dtype, "C (updates unquantised)", "C", epochs=epochs)


def step_rows(bench: Bench, config: Qwen2Config | None = None) -> Iterator[Row]:
    """Rounds of ``train()``, one variant after the other in one process; two steps of each are measured.

    PPOTrainer cannot be stopped between two steps, so it is these short trainings that alternate. Variants of one
    dtype share a trainer and go on training its models. The note of a row has the seconds of each phase.

    Raises:
        BenchUnavailable: this trl has no PPO.
        MXError: ``--rounds`` below 1, ``--ppo-epochs`` not a list of positive numbers.
    """
    rounds = int(bench.arguments.rounds)
    if rounds < 1:
        raise MXError(f"--rounds {rounds}: at least one round must be measured")
    epochs = _numbers(bench.arguments.ppo_epochs)
    with TemporaryDirectory(prefix="mx_bench_") as name, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of frameworks about each other
        folder = Path(name)
        (folder / "C_gradient.yaml").write_text(MX_GRADIENT, encoding="utf-8")
        try:
            trainers = {dtype: make_trainer(folder, dtype, config, bench.device) for dtype in TARGETS}
        except StageError as error:
            raise BenchUnavailable(str(error)) from error
        weights = sum(parameter.numel() for parameter in trainers[torch.bfloat16].policy_model.parameters())
        with _little_garbage():
            for count in epochs:
                taken: dict[Variant, list[dict[str, float]]] = defaultdict(list)
                for _ in range(rounds):
                    for variant in variants(folder / "C_gradient.yaml", count):
                        taken[variant] += _train(bench, trainers[variant.dtype], variant, folder)
                yield from _table(taken, weights, bench.device)


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in str(text).split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise MXError(f"--ppo-epochs {text!r} is not a list of positive numbers; write e.g. 1,4")
    return numbers


@contextmanager
def _little_garbage() -> Iterator[None]:
    """TRL collects garbage several times a step; what is imported and loaded by now need not be looked at again."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _train(bench: Bench, trainer: Any, variant: Variant, folder: Path) -> list[dict[str, float]]:
    """One ``train()``; seconds of each measured step, by phase and in all (``step``)."""
    trainer.args.num_ppo_epochs = variant.epochs
    with ExitStack() as stack:
        out = stack.enter_context(TemporaryDirectory(dir=folder))
        stack.enter_context(redirect_stdout(io.StringIO()))
        stack.enter_context(products_in_bf16(trainer) if variant.bf16_products else nullcontext())
        watch = stack.enter_context(StepWatch.on(trainer, bench.effort.settled_clock))
        callbacks: list[TrainerCallback] = [watch]
        if variant.policy is not None:
            options: dict[str, Any] = {"mismatch_every": 0, "kl_every": 0} if variant.unwatched else {}
            options |= {"policy": variant.policy, "backend": bench.backend}
            # Random models mismatch as much as they like: the gate would only fill the screen.
            callbacks.insert(0, MXCallback(output_dir=out, gate_outside_clip=1.0, **options))
        for callback in callbacks:
            trainer.add_callback(callback)
            stack.callback(trainer.remove_callback, callback)
        trainer.train()
    return watch.steps[-MEASURED_STEPS:]


class StepWatch(TrainerCallback):
    """Times each step and its phases the same way for every variant, from outside.

    ``rollout`` is the time in ``generate`` (and in what MX does there), ``reward`` from there to the first forward
    of policy and critic together, which only the update calls, ``gradient`` the rest.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.steps: list[dict[str, float]] = []
        self._start = self._generated = self._updating = 0.0
        self._rollout = 0.0

    @classmethod
    @contextmanager
    def on(cls, trainer: Any, clock: Callable[[], float]) -> Iterator[StepWatch]:
        """A watch whose hooks are in place; add it to the trainer as its last callback."""
        watch, policy = cls(clock), trainer.policy_model
        inner = policy.__dict__.get("generate")

        def generate(*args: Any, **kwargs: Any) -> Any:
            start = clock()
            output = inner(*args, **kwargs) if inner else type(policy).generate(policy, *args, **kwargs)
            watch._generated = clock()
            watch._rollout += watch._generated - start
            return output

        policy.__dict__["generate"] = generate
        hook = trainer.model.register_forward_pre_hook(watch._before_update)
        try:
            yield watch
        finally:
            hook.remove()
            if inner is None:
                del policy.__dict__["generate"]
            else:
                policy.__dict__["generate"] = inner

    def _before_update(self, *_: Any) -> None:
        if self._updating < self._generated:
            self._updating = self.clock()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._start, self._rollout = self.clock(), 0.0

    def on_step_end(self, *_: Any, **__: Any) -> None:
        now = self.clock()
        reward, gradient = self._updating - self._generated, now - self._updating
        self.steps.append({"step": now - self._start, "rollout": self._rollout, "reward": reward, "gradient": gradient})
        self._start, self._rollout = now, 0.0


def _table(taken: dict[Variant, list[dict[str, float]]], weights: int, device: str) -> Iterator[Row]:
    plain: dict[torch.dtype, float] = {}
    for variant, steps in taken.items():
        median = statistics.median(step["step"] for step in steps)
        baseline = plain.setdefault(variant.dtype, median)
        aimed = variant.what == HEADLINE and device == "cpu"
        target, stretch = TARGETS[variant.dtype] if aimed else (None, None)
        dtype = str(variant.dtype).removeprefix("torch.")
        case = f"{dtype} {weights / 1e6:.0f}M, ppo_epochs {variant.epochs}"
        phases = {phase: statistics.median(step[phase] for step in steps) for phase in PHASES}
        note = ", ".join(f"{phase} {seconds:.2f}" for phase, seconds in phases.items()) + " s"
        yield Row("step", case, variant.what, median, baseline / median, target, stretch, note=note)
