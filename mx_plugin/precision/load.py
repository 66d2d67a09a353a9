"""From a name or a path to a policy."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path

from ..errors import PolicyError, nearest
from .matrix import SensitivityMatrix, as_matrix
from .max_cost import MaxCost
from .policy import PrecisionPolicy
from .policy_file import policy_from_text


@cache
def builtin_policy(name: str) -> PrecisionPolicy:
    """The built-in policy of exactly that name."""
    file = resources.files(__package__).joinpath("builtin", f"{name}.yaml")
    return replace(policy_from_text(file.read_text("utf-8"), f"{name}.yaml"), source=f"built-in policy {name}")


def builtin_names() -> tuple[str, ...]:
    """Names of the built-in policies, sorted."""
    files = resources.files(__package__).joinpath("builtin").iterdir()
    return tuple(sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml")))


def load_policy(
    name_or_path: str | Path | PrecisionPolicy,
    *,
    sensitivity_matrix: SensitivityMatrix | str | Path | None = None,
    max_cost: MaxCost | None = None,
    activations: str | None = None,
    scale_rule: str | None = None,
) -> PrecisionPolicy:
    """Load a policy by built-in name (any case) or from a YAML file; a policy is taken as it is.

    ``sensitivity_matrix`` (a matrix or the path of its CSV) and ``max_cost`` are for policies that
    need a matrix, such as D; ``activations`` and ``scale_rule`` replace the policy's own.

    Raises:
        PolicyError: no such policy (names the nearest); a file that cannot be read; a matrix or
            ``max_cost`` that is missing, or given to a policy that takes none.
        MatrixError: the matrix cannot be read.
    """
    policy = name_or_path if isinstance(name_or_path, PrecisionPolicy) else find_policy(name_or_path)
    if activations is not None:
        policy = replace(policy, activations=activations)
    if scale_rule is not None:
        policy = replace(policy, scale_rule=scale_rule)
    if not policy.needs_matrix:
        if sensitivity_matrix is not None or max_cost is not None:
            given = "sensitivity_matrix" if sensitivity_matrix is not None else "max_cost"
            raise PolicyError(f"policy {policy.name} takes no {given}; leave it out, or use policy D")
        return policy
    if sensitivity_matrix is None:
        raise PolicyError(
            f"policy {policy.name} chooses formats from a sensitivity matrix and none was given; give "
            "sensitivity_matrix, a CSV with columns layer,phase,role,format,cost,metric,unit"
        )
    if max_cost is None:
        raise PolicyError(
            f"policy {policy.name} needs max_cost: it takes the narrowest format whose cost in the "
            "sensitivity matrix is at most that, in the matrix's own unit"
        )
    return PrecisionPolicy.from_matrix(as_matrix(sensitivity_matrix), max_cost, base=policy)


def find_policy(name_or_path: str | Path) -> PrecisionPolicy:
    """A policy as it is written: one that needs a matrix has no rules yet.

    Raises:
        PolicyError: no such policy, or a file that cannot be read.
    """
    if isinstance(name_or_path, str):
        by_name = {name.casefold(): name for name in builtin_names()}
        name = by_name.get(name_or_path.strip().casefold())
        if name is not None:
            return builtin_policy(name)
    path = Path(name_or_path)
    if isinstance(name_or_path, Path) or path.is_file() or path.suffix in (".yaml", ".yml") or _has_folder(path):
        return PrecisionPolicy.from_yaml(path)
    raise PolicyError(
        f"unknown policy {name_or_path!r}: {nearest(name_or_path, builtin_names())}; or give the path of a YAML file"
    )


def _has_folder(path: Path) -> bool:
    return os.fspath(path) != path.name
