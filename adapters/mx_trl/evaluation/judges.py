"""Judges by name: ``NAME`` or ``NAME:KEY=VALUE,KEY=VALUE``, from this package or a plugin."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mx_plugin import plugins
from mx_plugin.errors import MXError

from ..errors import StageError
from ..prompts import Prompt

Judge = Callable[[Sequence[Prompt], Sequence[str]], list[float]]
"""``(prompts, completions) -> one score each``, higher is better. ``describe()``, if it has one, gives plain data for
evaluation.json; ``trained_on`` may name a reward rule, with which it must not judge."""


@dataclass(frozen=True)
class JudgeContext:
    """What the evaluation offers: each is handed to a judge's factory that has a parameter of that name.

    ``dataset``: where the prompts come from. ``start``: the model before training. ``folder``: where a judge may keep
    what it made. ``used_prompts``: prompts trained on or answered, which a judge must not be trained on.
    """

    dataset: str
    start: str
    folder: Path
    used_prompts: Sequence[Prompt]


def parse_judge(text: str) -> tuple[str, dict[str, str]]:
    """Name and options.

    Raises:
        StageError: an option that is not KEY=VALUE.
    """
    name, _, rest = text.partition(":")
    options: dict[str, str] = {}
    for entry in filter(None, rest.split(",")):
        key, equals, value = entry.partition("=")
        if not equals or not key.strip():
            raise StageError(f"judge {text!r}: {entry!r} is not KEY=VALUE; write e.g. likelihood:model=FOLDER")
        options[key.strip()] = value.strip()
    return name.strip(), options


def open_judge(text: str, context: JudgeContext) -> Judge:
    """Make the judge of that name.

    Raises:
        PluginError: nobody registered it. StageError: an option that it does not take.
    """
    name, options = parse_judge(text)
    registry = plugins.judges()
    if name not in registry:
        raise StageError(plugins.unknown("judge", name, registry))
    factory = registry[name].factory
    taken = _parameters(factory)
    offered = {key: value for key, value in vars(context).items() if key in taken and key not in options}
    if taken is not ANY:
        for key in options:
            if key not in taken:
                known = ", ".join(sorted(set(taken) - set(vars(context)))) or "none"
                raise StageError(f"judge {name} takes no option {key!r}; its options: {known}")
    try:
        judge: Judge = factory(**offered, **options)
    except MXError:
        raise
    except Exception as error:  # a plugin's factory may raise anything
        raise StageError(f"judge {text!r} could not be made: {type(error).__name__}: {error}") from error
    return judge


class _Any(tuple[str, ...]):
    """Parameters of a factory that takes any keyword: options go in, nothing is offered."""


ANY: Any = _Any()


def _parameters(factory: Callable[..., Any]) -> Any:
    parameters: Mapping[str, inspect.Parameter] = inspect.signature(factory).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return ANY
    return tuple(parameters)


def scores_of(judge: Judge, name: str, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
    """What the judge says.

    Raises:
        StageError: not one finite number for each completion.
    """
    scores = [float(score) for score in judge(list(prompts), list(completions))]
    if len(scores) != len(completions):
        raise StageError(f"judge {name} gave {len(scores)} scores for {len(completions)} completions")
    for number, score in enumerate(scores):
        if score != score or score in (float("inf"), float("-inf")):
            raise StageError(f"judge {name} scored completion {number} ({completions[number]!r:.60}) as {score}")
    return scores
