"""The policies of controls: bytes as packed tensors have them, only what is meant differs."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from mx_plugin.experiments.control_policies import inverted_policy, matched_policy, random_policy, weight_bytes
from mx_plugin.experiments.controls import AA_SAMPLING, ControlPlanner, parse_controls
from mx_plugin.experiments.errors import ExperimentError
from mx_plugin.experiments.policies import Layer, load_policies, needs_matrix
from mx_plugin.formats import quantize
from mx_plugin.interfaces import LayerInfo
from mx_plugin.precision import PrecisionPolicy, load_policy

SHAPES = {"q_proj": (64, 64), "v_proj": (32, 64), "up_proj": (192, 64), "down_proj": (64, 192)}


def layers(count: int = 6, dtype: str = "float32") -> tuple[Layer, ...]:
    trunk = [
        Layer(LayerInfo(f"model.layers.{i}.{name}", role, inner, out), dtype)
        for role in ("policy", "value")
        for i in range(count)
        for name, (out, inner) in SHAPES.items()
    ]
    return (*trunk, Layer(LayerInfo("lm_head", "policy", 64, 1000, is_lm_head=True), dtype))


def by_layer() -> PrecisionPolicy:
    """MXFP4 rollouts, but the first two blocks in MXFP8 and every v_proj in MXFP6."""
    return PrecisionPolicy.from_dict(
        {
            "version": 1, "name": "D", "lm_head": {"rollout": "MXFP8"},
            "defaults": {"rollout": "MXFP4", "reward": "MXFP8", "gradient": "FP16"},
            "rules": [
                {"layers": "*.v_proj", "phases": "rollout", "format": "MXFP6"},
                {"layers": "model.layers.0", "phases": "rollout", "format": "MXFP8"},
                {"layers": "model.layers.1", "phases": "rollout", "format": "MXFP8"},
            ],
        }
    )  # fmt: skip


@cache
def packed(out_features: int, in_features: int, fmt: str) -> int:
    weight = torch.zeros(out_features, in_features)
    return weight.nbytes if fmt == "FP16" else quantize(weight, fmt).nbytes


def packed_bytes(policy: PrecisionPolicy, phase: str, role: str = "policy") -> int:
    """Measured on packed tensors, not by the formula of the code under test."""
    total = 0
    for layer in layers():
        if layer.info.role == role and not layer.info.is_lm_head:
            fmt = policy.resolve(layer.info.name, phase, role).weights
            total += packed(layer.info.out_features, layer.info.in_features, fmt)
    return total


@pytest.mark.parametrize("fmt", ["MXFP4", "MXFP6", "MXFP8", "MXINT8"])
@pytest.mark.parametrize("columns", [32, 64, 100])
def test_weight_bytes_are_those_of_the_packed_tensor(fmt: str, columns: int) -> None:
    layer = Layer(LayerInfo("x", "policy", columns, 7), "float32")
    assert weight_bytes(layer, fmt) == quantize(torch.zeros(7, columns), fmt).nbytes


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_D_has_the_packed_bytes_of_D_in_every_phase(seed: int) -> None:
    base = by_layer()
    made = random_policy(base, layers(), "random-D", seed)
    for role in ("policy", "value"):
        for phase in ("rollout", "reward", "gradient"):
            theirs, ours = packed_bytes(base, phase, role), packed_bytes(made.policy, phase, role)
            assert abs(ours - theirs) <= 0.005 * theirs
    told = made.about["scopes"]["rollout/policy"]
    assert told["bytes"] == packed_bytes(made.policy, "rollout")
    assert told["bytes_of_base"] == packed_bytes(base, "rollout")
    assert told["layers_that_differ"] > 0


def test_only_phases_in_which_D_chooses_by_layer_are_dealt_anew() -> None:
    base = by_layer()
    made = random_policy(base, layers(), "random-D", 1).policy
    for layer in layers():
        for phase in ("reward", "gradient"):
            assert made.resolve(layer.info.name, phase) == base.resolve(layer.info.name, phase)
    assert made.resolve("lm_head", "rollout", is_lm_head=True) == "MXFP8/MXFP8"


def test_inverted_D_gives_protected_layers_the_narrow_formats() -> None:
    base = by_layer()
    made = inverted_policy(base, layers(), "inverted-D").policy
    assert abs(packed_bytes(made, "rollout") - packed_bytes(base, "rollout")) <= 0.005 * packed_bytes(base, "rollout")
    assert made.resolve("model.layers.0.up_proj", "rollout") == "MXFP4"


def test_policies_without_a_choice_by_layer_have_no_random_control() -> None:
    with pytest.raises(ExperimentError, match=r"same format.*such as D"):
        random_policy(load_policy("C"), layers(), "random-C", 1)


def test_matched_trains_forward_in_the_formats_of_rollouts() -> None:
    base = load_policy("C")
    made = matched_policy(base, layers(), "matched-C").policy
    name = "model.layers.3.up_proj"
    rollout, trained = made.resolve(name, "rollout"), made.resolve(name, "gradient")
    assert trained.forward == rollout.forward == base.resolve(name, "rollout").forward
    assert not trained.dgrad.pair.quantised and not trained.wgrad.pair.quantised
    assert made.resolve("lm_head", "rollout", is_lm_head=True) == "FP16"
    assert made.resolve(name, "gradient", "value") == base.resolve(name, "gradient", "value")
    with pytest.raises(ExperimentError, match="no mismatch to take away"):
        matched_policy(load_policy("A"), layers(), "matched-A")


# ---------------------------------------------------------------------------- names and runs


@pytest.mark.parametrize(
    ("word", "name"),
    [("random", "random-D"), ("bf16+noise", "noise-D"), ("bf16+noise-C", "noise-C"), ("noise-C", "noise-C"),
     ("aa", "aa"), ("correction_off", "correction_off-D"), ("correction_on-C", "correction_on-C"),
     ("matched-C", "matched-C")],
)  # fmt: skip
def test_controls_are_named_after_their_policy(word: str, name: str) -> None:
    assert parse_controls([word], ["A", "C", "D"], "A")[0].name == name


@pytest.mark.parametrize(
    ("word", "message"),
    [("randm-D", "did you mean 'random'"), ("random-E", "no policy 'E'"), ("noisy", "unknown control")],
)
def test_unknown_controls_are_refused_with_the_nearest(word: str, message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        parse_controls([word], ["A", "C", "D"], "A")


def planned(kind: str, seed: int = 1, **options: Any) -> Any:
    policies = {"A": load_policy("A"), "D": by_layer()}
    planner = ControlPlanner(policies, layers(), options)
    return planner.run(parse_controls([kind], list(policies), "A")[0], seed), planner.made


def test_aa_is_the_baseline_on_other_draws_of_the_same_data() -> None:
    run, made = planned("aa", 3)
    assert (run.policy, run.seed, run.sampling_seed, made) == ("A", 3, 3 + AA_SAMPLING, {})


def test_random_D_is_dealt_anew_for_every_seed() -> None:
    (first, made_first), (second, made_second) = planned("random", 1), planned("random", 2)
    assert (first.policy, second.policy) == ("random-D.seed_1", "random-D.seed_2")
    assert made_first[first.policy].rules != made_second[second.policy].rules


def test_noise_keeps_D_and_changes_the_backend() -> None:
    run, _ = planned(
        "bf16+noise", 2, noise=lambda seed: {"backend": "noise", "backend_options": [f"noise.seed={seed}"]}
    )
    assert (run.name, run.policy) == ("noise-D", "D")
    assert run.options == {"backend": "noise", "backend_options": ["noise.seed=2"]}


def test_a_matrix_for_another_model_names_the_first_layers_that_differ(tmp_path: Any) -> None:
    matrix = tmp_path / "matrix.csv"
    matrix.write_text("layer,phase,format,cost\nmodel.layers.9.q_proj,rollout,MXFP4,0.1\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"another model.*model\.layers\.9\.q_proj"):
        load_policies(["D"], layers(), matrix, 0.2)


def test_D_keeps_a_budget_for_all_its_layers_together_or_a_limit_for_each(tmp_path: Any) -> None:
    matrix = tmp_path / "matrix.csv"
    costs = [f"{layer.info.name},rollout,MXFP4,0.01" for layer in layers()
             if layer.info.role == "policy" and not layer.info.is_lm_head]  # fmt: skip
    matrix.write_text("\n".join(["layer,phase,format,cost", *costs]) + "\n", encoding="utf-8")

    def narrow(**limit: Any) -> int:
        policy = load_policies(["D"], layers(), matrix, **limit)["D"]
        return sum(str(policy.resolve(line.split(",")[0], "rollout")).startswith("MXFP4") for line in costs)

    assert narrow(max_cost=0.01) == len(costs) > 3
    assert narrow(budget={"rollout": 0.035}) == 3
    assert narrow() == 2, "the default is 0.02 nats a token"
    assert str(tmp_path) not in load_policies(["D"], layers(), matrix)["D"].description


def test_policies_take_names_of_their_own(tmp_path: Any) -> None:
    by_layer().to_yaml(tmp_path / "found.yaml")
    found = load_policies(["A", f"mine={tmp_path / 'found.yaml'}"], layers())
    assert list(found) == ["A", "mine"]
    assert found["mine"].name == "mine"
    with pytest.raises(ExperimentError, match="given twice"):
        load_policies(["C", "C"], layers())
    with pytest.raises(ValueError, match="give --matrix"):
        load_policies(["D"], layers())
    assert needs_matrix(["A", "D"]) and not needs_matrix(["A", f"D={tmp_path / 'found.yaml'}"])
    with pytest.raises(ValueError, match="unknown policy 'E'"):
        load_policies(["E"], layers())
