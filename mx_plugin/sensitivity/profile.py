"""``profile``: how much quality each format costs, per layer, phase and role."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..execution.engine import Engine
from ..interfaces import Backend
from ..plugins import get_backend
from .assemble import assemble
from .assigned import Assigned
from .batches import digest
from .errors import ProfileError
from .exact import ACTIVATIONS, Exact
from .identity import describe_models, differences
from .journal import Journal
from .measures import Loss
from .progress import Progress, Silent
from .request import (
    BatchesByRole,
    Pairs,
    batches_by_role,
    check_exclusions,
    check_words,
    checked_entries,
    checked_path,
)
from .result import Profile, facts_path
from .scopes import measures

log = logging.getLogger(__name__)

FORMATS = ("MXFP4", "MXFP6", "MXFP8")


def profile(
    model: nn.Module,
    batches: BatchesByRole,
    *,
    models: Mapping[str, nn.Module] | None = None,
    pairs: Pairs = (),
    losses: Mapping[str, Loss] | None = None,
    formats: Sequence[str] = FORMATS,
    phases: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    engine: str = "exact",
    scale_rule: str = "rceil",
    backend: Backend | str = "auto",
    seed: int = 0,
    output: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Profile:
    """Measure what quantising each layer costs: alone, and left out while all others are quantised.

    Models run in eval mode, through the engine and backend that train them; afterwards they are as they were.

    Args:
        model: the policy. Called with a batch's inputs; returns logits (sequences, length, vocabulary), or an object or
            mapping that has them.
        batches: token ids (int64), mappings of model inputs, or :class:`Batch`; by role where roles differ.
        models: further models by role: ``reward`` (one score a sequence), ``value`` (one a sequence or position),
            ``reference`` (compared like the policy).
        pairs: preferences for the reward model, which then scores these texts instead of its batches.
        losses: by role, what is differentiated in ``gradient``; the policy's default is the mean negative
            log-likelihood in nats. A critic is profiled in ``gradient`` only where its loss is given.
        formats: names (completed by MXFP8 activations, as in a policy) or pairs.
        phases: default: all that have a model. ``rollout``: KL in nats a token. ``reward``: error of scores in standard
            deviations, share of pairs that change order. ``gradient``: relative error and cosine distance.
        exclude: patterns of layers that stay unquantised throughout.
        engine: ``exact`` (and the fast estimate beside it, with the rank correlation of both) or ``fast`` alone.
        scale_rule: of all casts, as in a policy.
        backend: ``auto`` takes ``cpu``, for models elsewhere ``reference``.
        seed: of stochastic rounding and of the estimate's draws.
        output: CSV to write, a JSON file beside it, and until then ``<output>.partial``.
        resume: continue from ``<output>.partial``; a finished profile is read and returned.
        progress: told of each measurement.

    Raises:
        ProfileError: nothing to profile, something that does not fit, or a file of another model.
        PolicyError, AdoptionError, PluginError: an unknown word, a model without layers, a backend that is not there.
    """
    roots = {"policy": model, **(models or {})}
    entries = checked_entries(formats)
    check_words(phases, roots, engine)
    path = checked_path(output)
    data, indices = batches_by_role(batches, roots, pairs)
    provider = Assigned()
    with (
        undisturbed(roots.values()),
        opened(backend, model) as executing,
        Engine(provider, executing, seed=seed, reference="own") as adopting,
    ):
        adopting.adopt(roots)
        check_exclusions(exclude, adopting.layers)
        found = list(
            measures(
                adopting, provider, roots, data, pairs=indices, losses=losses or {}, phases=phases, exclude=exclude
            )
        )
        identity = {
            "models": describe_models(roots, adopting.layers),
            "batches": {role: digest(data[role]) for role in roots},
            "pairs": 0 if indices is None else len(indices),
            "losses": {role: getattr(loss, "__qualname__", str(loss)) for role, loss in (losses or {}).items()},
            "engine": engine,
            "formats": list(entries),
            "activations": ACTIVATIONS,
            "scale_rule": scale_rule,
            "scopes": [measure.subject.scope for measure in found],
            "exclude": list(exclude),
            "backend": executing.name,
            "seed": seed,
            "torch": str(torch.__version__),
        }
        finished = _finished(path, identity) if resume else None
        if finished is not None:
            return finished
        journal = Journal(_partial(path) if engine == "exact" else None, identity, resume=resume)
        with closing(journal):
            exact = [Exact(measure, entries, scale_rule, journal) for measure in found]
            result = assemble(exact, engine, seed, progress or Silent(), identity, adopting, exclude)
            if path is not None:
                result.write(path)
                journal.remove()
                result = replace(result, source=str(path))
    return result


def _partial(path: Path | None) -> Path | None:
    return None if path is None else path.with_name(path.name + ".partial")


def _finished(path: Path | None, identity: Mapping[str, Any]) -> Profile | None:
    """The same profile, when an earlier run has finished it.

    Raises:
        ProfileError: a finished profile of something else, and nothing unfinished to resume.
    """
    partial = _partial(path)
    if path is None or partial is None or not (path.exists() and facts_path(path).exists()):
        return None
    done = Profile.read(path)
    found = differences(done.identity, identity)
    if not found:
        partial.unlink(missing_ok=True)
        log.info("%s is finished: nothing to resume", path)
        return done
    if partial.exists():
        return None  # an older result, about to be replaced by what is resumed
    raise ProfileError(f"{path} is the profile of something else: {found}; choose another output, or do not resume")


@contextmanager
def opened(backend: Backend | str, model: nn.Module) -> Iterator[Backend]:
    """The backend itself, or one of that name, closed at the end."""
    if isinstance(backend, str):
        if backend == "auto":
            device = next((p.device.type for p in model.parameters()), "cpu")
            backend = "cpu" if device == "cpu" else "reference"
        made = get_backend(backend)
        with closing(made):
            yield made
        return
    yield backend


@contextmanager
def undisturbed(models: Iterable[nn.Module]) -> Iterator[None]:
    """Eval mode and a random state of our own, until the end."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    with torch.random.fork_rng():
        try:
            for module, _ in modes:
                module.training = False
            yield
        finally:
            for module, mode in modes:
                module.training = mode
