"""``mx-plugin policy search``: the cheapest policy within a budget, as YAML."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from ..errors import MXError, PolicyError
from . import verification

if TYPE_CHECKING:
    from ..interfaces import Backend
    from ..precision import SensitivityMatrix
    from ..precision.search import Objective, SearchResult, Shapes
    from ..sensitivity import PolicyCosts

HELP = "find the cheapest policy within a budget"
OBJECTIVES = ("bytes", "energy", "seconds")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Every option of the search, and those of what measures policies."""
    parser.add_argument("--matrix", required=True, metavar="CSV", help="sensitivity matrix, from mx-plugin profile")
    parser.add_argument(
        "--budget", nargs="+", action="extend", default=[], metavar="PHASE[.ROLE]=COST",
        help="largest predicted cost, in the matrix's unit, e.g. rollout=0.02 reward.value=0.1; phases without one "
        "stay unquantised",
    )  # fmt: skip
    parser.add_argument("--objective", choices=OBJECTIVES, default="bytes", help="what is made small (default: bytes)")
    parser.add_argument("--output", metavar="YAML", help="write the policy here (default: print it)")
    parser.add_argument("--name", default="searched", help="the policy's name (default: searched)")
    parser.add_argument("--pareto", metavar="CSV", help="write the whole Pareto front of each phase and role here")
    parser.add_argument(
        "--metric", nargs="+", action="extend", default=[], metavar="[PHASE[.ROLE]=]METRIC",
        help="which of the matrix's metrics is read (default: the cost of quantising a layer alone)",
    )  # fmt: skip
    _add_choices(parser.add_argument_group("what may be chosen"))
    _add_prices(parser.add_argument_group("what it is priced by"))
    verification.add_arguments(parser.add_argument_group("is the prediction true?"))


def _add_choices(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--formats", nargs="+", action="extend", metavar="F", help="names or pairs (default: all that the matrix holds)"
    )
    group.add_argument("--all_quantised", action="store_true", help="leave no layer of the matrix in FP16")
    group.add_argument("--activations", default="MXFP8", help="completes a single name (default: MXFP8)")
    group.add_argument("--scale_rule", default="rceil", help="of all casts (default: rceil)")
    group.add_argument(
        "--backend", default="cpu", help="will run it: its formats, and what it multiplies (default: cpu)"
    )


def _add_prices(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--model", nargs="+", action="extend", default=[], metavar="[ROLE=]FOLDER",
        help="safetensors folder: gives layer sizes, and the matrix is checked against it (default: its own columns)",
    )  # fmt: skip
    group.add_argument("--dtype", help="the model's own dtype when it runs, e.g. bfloat16 (default: as profiled)")
    group.add_argument("--target", default="as-executed", help="energy: as-executed (default) or projected:DEVICE")
    group.add_argument("--energy_table", metavar="YAML", help="energy: replaces the built-in table")
    group.add_argument("--memory", metavar="LEVEL", help="energy: memory that bytes are charged to, e.g. hbm2")
    group.add_argument("--seconds", metavar="FILE", help="seconds: from mx-plugin bench linear --json, or your own CSV")
    group.add_argument(
        "--recipe", nargs="+", action="extend", default=[], metavar="NAME=N",
        help="energy and seconds: what a step does; batch_size=64 prompt_tokens=128 response_tokens=128 "
        "micro_batch_size=8 epochs=4",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Search, say what was found, write or print the policy, and verify it.

    Raises:
        MatrixError: the matrix cannot be read, or is for another model.
        PolicyError: a budget or format that does not fit, or that nothing keeps.
        PluginError: no such backend, energy table or target.
        MXError: an objective that cannot price a format; a file that cannot be written; no scipy; nothing installed
            to verify with.
    """
    from ..plugins import get_backend
    from ..precision import SensitivityMatrix
    from ..precision.search import Allowed, parse_budgets, search

    matrix = SensitivityMatrix.read(arguments.matrix, chosen_metrics(arguments.metric))
    _refuse_what_does_not_add_up(matrix)
    budgets = parse_budgets(arguments.budget)
    with ExitStack() as stack:
        backend = stack.enter_context(closing(get_backend(arguments.backend)))
        allowed = Allowed(
            arguments.formats, backend.capabilities, arguments.activations, fp16=not arguments.all_quantised
        )
        objective = _objective(arguments, backend)
        costs = None if arguments.verify is None else stack.enter_context(verification.opened(arguments, matrix))
        shapes = _shapes(arguments, matrix, costs)
        result = search(matrix, budgets, objective, shapes, allowed, scale_rule=arguments.scale_rule)
        say: Callable[[str], None] = print if arguments.output else _to_stderr
        _write(arguments, result, say)
        if costs is not None:
            verification.verify(arguments, result, costs, say)
    return 0


def chosen_metrics(texts: list[str]) -> str | dict[str, str] | None:
    """One metric for all, or by ``phase`` or ``phase/role``.

    Raises:
        PolicyError: a text that is not PHASE=METRIC.
    """
    if len(texts) == 1 and "=" not in texts[0]:
        return texts[0]
    chosen: dict[str, str] = {}
    for text in texts:
        scope, equals, metric = text.partition("=")
        if not (scope and equals and metric):
            raise PolicyError(f"--metric {text!r}: several are given, so write PHASE=METRIC, e.g. rollout=kl")
        chosen[scope.replace(".", "/")] = metric
    return chosen or None


def _refuse_what_does_not_add_up(matrix: SensitivityMatrix) -> None:
    """Raises PolicyError for costs of all layers but one: they fall where a layer is sensitive."""
    for row in matrix.rows:
        if row.metric.endswith("_all_but"):
            raise PolicyError(
                f"{row.metric} is what is left when one layer is spared, so that no sum of it is a policy's cost; "
                f"search by {row.metric.removesuffix('_all_but')}, and draw {row.metric} with mx-plugin policy heatmap"
            )


def _objective(arguments: argparse.Namespace, backend: Backend) -> Objective:
    from ..ledger.modelled import ModelledMeter
    from ..precision.search import Bytes, EnergyObjective, Recipe, SecondsObjective, SecondsTable

    recipe = Recipe.parse(arguments.recipe)
    if arguments.objective == "bytes":
        return Bytes()
    if arguments.objective == "energy":
        meter = ModelledMeter(arguments.energy_table, arguments.target, arguments.memory)
        return EnergyObjective(meter, recipe, backend, arguments.scale_rule)
    if arguments.seconds is None:
        raise MXError(
            "--objective seconds needs measured times, and none are invented: give --seconds bench.json, made by "
            "mx-plugin bench linear --json > bench.json (the search names the sizes and rows that it lacks)"
        )
    return SecondsObjective(SecondsTable.read(arguments.seconds), recipe)


def _shapes(arguments: argparse.Namespace, matrix: SensitivityMatrix, costs: PolicyCosts | None) -> Shapes:
    """From the model that is loaded to verify, else from folders, else from the matrix's columns."""
    from ..precision import ROLES
    from ..precision.search import Shape, folder_shapes, layer_shapes, shapes_of

    models: dict[str, Mapping[str, Shape]] = {}
    if costs is not None:
        for role in dict.fromkeys(layer.role for layer in costs.layers):
            layers = [layer for layer in costs.layers if layer.role == role]
            models[role] = layer_shapes(layers, costs.dtype(role))
        return shapes_of(matrix, models, arguments.dtype)
    for text in arguments.model:
        role, equals, folder = text.partition("=")
        if equals and role in ROLES:
            models[role] = folder_shapes(folder)
        else:
            models |= dict.fromkeys(ROLES, folder_shapes(text))
    return shapes_of(matrix, models, arguments.dtype)


# ---------------------------------------------------------------------------- results


def _write(arguments: argparse.Namespace, result: SearchResult, say: Callable[[str], None]) -> None:
    from ..precision.search.pareto import front_of, write_fronts

    policy = result.policy(arguments.name)
    for line in result.lines():
        say(line)
    for scope, found in result.scopes.items():
        if found.metric.startswith("gradient_error"):
            say(
                f"note: {'/'.join(scope)} was searched by {found.metric}; relative errors add in quadrature, to far "
                "less than the predicted sum: --metric gradient=gradient_cosine adds up"
            )
    if arguments.pareto:
        fronts = [front_of(scope) for scope in result.scopes.values()]
        write_fronts(arguments.pareto, result, fronts)
        for front in fronts:
            where = "/".join(front.result.scope)
            say(f"{where}: {len(front.points)} points on the front ({front.method}) in {arguments.pareto}")
    if not arguments.output:
        print(policy.to_yaml(), end="")
        return
    try:
        policy.to_yaml(arguments.output)
    except OSError as error:
        raise MXError(f"cannot write the policy to {arguments.output}: {error.strerror or error}") from error
    say(f"policy {policy.name} in {arguments.output}")


def _to_stderr(line: str) -> None:
    """The policy alone goes to stdout where no file was named."""
    print(line, file=sys.stderr)
