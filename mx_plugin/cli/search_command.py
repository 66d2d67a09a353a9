"""``mx-plugin policy search``: the cheapest policy within a budget, as YAML."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any

from ..errors import MXError, PolicyError

if TYPE_CHECKING:
    from ..interfaces import Backend
    from ..precision import SensitivityMatrix
    from ..precision.search import Objective, SearchResult, Shapes

HELP = "find the cheapest policy within a budget"
OBJECTIVES = ("bytes", "energy", "seconds")
_RECIPE = ("batch_size", "prompt_tokens", "response_tokens", "micro_batch_size", "epochs")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Every option of the search."""
    parser.add_argument("--matrix", required=True, metavar="CSV", help="sensitivity matrix, from mx-plugin profile")
    parser.add_argument(
        *("--budget", "-b"), nargs="+", action="extend", default=[], metavar="PHASE[.ROLE]=COST",
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
    _add_layers(parser.add_argument_group("layers"))
    _add_prices(parser.add_argument_group("energy and seconds: one training step, and where prices come from"))


def _add_choices(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--formats", metavar="LIST", help="names or pairs, e.g. MXFP4,MXFP8/MXFP8 (default: the matrix's)"
    )
    group.add_argument("--all-quantised", action="store_true", help="leave no layer of the matrix in FP16")
    group.add_argument("--activations", default="MXFP8", help="completes a single name (default: MXFP8)")
    group.add_argument("--scale-rule", default="rceil", help="of all casts (default: rceil)")
    group.add_argument(
        "--backend", default="cpu", help="the backend that will run it: its formats, and what it multiplies"
    )


def _add_layers(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--model", nargs="+", action="extend", default=[], metavar="[ROLE=]FOLDER",
        help="safetensors folder: gives layer sizes, and the matrix is checked against it (default: its own columns)",
    )  # fmt: skip
    group.add_argument(
        "--dtype", help="the model's own dtype when it runs, e.g. bfloat16 (default: as profiled or stored)"
    )


def _add_prices(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--target", default="as-executed", help="energy: as-executed (default) or projected:DEVICE")
    group.add_argument("--energy-table", metavar="YAML", help="energy: replaces the built-in table")
    group.add_argument("--memory", metavar="LEVEL", help="energy: memory that bytes are charged to, e.g. hbm2")
    group.add_argument(
        "--seconds", metavar="FILE", help="seconds: from mx-plugin bench linear --json, or a CSV of your own"
    )
    for name, default in _recipe_defaults().items():
        group.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=f"default: {default}")


def _recipe_defaults() -> dict[str, int]:
    from ..precision.search.recipe import Recipe

    recipe = Recipe()
    return {name: getattr(recipe, name) for name in _RECIPE}


def run(arguments: argparse.Namespace) -> int:
    """Search, say what was found, and write or print the policy.

    Raises:
        MatrixError: the matrix cannot be read, or is for another model.
        PolicyError: a budget or format that does not fit, or that nothing keeps.
        PluginError: no such backend, energy table or target.
        MXError: an objective that cannot price a format; a file that cannot be written; no scipy.
    """
    from ..plugins import get_backend
    from ..precision import SensitivityMatrix
    from ..precision.search import Allowed, parse_budgets, search

    matrix = SensitivityMatrix.read(arguments.matrix, _metrics(arguments.metric))
    budgets = parse_budgets(arguments.budget)
    with closing(get_backend(arguments.backend)) as backend:
        allowed = Allowed(
            arguments.formats.split(",") if arguments.formats else None,
            backend.capabilities,
            arguments.activations,
            fp16=not arguments.all_quantised,
        )
        objective = _objective(arguments, backend)
        shapes = _shapes(arguments, matrix)
        result = search(matrix, budgets, objective, shapes, allowed, scale_rule=arguments.scale_rule)
    _write(arguments, result)
    return 0


def _metrics(texts: list[str]) -> str | dict[str, str] | None:
    """One metric for all, or by ``phase`` or ``phase/role``."""
    if len(texts) == 1 and "=" not in texts[0]:
        return texts[0]
    chosen: dict[str, str] = {}
    for text in texts:
        scope, equals, metric = text.partition("=")
        if not (scope and equals and metric):
            raise PolicyError(f"--metric {text!r}: several are given, so write PHASE=METRIC, e.g. rollout=kl")
        chosen[scope.replace(".", "/")] = metric
    return chosen or None


def _objective(arguments: argparse.Namespace, backend: Backend) -> Objective:
    from ..ledger.modelled import ModelledMeter
    from ..precision.search import Bytes, EnergyObjective, Recipe, SecondsObjective, SecondsTable

    recipe = Recipe(**{name: getattr(arguments, name) for name in _RECIPE})
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


def _shapes(arguments: argparse.Namespace, matrix: SensitivityMatrix) -> Shapes:
    from ..precision import ROLES
    from ..precision.search import folder_shapes, shapes_of

    folders: dict[str, str] = {}
    for text in arguments.model:
        role, equals, folder = text.partition("=")
        for each in (role,) if equals and role in ROLES else ROLES:
            folders[each] = folder if equals and role in ROLES else text
    read: dict[str, Any] = {folder: folder_shapes(folder) for folder in dict.fromkeys(folders.values())}
    return shapes_of(matrix, {role: read[folder] for role, folder in folders.items()}, arguments.dtype)


def _write(arguments: argparse.Namespace, result: SearchResult) -> None:
    from ..precision.search.pareto import front_of, write_fronts

    policy = result.policy(arguments.name)
    # The policy alone on stdout, where nothing else is to be printed to.
    say: Callable[[str], None] = print if arguments.output else _to_stderr
    for line in result.lines():
        say(line)
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
    print(line, file=sys.stderr)
