"""The objective ``energy``: the work that it prices is the work that an engine books when it runs the recipe."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from mx_plugin import get_backend
from mx_plugin.errors import MXError
from mx_plugin.execution.engine import Engine
from mx_plugin.interfaces import Backend, Work
from mx_plugin.ledger.energy_table import BUILT_IN
from mx_plugin.ledger.modelled import ModelledMeter
from mx_plugin.precision import PhaseEntries, PolicyProvider, PrecisionPolicy
from mx_plugin.precision.search import EnergyObjective, Place, Recipe, Shape
from mx_plugin.precision.search.problem import entry_of

RECIPE = Recipe(batch_size=5, prompt_tokens=3, response_tokens=4, micro_batch_size=2, epochs=2)


@pytest.fixture(params=["cpu", "reference"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    made = get_backend(request.param)
    yield made
    made.close()


def summed(works: Iterable[Work]) -> dict[tuple[str, str], tuple[int, ...]]:
    """(macs, bytes of weights, bytes of activations, casts) by format and dtype."""
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for work in works:
        total = sums[work.format, work.dtype]
        for i, number in enumerate((work.macs, work.weight_bytes, work.activation_bytes, work.cast_elements)):
            total[i] += number
    return {key: tuple(total) for key, total in sums.items()}


def executed(place: Place, format: str, backend: Backend) -> dict[tuple[str, str], tuple[int, ...]]:
    """What an engine books for the recipe's calls of one layer."""
    (shape,) = place.shapes
    dtype = getattr(torch, shape.dtype)
    layer = nn.Linear(shape.in_features, shape.out_features, bias=False, dtype=dtype)
    entries = PhaseEntries(**{place.phase: entry_of(format, place.forward_only)})
    policy = PrecisionPolicy("test", defaults=entries)
    works: list[Work] = []
    with Engine(PolicyProvider(policy), backend, reference="own") as engine:
        engine.adopt({place.role: nn.ModuleDict({"h": layer})})
        with engine.phase(place.phase), torch.set_grad_enabled(place.phase == "gradient"):
            for rows, calls in RECIPE.calls(place.phase):
                for _ in range(calls):
                    y = layer(torch.randn(rows, shape.in_features, dtype=dtype, requires_grad=True))
                    if place.phase == "gradient":
                        y.sum().backward()
            works += engine.collect()
    return summed(works)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("phase", "role", "format", "forward_only"),
    [
        ("rollout", "policy", "MXFP4/MXFP8", False),
        ("rollout", "policy", "MXFP8/FP16", False),
        ("rollout", "policy", "FP16", False),
        ("reward", "value", "MXFP8/MXFP8", False),
        ("reward", "reference", "MXFP6/MXFP8", False),
        ("gradient", "policy", "MXFP8/MXFP8", False),
        ("gradient", "value", "MXFP4/MXFP8", False),
        ("gradient", "policy", "MXFP4/MXFP8", True),
        ("gradient", "policy", "FP16", False),
    ],
)
def test_the_work_is_what_an_engine_books(
    backend: Backend, phase: str, role: str, format: str, forward_only: bool, dtype: str
) -> None:
    place = Place("h", phase, role, (Shape(48, 70, dtype),), forward_only)
    objective = EnergyObjective(ModelledMeter(), RECIPE, backend)
    priced = summed(objective.works(place, format))
    booked = executed(place, format, backend)
    if role == "reference":
        # Packed once in a run, not at every step; the first step is what ran here.
        (macs, weights, activations, casts) = booked.pop(next(iter(booked)))
        source = 48 * 70 * (4 if dtype == "float32" else 2)
        assert list(priced.values()) == [(macs, weights - source, activations, casts - 48 * 70)]
    else:
        assert priced == booked


def test_the_price_is_the_meters_estimate_of_that_work(backend: Backend) -> None:
    meter = ModelledMeter(target="projected:mx-asic-45nm")
    objective = EnergyObjective(meter, RECIPE, backend)
    place = Place("h", "rollout", "policy", (Shape(48, 64, "bfloat16"),) * 2)
    one = sum(meter.estimate(work).joules or 0.0 for work in objective.works(place, "MXFP4/MXFP8"))
    assert objective.price(place, "MXFP4/MXFP8") == pytest.approx(one, rel=1e-12)
    low, mid, high = objective.bounds(place, "MXFP4/MXFP8")
    assert low < mid < high
    assert mid == pytest.approx(one, rel=1e-12)
    half = Place("h", "rollout", "policy", (Shape(48, 64, "bfloat16"),))
    assert objective.price(half, "MXFP4/MXFP8") == pytest.approx(one / 2, rel=1e-12)
    assert "modelled:projected:mx-asic-45nm" in objective.notes()[0]


def test_an_energy_that_the_table_lacks_is_named(tmp_path: Path, backend: Backend) -> None:
    table = tmp_path / "table.yaml"
    text = BUILT_IN.read_text(encoding="utf-8")
    start, end = text.index("      bfloat16:"), text.index("      float8_e4m3fn:")
    table.write_text(text[:start] + text[end:], encoding="utf-8")
    objective = EnergyObjective(ModelledMeter(table=table), RECIPE, backend)
    place = Place("h.0", "rollout", "policy", (Shape(48, 64, "bfloat16"),))
    with pytest.raises(MXError, match=r"no energy for FP16 in rollout, layer 'h.0': table.yaml has no .*bfloat16; add"):
        objective.price(place, "FP16")


def test_the_recipe_counts_every_token_once_a_pass() -> None:
    assert RECIPE.calls("rollout") == ((15, 1), (5, 3))
    assert RECIPE.calls("rollout", "lm_head") == ((5, 4),)
    assert RECIPE.calls("reward") == ((14, 2), (7, 1))
    assert RECIPE.calls("gradient") == ((14, 4), (7, 2))
    assert [RECIPE.tokens(phase) for phase in ("rollout", "reward", "gradient")] == [15 + 15, 35, 70]
    with pytest.raises(MXError, match="epochs is 0; a recipe takes whole numbers"):
        Recipe(epochs=0)
