"""What ``mx-plugin policy search --verify`` measures with: the profile's models and data, and whole policies."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

from mx_plugin.sensitivity import PolicyCosts, policy_costs

from ..errors import StageError
from .arguments import as_profile
from .command import check, load


@contextmanager
def opened(arguments: argparse.Namespace) -> Iterator[PolicyCosts]:
    """Load what ``--model`` and ``--dataset`` name, by the same rules as ``mx-plugin profile``.

    Raises:
        StageError: no model or no data set; what does not fit.
    """
    told = as_profile(arguments)
    for name, example in (("model", "--model folder"), ("dataset", "--dataset prompts.jsonl")):
        if getattr(told, name) is None:
            raise StageError(f"--verify measures on a model and its data: give {example}, as to mx-plugin profile")
    check(told)
    loaded = load(told)
    with policy_costs(
        loaded.policy,
        loaded.batches,
        models=loaded.models,
        pairs=loaded.pairs,
        backend=told.backend,
        seed=told.seed,
    ) as costs:
        yield costs
