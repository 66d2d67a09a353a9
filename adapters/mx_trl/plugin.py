"""What mx_trl registers with mx-plugin. Imports neither torch nor a framework."""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from mx_plugin.hookspecs import RegisterBench, RegisterCommand, RegisterFactory, RegisterPolicyMeasure, hookimpl

if TYPE_CHECKING:
    from mx_plugin.bench import Bench, Row
    from mx_plugin.sensitivity import PolicyCosts
    from mx_plugin.testing import Suite

MX_PLUGIN_INTERFACE = (1, 0)

_FRAMEWORKS = (
    ("trl", (1, 12), "pip install 'mx-plugin[ppo]' (PPO, trl 1.12) or 'mx-plugin[trl]' (trl 1.16 and later)"),
    ("transformers", (5, 0), "pip install 'transformers>=5'"),
    ("accelerate", (1, 0), "pip install accelerate"),
)


@hookimpl
def mx_register_layer_types(register: Callable[[Any], None]) -> None:
    """GPT-2's Conv1D, once transformers is loaded."""
    if "transformers" not in sys.modules:
        return
    from transformers.pytorch_utils import Conv1D

    from mx_plugin.execution.layer_types import LayerType

    register(LayerType(Conv1D, transposed=True))


@hookimpl
def mx_register_checks(register: Callable[..., None]) -> None:
    """Which framework versions are installed, and which trainers they have."""
    register(framework_checks)


def framework_checks() -> list[Any]:
    """One check per framework; an old version is a warning with its remedy."""
    from mx_plugin.check import Check

    checks = []
    for name, oldest, remedy in _FRAMEWORKS:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            checks.append(Check(name, "warn", "not installed; the TRL adapter cannot run", remedy))
            continue
        found = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
        if found < oldest:
            wanted = ".".join(map(str, oldest))
            checks.append(Check(name, "warn", f"{version} is older than {wanted}, the oldest tested", remedy))
        elif name == "trl":
            line = "has PPO" if found < (1, 13) else "no PPO (the last with it is 1.12)"
            checks.append(Check(name, "ok", f"{version}: {line}"))
        else:
            checks.append(Check(name, "ok", version))
    return checks


@hookimpl
def mx_register_commands(register: RegisterCommand) -> None:
    """``mx-plugin profile``, ``experiment``, ``pipeline``, ``evaluate``, ``export`` and ``memory``."""
    register("profile", _add_profile_arguments, _profile, summary="what each format costs, per layer, phase and role")
    register("experiment", _add_experiment_arguments, _experiment, summary="train under several policies, and compare")
    register("pipeline", _add_pipeline_arguments, _pipeline, summary="SFT, reward model, PPO, ...: stages in a row")
    register("evaluate", _add_evaluate_arguments, _evaluate, summary="judge the runs of an experiment, and compare")
    register("export", _add_export_arguments, _export, summary="write a run's model: plain, or packed in MX formats")
    register("memory", _add_memory_arguments, _memory, summary="what a stage needs in each phase, from a config alone")
    register("dashboard", _add_dashboard_arguments, _dashboard, summary="is a run healthy? live, or as one page")


def _add_profile_arguments(parser: argparse.ArgumentParser) -> None:
    from .sensitivity.arguments import add_arguments

    add_arguments(parser)


def _profile(arguments: argparse.Namespace) -> int:
    _need_to_load("mx-plugin profile")
    from .sensitivity.command import run

    return run(arguments)


def _add_experiment_arguments(parser: argparse.ArgumentParser) -> None:
    from .experiments.arguments import add_arguments

    add_arguments(parser)


def _experiment(arguments: argparse.Namespace) -> int:
    _need_to_load("mx-plugin experiment", "trl")
    from .experiments.command import run

    return run(arguments)


def _add_pipeline_arguments(parser: argparse.ArgumentParser) -> None:
    from .pipeline.arguments import add_arguments

    add_arguments(parser)


def _pipeline(arguments: argparse.Namespace) -> int:
    _need_to_load("mx-plugin pipeline", "trl")
    from .pipeline.command import run

    return run(arguments)


def _add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    from .evaluation.arguments import add_arguments

    add_arguments(parser)


def _evaluate(arguments: argparse.Namespace) -> int:
    _need_to_load("mx-plugin evaluate")
    from .evaluation.command import run

    return run(arguments)


def _add_export_arguments(parser: argparse.ArgumentParser) -> None:
    from .export.arguments import add_arguments

    add_arguments(parser)


def _export(arguments: argparse.Namespace) -> int:
    _need_to_load("mx-plugin export")
    from .export.command import run

    return run(arguments)


def _add_dashboard_arguments(parser: argparse.ArgumentParser) -> None:
    from .dashboard.arguments import add_arguments

    add_arguments(parser)


def _dashboard(arguments: argparse.Namespace) -> int:
    from .dashboard.command import run

    return run(arguments)


def _add_memory_arguments(parser: argparse.ArgumentParser) -> None:
    from .memory.arguments import add_arguments

    add_arguments(parser)


def _memory(arguments: argparse.Namespace) -> int:
    _need_to_load("mx-plugin memory")
    from .memory.command import run

    return run(arguments)


@hookimpl
def mx_register_judges(register: RegisterFactory) -> None:
    """Judges of ``mx-plugin evaluate``."""
    from . import judge_factories as made

    register("gsm8k", made.gsm8k, summary="1 for the right number, else 0")
    register("reading_ease", made.reading_ease, summary="Flesch's reading ease")
    register("rule", made.rule, summary="a reward rule that the runs were not trained on")
    register("preference", made.preference, summary="a head trained on preference pairs")
    register("likelihood", made.likelihood, summary="log-probability under another model")


@hookimpl
def mx_register_policy_measures(register: RegisterPolicyMeasure) -> None:
    """Models and data of ``mx-plugin profile``."""
    register("trl", _open_measure, _add_measure_arguments, summary="models and prompts, loaded as profile does")


def _add_measure_arguments(group: argparse._ActionsContainer) -> None:
    from .sensitivity.arguments import add_measure_arguments

    add_measure_arguments(group)


def _open_measure(arguments: argparse.Namespace) -> AbstractContextManager[PolicyCosts]:
    _need_to_load("--verify")
    from .sensitivity.measure import opened

    return opened(arguments)


def _need_to_load(what: str, framework: str = "transformers") -> None:
    """Raise PluginError where no model can be loaded or trained."""
    from mx_plugin.errors import PluginError

    if find_spec(framework) is None:
        raise PluginError(f"{what} needs {framework}, which is not installed: pip install 'mx-plugin[trl]'")


@hookimpl
def mx_register_conformance(register: RegisterFactory) -> None:
    """The level ``trl``: two steps of GRPO with the plugin by its name."""
    register("backend-trl", _backend_training, summary="TRL trains on it")
    register("meter-trl", _meter_training, summary="it is read while TRL trains")
    register("provider-trl", _provider_training, summary="TRL trains in the formats that it chooses")


def _backend_training() -> Suite:
    from .testing import BACKEND_TRAINING

    return BACKEND_TRAINING


def _meter_training() -> Suite:
    from .testing import METER_TRAINING

    return METER_TRAINING


def _provider_training() -> Suite:
    from .testing import PROVIDER_TRAINING

    return PROVIDER_TRAINING


@hookimpl
def mx_register_benches(register: RegisterBench) -> None:
    """What needs a framework: whole generations, whole PPO steps, and steps beside the profiler."""
    register("decode", _decode, _add_decode_arguments, summary="generate under policy C, in tokens a second")
    register("step", _step, _add_step_arguments, summary="a whole PPO step against plain TRL")
    register("profiler", _profiler, _add_profiler_arguments, summary="what --profile costs outside its windows")


def _add_decode_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tokens", type=int, default=32, help="decode: new tokens of each sequence (default: 32)")


def _add_step_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=2, help="step: rounds of two measured PPO steps (default: 2)")
    parser.add_argument("--ppo-epochs", default="4", help="step: num_ppo_epochs, one or several (default: TRL's, 4)")


def _decode(bench: Bench) -> Iterator[Row]:
    _need("transformers")
    from .bench.decode import decode_rows

    return decode_rows(bench)


def _step(bench: Bench) -> Iterator[Row]:
    _need("transformers")
    _need("trl")
    from .bench.step import step_rows

    return step_rows(bench)


def _add_profiler_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--profiler-rounds", type=int, default=10, help="profiler: rounds of eight measured steps each (default: 10)"
    )


def _profiler(bench: Bench) -> Iterator[Row]:
    _need("transformers")
    _need("trl")
    from .bench.profiler import profiler_rows

    return profiler_rows(bench)


def _need(framework: str) -> None:
    from mx_plugin.bench import BenchUnavailable

    if find_spec(framework) is None:
        remedies = {name: remedy for name, _, remedy in _FRAMEWORKS}
        raise BenchUnavailable(f"{framework} is not installed: {remedies[framework]}")
