"""``mx-plugin policy search --verify``: is the predicted cost what the model really does?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from .. import plugins
from ..errors import MXError

if TYPE_CHECKING:
    from ..precision import PrecisionPolicy, SensitivityMatrix
    from ..precision.max_cost import Scope
    from ..precision.search import SearchResult
    from ..sensitivity import PolicyCosts


def add_arguments(group: argparse._ArgumentGroup) -> None:
    """``--verify``, ``--seed``, and the options of what measures."""
    group.add_argument(
        "--verify", type=int, metavar="N",
        help="measure N random policies (20 or more) around the budget and the chosen one, on --model and --dataset",
    )  # fmt: skip
    group.add_argument("--seed", type=int, default=0, help="of random policies, sampling and rounding (default: 0)")
    measure = next(iter(plugins.policy_measures().values()), None)
    if measure is not None and measure.add_arguments is not None:
        measure.add_arguments(group)


def opened(arguments: argparse.Namespace, matrix: SensitivityMatrix) -> AbstractContextManager[PolicyCosts]:
    """The first measure that is installed, with models and data; models in the dtype that was profiled, if not told.

    Raises:
        PolicyError: too few random policies.
        MXError: no measure is installed, or what its ``open`` raises.
    """
    from ..precision.search.additivity import check_count

    check_count(arguments.verify)
    measure = next(iter(plugins.policy_measures().values()), None)
    if measure is None:
        raise MXError(
            "--verify needs a plugin that loads models and data, and none is installed: pip install 'mx-plugin[trl]', "
            "or call mx_plugin.precision.search.verify with a model of your own"
        )
    dtypes = {row.dtype for row in matrix.rows if row.dtype}
    if arguments.dtype is None and len(dtypes) == 1:
        arguments.dtype = dtypes.pop()
    return measure.open(arguments)


def verify(arguments: argparse.Namespace, result: SearchResult, costs: PolicyCosts, say: Callable[[str], None]) -> None:
    """Measure, and say how far predictions are off and what the chosen policy's step-0 mismatch is.

    Raises:
        ProfileError: a phase or role of the search that the loaded models do not have.
        MXError: the matrix's metric is none that can be measured of a whole policy.
    """
    from ..precision.search.additivity import verify as additivity
    from ..sensitivity import TextBar

    bar = TextBar(sys.stderr)
    bar.begin(arguments.verify + 1)
    verdicts = additivity(result, _measure(result, costs), arguments.verify, arguments.seed, bar.step)
    bar.end()
    for verdict in verdicts:
        for line in verdict.lines():
            say(line)
    found = costs.mismatch(result.policy(arguments.name))
    say(
        f"step-0 mismatch, rollout against gradient formats: KL {found['kl']:.3g} nats a token, "
        f"{found['frac_outside_clip']:.1%} of {found['tokens']:g} tokens outside 0.8..1.2"
    )


def _measure(result: SearchResult, costs: PolicyCosts) -> Callable[[PrecisionPolicy], dict[Scope, float]]:
    def measure(policy: PrecisionPolicy) -> dict[Scope, float]:
        found = costs(policy, list(result.scopes))
        return {scope: found[scope][_metric(result, scope, found[scope])] for scope in found}

    return measure


def _metric(result: SearchResult, scope: Scope, measured: dict[str, float]) -> str:
    """``kl`` for a search by ``kl`` or ``kl_estimate``: the rest says how single layers were measured."""
    searched = result.scopes[scope].metric
    fitting = [name for name in measured if searched == name or searched.startswith(f"{name}_")]
    if not fitting:
        raise MXError(
            f"{'/'.join(scope)} was searched by {searched!r}, which cannot be measured of a whole policy, only "
            f"{', '.join(measured)}; search by one of these (--metric)"
        )
    return max(fitting, key=len)
