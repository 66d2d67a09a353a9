"""What is demanded of a precision provider: an answer for every place, the same until it said that it changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from .. import plugins
from ..errors import MXError
from ..formats.spec import canonical
from ..interfaces import LayerInfo, Provider
from ..precision.formats import PHASES, ROLES, LayerFormats, Product
from .check import Level, Suite
from .fault import Fault, NotApplicable, demand
from .loads import demand_kind, demand_plain
from .trial import Trial

Answers = dict[tuple[str, str, str], LayerFormats]
"""By layer, phase and role."""


def _layers() -> tuple[LayerInfo, ...]:
    """Two transformer blocks for each role, with the names that most models have, and heads."""
    projections = {
        "self_attn": (("q_proj", 64, 64), ("k_proj", 64, 32), ("v_proj", 64, 32), ("o_proj", 64, 64)),
        "mlp": (("gate_proj", 64, 160), ("up_proj", 64, 160), ("down_proj", 160, 64)),
    }
    layers = [
        LayerInfo(f"model.layers.{block}.{part}.{name}", role, inner, outer)
        for role in ROLES
        for block in range(2)
        for part, names in projections.items()
        for name, inner, outer in names
    ]
    heads = [LayerInfo("lm_head", role, 64, 512, is_lm_head=True) for role in ("policy", "reference")]
    return (*layers, *heads)


LAYERS = _layers()
"""The layers of a small model under their usual names; for a provider that knows other names, give ``layers``."""


class ProviderTrial(Trial):
    """``layers``: those that the provider is started with."""

    plugin: Provider

    def __init__(self, make: Callable[[], Provider], layers: Sequence[LayerInfo] = LAYERS) -> None:
        super().__init__(make)
        self.layers = tuple(layers)

    def started(self) -> Provider:
        """A fresh provider that knows the layers."""
        provider: Provider = self.fresh()
        try:
            provider.start(self.layers)
        except MXError as error:
            raise Fault(
                f"start(layers) raised {type(error).__name__}: {error}",
                "if its rules name layers of your model, set options = {'layers': ...} in the test class",
            ) from error
        return provider

    def answers(self, provider: Provider) -> Answers:
        """What it answers for every layer, in every phase."""
        return {
            (layer.name, phase, layer.role): provider.get_precision(layer.name, phase, layer.role)
            for layer in self.layers
            for phase in PHASES
        }


def metrics_at(step: int) -> dict[str, float]:
    """Metrics of a made-up run whose KL first rises far, then falls."""
    kl = 0.01 * 1.4**step if step < 20 else 8.0 * 0.6 ** (step - 20)
    return {
        "objective/kl": kl, "kl": kl, "mx/mismatch/kl": kl / 50, "mx/mismatch/frac_outside_clip": min(kl / 20, 1.0),
        "loss": 1 / (step + 1), "reward": 0.1 * step, "objective/entropy": 2.0, "grad_norm": 1.0,
    }  # fmt: skip


STEPS = 40

LOADS = Level("provider", "loads", "it is a provider and says what it is", ProviderTrial)
ANSWERS = Level("provider", "answers", "every layer has formats in every phase", ProviderTrial)
REFUSES = Level("provider", "refuses", "what does not exist has none", ProviderTrial)
PREFIXES = Level("provider", "prefixes", "a prefix stands for layers that agree", ProviderTrial)
LEARNS = Level("provider", "learns", "answers change when it says so, and a resumed run goes on", ProviderTrial)


# ---------------------------------------------------------------------------- loads


@LOADS.check
def is_a_provider(trial: ProviderTrial) -> None:
    """make() returns a mx_plugin.interfaces.Provider."""
    demand_kind(trial.plugin, Provider)


@LOADS.check
def describes_itself(trial: ProviderTrial) -> None:
    """It takes the layers, and describe() is plain data, for config.json, before and after that."""
    demand_plain(trial.plugin.describe(), "describe() before start")
    demand_plain(trial.started().describe(), "describe() after start")


# ---------------------------------------------------------------------------- answers


@ANSWERS.check
def every_place(trial: ProviderTrial) -> None:
    """Every layer, phase and role gets LayerFormats."""
    for place, answer in trial.answers(trial.started()).items():
        if not isinstance(answer, LayerFormats):
            raise Fault(f"get_precision{place} returned a {type(answer).__name__}", "return LayerFormats(...)")


@ANSWERS.check
def known_formats(trial: ProviderTrial) -> None:
    """The formats are ones that are registered, or FP16."""
    for place, answer in trial.answers(trial.started()).items():
        for product in (getattr(answer, name, None) for name in ("forward", "dgrad", "wgrad")):
            if isinstance(product, Product):
                _demand_known(product, place)


def _demand_known(product: Product, place: tuple[str, str, str]) -> None:
    for fmt in (product.pair.weights, product.pair.activations):
        try:
            known = canonical(fmt)
        except MXError as error:
            raise Fault(f"get_precision{place} names a format that nobody registered: {error}") from None
        demand(known == fmt, f"get_precision{place} says {fmt!r}", f"write {known!r}, the format's own name")


@ANSWERS.check
def the_same_again(trial: ProviderTrial) -> None:
    """Asked again, it answers the same."""
    provider = trial.started()
    _demand_equal(trial.answers(provider), trial.answers(provider), "asked again, with nothing observed in between")


@ANSWERS.check
def the_same_anew(trial: ProviderTrial) -> None:
    """A second provider, made in the same way, answers the same: ranks of a run agree."""
    _demand_equal(trial.answers(trial.started()), trial.answers(trial.started()), "asked of a second one")


# ---------------------------------------------------------------------------- refuses


@REFUSES.check
def unknown_phases(trial: ProviderTrial) -> None:
    """A phase that does not exist raises."""
    layer = trial.layers[0]
    _demand_raises(trial.started(), (layer.name, "training", layer.role), "there is no phase 'training'")


@REFUSES.check
def unknown_roles(trial: ProviderTrial) -> None:
    """A role that does not exist raises."""
    _demand_raises(trial.started(), (trial.layers[0].name, "rollout", "teacher"), "there is no role 'teacher'")


def _demand_raises(provider: Provider, place: tuple[str, str, str], why: str) -> None:
    try:
        answer = provider.get_precision(*place)
    except MXError:
        return
    raise Fault(f"get_precision{place} answered {answer}, but {why}", "raise mx_plugin.errors.PolicyError")


# ---------------------------------------------------------------------------- prefixes


@PREFIXES.check
def shared(trial: ProviderTrial) -> None:
    """A prefix whose layers agree has their answer."""
    provider = trial.started()
    for place, below in _below_prefixes(trial, provider).items():
        answers = list(below.values())
        if len(below) > 1 and all(answer == answers[0] for answer in answers):
            answer = provider.get_precision(*place)
            demand(
                answer == answers[0], f"get_precision{place} is {_told(answer)}, its layers have {_told(answers[0])}"
            )
            return
    raise NotApplicable("no prefix has layers that agree")


@PREFIXES.check
def differing(trial: ProviderTrial) -> None:
    """A prefix whose layers differ raises, and lists some."""
    provider = trial.started()
    for place, below in _below_prefixes(trial, provider).items():
        answers = list(below.values())
        if all(answer == answers[0] for answer in answers):
            continue
        try:
            answer = provider.get_precision(*place)
        except MXError as error:
            listed = [name for name in below if name in str(error)]
            demand(len(listed) > 1, f"get_precision{place} raised {error!r}", "list layers that differ")
            return
        raise Fault(f"get_precision{place} answered {_told(answer)}, but layers below it differ", "raise PolicyError")
    raise NotApplicable("its layers agree below every prefix")


def _below_prefixes(trial: ProviderTrial, provider: Provider) -> dict[tuple[str, str, str], dict[str, LayerFormats]]:
    found: dict[tuple[str, str, str], dict[str, LayerFormats]] = {}
    for (name, phase, role), answer in trial.answers(provider).items():
        parts = name.split(".")
        for depth in range(1, len(parts)):
            found.setdefault((".".join(parts[:depth]), phase, role), {})[name] = answer
    return found


# ---------------------------------------------------------------------------- learns


@LEARNS.check
def says_whether_it_changed(trial: ProviderTrial) -> None:
    """observe() returns a bool."""
    provider = trial.started()
    for step in range(STEPS):
        said = provider.observe(step, metrics_at(step))
        demand(isinstance(said, bool), f"observe({step}, ...) returned {said!r}", "True: ask me again; else False")


@LEARNS.check
def keeps_its_word(trial: ProviderTrial) -> None:
    """While observe() returns False, the answers stay: formats in use are only changed when it says so."""
    provider = trial.started()
    trial.answers(provider)  # that the first answers are also the second is a check of its own
    before = trial.answers(provider)
    for step in range(STEPS):
        if provider.observe(step, metrics_at(step)):
            before = trial.answers(provider)
        else:
            _demand_equal(before, trial.answers(provider), f"after observe({step}, ...) had returned False")


@LEARNS.check
def takes_any_metrics(trial: ProviderTrial) -> None:
    """Metrics may be absent, not a number or infinite."""
    provider = trial.started()
    for step, value in enumerate((None, float("nan"), float("inf"), float("-inf"))):
        provider.observe(step, {} if value is None else dict.fromkeys(metrics_at(0), value))
        trial.answers(provider)


@LEARNS.check
def state_is_plain(trial: ProviderTrial) -> None:
    """state_dict() holds plain data and tensors: what a checkpoint can keep."""
    provider = trial.started()
    _observe(provider, range(STEPS // 2))
    _demand_state_plain(_state(provider), "state_dict()")


@LEARNS.check
def resumes(trial: ProviderTrial) -> None:
    """A fresh provider with the state of another goes on as that one would have."""
    lived = trial.started()
    first = trial.answers(lived)
    for stop in (STEPS // 4, STEPS // 2, STEPS - 8):
        lived, resumed = trial.started(), trial.started()
        _observe(lived, range(stop))
        if hasattr(lived, "state_dict"):
            resumed.load_state_dict(_state(lived))  # type: ignore[attr-defined]
        remedy = "keep what the answers depend on in state_dict() and load_state_dict()"
        _demand_equal(trial.answers(lived), trial.answers(resumed), f"resumed after {stop} steps", remedy)
        for step in range(stop, STEPS):
            lived.observe(step, metrics_at(step))
            resumed.observe(step, metrics_at(step))
            what = f"resumed after {stop} steps, at step {step}"
            _demand_equal(trial.answers(lived), trial.answers(resumed), what, remedy)
    if not hasattr(lived, "state_dict") and first == trial.answers(lived):
        raise NotApplicable("its answers do not change while training runs")


def _observe(provider: Provider, steps: range) -> None:
    for step in steps:
        provider.observe(step, metrics_at(step))


def _state(provider: Provider) -> Mapping[str, Any]:
    if not hasattr(provider, "state_dict"):
        raise NotApplicable("it has no state_dict")
    state: Mapping[str, Any] = provider.state_dict()
    return state


def _demand_state_plain(value: object, where: str) -> None:
    if isinstance(value, torch.Tensor):
        return
    if isinstance(value, Mapping):
        for key, each in value.items():
            demand(isinstance(key, str), f"{where} has the key {key!r}; keys of plain data are text")
            _demand_state_plain(each, f"{where}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for number, each in enumerate(value):
            _demand_state_plain(each, f"{where}[{number}]")
    else:
        try:
            json.dumps(value)
        except TypeError:
            raise Fault(f"{where} is a {type(value).__name__}, neither plain data nor a tensor") from None


def _demand_equal(first: Answers, second: Answers, what: str, remedy: str = "") -> None:
    for place, answer in first.items():
        if second[place] != answer:
            raise Fault(f"get_precision{place} is {_told(second[place])} {what}, was {_told(answer)}", remedy)


def _told(answer: object) -> str:
    if isinstance(answer, LayerFormats):
        return f"{answer.forward} (dgrad {answer.dgrad}, wgrad {answer.wgrad})"
    return repr(answer)


LEVELS = (LOADS, ANSWERS, REFUSES, PREFIXES, LEARNS)
PROVIDER = Suite("provider", LEVELS, plugins.providers, plugins.get_provider)
