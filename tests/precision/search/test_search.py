"""The search on matrices: against every policy tried one by one, for every objective; ties, refusals, YAML."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mx_plugin import get_backend
from mx_plugin.errors import MatrixError, MXError, PolicyError
from mx_plugin.interfaces import Backend, Capabilities, LayerInfo
from mx_plugin.ledger.modelled import ModelledMeter
from mx_plugin.precision import PolicyProvider, PrecisionPolicy, SensitivityMatrix
from mx_plugin.precision.search import (
    Allowed,
    Bytes,
    EnergyObjective,
    Objective,
    Recipe,
    SearchResult,
    SecondsObjective,
    SecondsTable,
    packed_bytes,
    search,
    shapes_of,
)
from mx_plugin.precision.search import exact as exact_module
from mx_plugin.precision.search.pareto import front_of
from tests.precision.search import brute
from tests.precision.search.matrices import SIZES, matrices, row

RECIPE = Recipe(batch_size=2, prompt_tokens=3, response_tokens=4, micro_batch_size=2, epochs=1)


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    made = get_backend("cpu")
    yield made
    made.close()


def seconds_table() -> SecondsTable:
    """Made-up times of every call that RECIPE makes, so that no two formats are alike."""
    draw = random.Random(7)
    pairs = ["FP16[bfloat16]", "MXFP4/MXFP8", "MXFP6/MXFP8", "MXFP8/MXFP8", "MXINT8/MXFP4"]
    return SecondsTable(
        {(*size, rows, pair): draw.uniform(1e-5, 1e-3) for size in SIZES for rows in (2, 6, 14) for pair in pairs},
        "made here",
    )


def objectives(backend: Backend) -> dict[str, Objective]:
    return {
        "bytes": Bytes(),
        "energy": EnergyObjective(ModelledMeter(target="projected:mx-asic-45nm"), RECIPE, backend),
        "seconds": SecondsObjective(seconds_table(), RECIPE),
    }


def solve(matrix: SensitivityMatrix, budgets: Mapping[str, float], objective: Objective | None = None) -> SearchResult:
    return search(matrix, budgets, objective or Bytes(), shapes_of(matrix))


def formats(result: SearchResult) -> dict[tuple[str, str, str], str]:
    return {
        (group.layer, group.phase, group.role): option.format
        for scope in result.scopes.values()
        for group, option in zip(scope.groups, scope.chosen.options, strict=True)
    }


# ---------------------------------------------------------------------------- against every policy


@pytest.mark.parametrize("name", ["bytes", "energy", "seconds"])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_the_search_finds_what_trying_every_policy_finds(name: str, backend: Backend, data: st.DataObject) -> None:
    matrix = data.draw(matrices())
    if name == "seconds":
        rows = tuple(r for r in matrix.rows if r.phase != "gradient")
        if not rows:
            return
        matrix = SensitivityMatrix(rows, "made here")
    budgets = {
        "/".join(scope): data.draw(st.integers(0, 60), label=str(scope)) / 100
        for scope in matrix.measures()
        if data.draw(st.integers(0, 4))
    }
    if not budgets:
        return
    result = solve(matrix, budgets, objectives(backend)[name])
    assert {"/".join(scope) for scope in result.scopes} == set(budgets)
    for scope, found in result.scopes.items():
        price, cost = brute.best(found.groups, budgets["/".join(scope)])
        assert found.chosen.price == pytest.approx(float(price), rel=1e-12)
        assert found.chosen.cost <= budgets["/".join(scope)]
        if name == "bytes":  # where ties are exact, the least cost of them
            assert found.chosen.cost == float(cost)


@settings(max_examples=40, deadline=None)
@given(matrices())
def test_the_front_of_each_phase_and_role_is_that_of_every_policy(matrix: SensitivityMatrix) -> None:
    result = solve(matrix, {"/".join(scope): 0.2 for scope in matrix.measures()})
    for found in result.scopes.values():
        front = front_of(found)
        assert front.method == "exact"
        expected = [(float(cost), float(price)) for cost, price in brute.front(found.groups)]
        assert [(point.cost, point.price) for point in front.points] == expected
        # The choice is the last point within the budget.
        within = [point for point in front.points if point.cost <= 0.2]
        assert (found.chosen.cost, found.chosen.price) == (within[-1].cost, within[-1].price)


@settings(max_examples=25, deadline=None)
@given(matrices())
def test_without_the_exact_front_highs_alone_and_a_grid_keep_every_promise(matrix: SensitivityMatrix) -> None:
    budgets = {"/".join(scope): 0.2 for scope in matrix.measures()}
    result = search(matrix, budgets, Bytes(), shapes_of(matrix), most_points=0)
    for found in result.scopes.values():
        assert "HiGHS, to 1e-06" in found.method
        price, _ = brute.best(found.groups, 0.2)
        assert found.chosen.price == float(price)
        front = front_of(found, most_points=0)
        assert front.method == "grid of 40 budgets, HiGHS"
        whole = {(float(cost), float(price)) for cost, price in brute.front(found.groups)}
        assert min(p.price for p in front.points) == min(price for _, price in whole)
        assert all(any(c <= p.cost and w <= p.price for c, w in whole) for p in front.points)
        assert len(front.points) <= len(whole)


@settings(max_examples=25, deadline=None)
@given(matrices(), st.randoms(use_true_random=False))
def test_ties_fall_the_same_way_whatever_the_order_of_the_rows(
    matrix: SensitivityMatrix, shuffle: random.Random
) -> None:
    budgets = {"/".join(scope): 0.25 for scope in matrix.measures()}
    rows = list(matrix.rows)
    shuffle.shuffle(rows)
    again = SensitivityMatrix(tuple(rows), matrix.source)
    assert solve(matrix, budgets).policy() == solve(again, budgets).policy()


def test_of_equal_layers_the_first_by_name_takes_the_dearer_format_every_time() -> None:
    rows = [row(f"h.{i}", "MXFP4", 0.2) for i in (2, 0, 1)]
    found = formats(solve(SensitivityMatrix(tuple(rows)), {"rollout": 0.25}))
    assert [found[f"h.{i}", "rollout", "policy"] for i in range(3)] == ["MXFP4/MXFP8", "FP16", "FP16"]


# ---------------------------------------------------------------------------- the policy


@settings(max_examples=25, deadline=None)
@given(matrix=matrices(), budget=st.integers(0, 60).map(lambda n: n / 100))
def test_the_yaml_runs_exactly_the_chosen_formats(
    tmp_path_factory: pytest.TempPathFactory, matrix: SensitivityMatrix, budget: float
) -> None:
    result = solve(matrix, {"/".join(scope): budget for scope in matrix.measures()})
    path = tmp_path_factory.mktemp("search") / "policy.yaml"
    result.policy("found").to_yaml(path)
    policy = PrecisionPolicy.from_yaml(path)
    assert policy == result.policy("found")
    layers = [LayerInfo(layer, role, 32, 64) for layer, role in {(r.layer, r.role): None for r in matrix.rows}]
    provider = PolicyProvider(policy)
    provider.start(layers)
    for (layer, phase, role), fmt in formats(result).items():
        executed = provider.resolved(layers)[role][phase][layer]
        if phase == "gradient" and fmt != "FP16":
            weights, activations = fmt.split("/")
            stochastic = "+sr" if "MXFP4" in fmt else ""
            wgrad = f"{activations}/{activations}" + ("+sr" if activations == "MXFP4" else "")
            assert executed == f"forward {fmt}, dgrad {weights}/{activations}{stochastic}, wgrad {wgrad}"
        else:
            assert executed == fmt
    chosen = formats(result)
    for layer in layers:
        for phase in ("rollout", "reward", "gradient"):
            if (layer.name, phase, layer.role) not in chosen:
                assert provider.resolved(layers)[layer.role][phase][layer.name] == "FP16"


def test_a_choice_of_a_part_overrules_nothing_and_prefixes_come_first() -> None:
    matrix = SensitivityMatrix(
        (
            row("model", "MXFP8", 0.0, ("reward", "value")),
            row("model.h.1", "MXFP4", 0.0),
            row("model.h.0", "MXFP8", 0.0),
        )
    )
    policy = solve(matrix, {"rollout": 0.0, "reward": 0.0}).policy()
    assert policy.resolve("model.h.1.mlp", "rollout") == "MXFP4/MXFP8"
    assert policy.resolve("model.h.0.mlp", "rollout") == "MXFP8/MXFP8"
    assert policy.resolve("model.h.0.mlp", "reward", "value") == "MXFP8/MXFP8"


def test_costs_of_the_forward_product_alone_quantise_the_forward_product_alone(backend: Backend) -> None:
    matrix = SensitivityMatrix((row("h.0", "MXFP4", 0.1, ("gradient", "policy"), metric="gradient_error_forward"),))
    cheap_macs = EnergyObjective(ModelledMeter(target="projected:mx-asic-45nm"), Recipe(), backend)
    policy = solve(matrix, {"gradient": 0.5}, cheap_macs).policy()
    resolved = policy.resolve("h.0", "gradient")
    assert (str(resolved.forward), str(resolved.dgrad), str(resolved.wgrad)) == ("MXFP4/MXFP8", "FP16", "FP16")


# ---------------------------------------------------------------------------- what may be chosen


THREE = SensitivityMatrix(
    (row("h.0", "MXFP4", 0.3), row("h.0", "MXFP6", 0.2), row("h.0", "MXFP8", 0.1), row("h.1", "MXFP4", 0.3)),
    "made here",
)


def test_formats_that_were_not_asked_for_are_left_out_and_listed() -> None:
    result = search(THREE, {"rollout": 1.0}, Bytes(), shapes_of(THREE), Allowed(["mxfp8_e4m3", "MXFP6/MXFP8"]))
    assert formats(result) == {("h.0", "rollout", "policy"): "MXFP6/MXFP8", ("h.1", "rollout", "policy"): "FP16"}
    assert result.left_out == {"MXFP4/MXFP8": "not in --formats"}
    assert "left out, not in --formats: MXFP4/MXFP8" in result.lines()


def test_formats_that_the_backend_lacks_are_left_out_and_listed() -> None:
    able = Capabilities(formats=("MXFP8", "MXFP4"), activations=("MXFP8",))
    matrix = SensitivityMatrix((*THREE.rows, row("h.0", "MXFP4/MXFP4", 0.1)))
    result = search(matrix, {"rollout": 1.0}, Bytes(), shapes_of(matrix), Allowed(capabilities=able))
    assert set(result.left_out) == {"MXFP6/MXFP8", "MXFP4/MXFP4"}
    assert formats(result)["h.0", "rollout", "policy"] == "MXFP4/MXFP8"
    # A backend that casts no gradient operands leaves them to the reference, which has every format.
    board = Capabilities(formats=("MXFP8",), activations=("MXFP8",), fake_quantize=False)
    matrix = SensitivityMatrix((row("h.0", "MXFP4", 0.1, ("gradient", "policy")),))
    result = search(matrix, {"gradient": 1.0}, Bytes(), shapes_of(matrix), Allowed(capabilities=board))
    assert not result.left_out


def test_an_unknown_format_in_the_list_names_the_nearest() -> None:
    with pytest.raises(PolicyError, match=r"names MXFP4/MXFP4, of which made here knows no cost: did you mean 'MXFP4/"):
        search(THREE, {"rollout": 1.0}, Bytes(), shapes_of(THREE), Allowed(["MXFP4/MXFP4"]))


def test_a_budget_that_nothing_keeps_says_the_smallest_that_is_feasible_for_each() -> None:
    matrix = SensitivityMatrix((*THREE.rows, row("h.0", "MXFP8", 0.07, ("reward", "value"))), "made here")
    with pytest.raises(PolicyError) as caught:
        search(matrix, {"rollout": 0.39, "reward": 0.06}, Bytes(), shapes_of(matrix), Allowed(fp16=False))
    assert "rollout/policy: 0.39 given, the smallest feasible is 0.4 nats/token" in str(caught.value)
    assert "reward/value: 0.06 given, the smallest feasible is 0.07 sd" in str(caught.value)
    result = search(matrix, {"rollout": 0.4, "reward": 0.07}, Bytes(), shapes_of(matrix), Allowed(fp16=False))
    assert formats(result) == {
        ("h.0", "rollout", "policy"): "MXFP8/MXFP8",
        ("h.1", "rollout", "policy"): "MXFP4/MXFP8",
        ("h.0", "reward", "value"): "MXFP8/MXFP8",
    }


def test_a_layer_that_every_format_breaks_is_named() -> None:
    matrix = SensitivityMatrix((row("h.0", "MXFP4", float("inf")),))
    with pytest.raises(PolicyError, match=r"no budget is large enough, every format breaks h\.0"):
        search(matrix, {"rollout": float("inf")}, Bytes(), shapes_of(matrix), Allowed(fp16=False))
    result = solve(matrix, {"rollout": float("inf")})
    assert formats(result) == {("h.0", "rollout", "policy"): "FP16"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("h.0", "MXFP4", 0.1), row("h.0", "MXFP4/MXFP8", 0.2)], "two rows mean MXFP4/MXFP8"),
        ([row("h.0", "FP16", 0.1)], "FP16 has the cost 0.1"),
        ([row("h.0", "MXFP4", 0.1), row("h.0.mlp", "MXFP4", 0.2)], r"holds layers that contain others: h\.0; "),
    ],
)
def test_matrices_that_cannot_be_searched_are_refused(rows: list[object], message: str) -> None:
    matrix = SensitivityMatrix(tuple(rows))  # type: ignore[arg-type]
    with pytest.raises(MatrixError, match=message):
        solve(matrix, {"rollout": 1.0})


def test_lm_head_outside_rollout_is_refused() -> None:
    matrix = SensitivityMatrix((row("lm_head", "MXFP8", 0.1, ("reward", "reward")),))
    with pytest.raises(PolicyError, match="lm_head takes a format in rollout only"):
        solve(matrix, {"reward": 1.0}).policy()


def test_phases_without_a_budget_stay_unquantised_and_are_listed() -> None:
    matrix = SensitivityMatrix((*THREE.rows, row("h.0", "MXFP8", 0.0, ("reward", "value"))))
    result = solve(matrix, {"rollout": 1.0})
    assert "without a budget, so unquantised: reward/value" in result.lines()
    assert result.policy().resolve("h.0", "reward", "value") == "FP16"


def test_bytes_are_those_of_packed_tensors_in_the_models_own_dtype(backend: Backend) -> None:
    import torch

    from mx_plugin.formats import quantize

    matrix = SensitivityMatrix((row("h.0", "MXFP4", 0.1, size=(5, 70), dtype="float32"),))
    (shape,) = shapes_of(matrix)["h.0", "policy"]
    for fmt in ("MXFP4", "MXFP6", "MXFP6_E3M2", "MXFP8", "MXINT8"):
        assert packed_bytes(shape, f"{fmt}/MXFP8") == quantize(torch.randn(5, 70), fmt).nbytes
    assert packed_bytes(shape, "FP16") == 5 * 70 * 4
    assert packed_bytes(shapes_of(matrix, dtype="float16")["h.0", "policy"][0], "FP16") == 5 * 70 * 2


def test_gradient_keeps_no_packed_copy_so_bytes_leave_it_alone_and_say_so() -> None:
    matrix = SensitivityMatrix((row("h.0", "MXFP4", 0.0, ("gradient", "policy")),))
    result = solve(matrix, {"gradient": 1.0})
    assert formats(result) == {("h.0", "gradient", "policy"): "FP16"}
    assert any("gradient keeps no packed weights" in line for line in result.lines())


def test_two_methods_that_disagree_are_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    truly = exact_module.front
    monkeypatch.setattr(exact_module, "front", lambda groups, budget=None, most=1: truly(groups, 0.0))
    with pytest.raises(MXError, match="one of them is wrong: please report it"):
        solve(THREE, {"rollout": 1.0})
