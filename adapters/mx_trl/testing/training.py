"""Trains under MX with the plugin under test, chosen by name as a user would, and keeps what came of it."""

from __future__ import annotations

import io
import math
import random
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mx_plugin import plugins
from mx_plugin.hookspecs import RegisterFactory, hookimpl
from mx_plugin.ledger import EnergyRow
from mx_plugin.testing import NotApplicable, demand, demand_same

from .tiny import STEPS

NAME = "mx-trl-under-test"
LEAVE_ALONE = "draw from a generator of your own, and seed no global one"


class _UnderTest:
    """Registers what ``make`` makes under one name for each kind."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def make(self, **_: Any) -> Any:
        return self._make()

    @hookimpl
    def mx_register_backends(self, register: RegisterFactory) -> None:
        register(NAME, self.make)

    @hookimpl
    def mx_register_meters(self, register: RegisterFactory) -> None:
        register(NAME, self.make)

    @hookimpl
    def mx_register_providers(self, register: RegisterFactory) -> None:
        register(NAME, self.make)


class Witness:
    """Sees a training from inside; what a check wants to see, it overrides."""

    def starts(self, model: Any) -> None:
        """Before ``train()``: hooks may be hung on the model."""

    def step_begins(self) -> None:
        """Before each step's rollout."""

    def ends(self) -> None:
        """After the last step; the plugin is not closed yet."""


class Describing(Witness):
    """Keeps what the plugin that ``ran`` names says of itself once it has trained."""

    def __init__(self, ran: Callable[[], Any]) -> None:
        self._ran = ran
        self.told: Any = None

    def ends(self) -> None:
        self.told = self._ran().describe()


@dataclass(frozen=True)
class Trained:
    """What two steps left: by step the loss, the ledger's rows, calls by role, phase and layer, the model's tensors,
    and the state of torch's, numpy's and Python's global random numbers afterwards."""

    losses: tuple[float, ...]
    rows: tuple[EnergyRow, ...]
    hits: dict[str, dict[str, dict[str, int]]]
    weights: dict[str, torch.Tensor]
    random_state: tuple[bytes, str, str]

    def demand_finite(self) -> None:
        """Raise a Fault unless every step has a finite loss."""
        demand(len(self.losses) == STEPS, f"{len(self.losses)} of {STEPS} steps logged a loss")
        for step, loss in enumerate(self.losses, 1):
            demand(math.isfinite(loss), f"the loss of step {step} is {loss}")

    def demand_as_trl_alone(self) -> None:
        """Raise a Fault unless weights and random numbers are those that TRL alone leaves, bit for bit."""
        alone = plain()
        self.demand_random_numbers()
        for name, expected in alone.weights.items():
            demand_same(self.weights[name], expected, f"{name} after {STEPS} steps, against TRL alone", LEAVE_ALONE)

    def demand_random_numbers(self) -> None:
        """Raise a Fault unless the global random numbers are where TRL alone leaves them."""
        for library, ours, due in zip(
            ("torch", "numpy", "random"), self.random_state, plain().random_state, strict=True
        ):
            demand(ours == due, f"{library}'s global random numbers are not where TRL alone leaves them", LEAVE_ALONE)


def need_trl() -> None:
    """Raise NotApplicable, with the remedy, where no step of TRL can be taken: that is no fault of the plugin."""
    remedy = "pip install 'mx-plugin[ppo]' or 'mx-plugin[trl]'"
    if find_spec("trl") is None:
        raise NotApplicable(f"trl is not installed: {remedy}")
    try:
        from trl import GRPOTrainer  # noqa: F401
    except (ImportError, RuntimeError) as error:  # transformers' lazy modules make one of the other
        told = " ".join(str(error).split())
        raise NotApplicable(f"trl cannot be imported ({told}): {remedy}") from error


def unless_it_fails(trained: Callable[[], Trained]) -> Trained:
    """What a check gets that asks for more than that training works: the check ``two_steps`` tells why it does not.

    Raises:
        NotApplicable: training raised.
    """
    try:
        return trained()
    except NotApplicable:
        raise
    except Exception as error:
        raise NotApplicable(f"training raised {type(error).__name__}, see two_steps") from error


def train(make: Callable[[], Any], policy: str, witness: Witness | None = None, **options: Any) -> Trained:
    """Two steps of GRPO under MXCallback.

    Args:
        make: makes the plugin; :data:`NAME` in ``policy`` or ``options`` chooses it.
        policy: a built-in one, :data:`NAME`, or a policy's YAML text.
        **options: fields of MXConfig.
    """
    need_trl()
    from ..callback import MXCallback

    with _under_test(make), _own_random_numbers(), tempfile.TemporaryDirectory(prefix="mx_conformance_") as name:
        folder = Path(name)
        if "\n" in policy:
            (folder / "policy.yaml").write_text(policy, encoding="utf-8")
            policy = str(folder / "policy.yaml")
        # A random model's rollouts and updates differ as much as they like.
        callback = MXCallback(policy=policy, output_dir=folder, gate_outside_clip=1.0, **options)
        return _trained(folder, callback, witness or Witness())


@cache
def plain() -> Trained:
    """The same steps by TRL alone."""
    need_trl()
    with _own_random_numbers(), tempfile.TemporaryDirectory(prefix="mx_conformance_") as name:
        return _trained(Path(name), None, Witness())


def _trained(folder: Path, callback: Any, witness: Witness) -> Trained:
    from .tiny import make_trainer

    with _quiet():
        trainer = make_trainer(folder, [] if callback is None else [callback])
        trainer.add_callback(_telling(witness))
        witness.starts(trainer.model)
        trainer.train()
    session = None if callback is None else callback.last_session
    return Trained(
        losses=tuple(float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry),
        rows=() if session is None else tuple(session.books.rows),
        hits={} if session is None else session.engine.hits(),
        weights={name: tensor.detach().clone() for name, tensor in trainer.model.state_dict().items()},
        random_state=_random_state(),
    )


def _telling(witness: Witness) -> Any:
    from transformers import TrainerCallback

    class Telling(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            witness.step_begins()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            witness.ends()

    return Telling()


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars, prints and warnings of frameworks about each other between a check's line and the next."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        try:
            yield
        finally:
            if bars:
                logging.enable_progress_bar()


def _random_state() -> tuple[bytes, str, str]:
    return torch.get_rng_state().numpy().tobytes(), repr(np.random.get_state()), repr(random.getstate())


@contextmanager
def _under_test(make: Callable[[], Any]) -> Iterator[None]:
    plugins.register(_UnderTest(make), NAME)
    try:
        yield
    finally:
        plugins.unregister(NAME)


@contextmanager
def _own_random_numbers() -> Iterator[None]:
    """What trains here seeds the global ones, which are then as they were."""
    ours, theirs = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=()):
        try:
            yield
        finally:
            random.setstate(ours)
            np.random.set_state(theirs)
