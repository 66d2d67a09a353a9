"""Small sensitivity matrices with shapes, made by hypothesis or by hand."""

from __future__ import annotations

from hypothesis import strategies as st

from mx_plugin.precision import MatrixRow, SensitivityMatrix
from mx_plugin.precision.max_cost import Scope

FORMATS = ("MXFP4", "MXFP6", "MXFP8", "MXINT8/MXFP4")
SIZES = ((64, 32), (32, 96), (96, 96))
SCOPES: tuple[Scope, ...] = (("rollout", "policy"), ("reward", "value"), ("reward", "reward"), ("gradient", "policy"))
UNITS = {"rollout": "nats/token", "reward": "sd", "gradient": "relative"}


def row(
    layer: str,
    fmt: str,
    cost: float,
    scope: Scope = ("rollout", "policy"),
    size: tuple[int, int] = (64, 32),
    dtype: str = "bfloat16",
    metric: str = "cost",
) -> MatrixRow:
    """One measurement of a layer of ``size`` (out, in)."""
    return MatrixRow(layer, *scope, fmt, cost, metric, UNITS[scope[0]], size[1], size[0], dtype)


@st.composite
def matrices(draw: st.DrawFn, scopes: tuple[Scope, ...] = SCOPES) -> SensitivityMatrix:
    """Up to four layers in some of the scopes, each with some formats; costs in steps of 1/100, rarely infinite."""
    used = draw(st.lists(st.sampled_from(scopes), min_size=1, max_size=3, unique=True))
    costs = st.one_of(st.integers(0, 30).map(lambda n: n / 100), st.just(float("inf")))
    sizes = [draw(st.sampled_from(SIZES)) for _ in range(4)]
    rows = [
        row(f"h.{index}.mlp", fmt, draw(costs), scope, sizes[index])
        for scope in used
        for index in range(draw(st.integers(1, 4)))
        for fmt in draw(st.lists(st.sampled_from(FORMATS), min_size=1, max_size=3, unique=True))
    ]
    return SensitivityMatrix(tuple(draw(st.permutations(rows))), "made here")
