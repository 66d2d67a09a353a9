"""The built-in policies, and the way from a name or a path to a policy."""

from __future__ import annotations

from pathlib import Path

import pytest

from mx_plugin.errors import MatrixError, PolicyError
from mx_plugin.precision import PHASES, ROLES, MatrixRow, SensitivityMatrix, builtin_names, load_policy

LAYER = "model.layers.0.mlp.down_proj"


def test_the_built_in_policies_are_a_b_c_c8_and_d() -> None:
    assert builtin_names() == ("A", "B", "C", "C8", "D")


@pytest.mark.parametrize(
    ("name", "rollout", "reward", "gradient", "lm_head"),
    [
        ("A", "FP16", "FP16", "FP16", "FP16"),
        ("B", "MXFP8/MXFP8", "MXFP8/MXFP8", "MXFP8/MXFP8", "MXFP8/MXFP8"),
        ("C", "MXFP4/MXFP8", "MXFP8/MXFP8", "FP16", "MXFP8/MXFP8"),
        ("C8", "MXFP8/MXFP8", "MXFP8/MXFP8", "FP16", "MXFP8/MXFP8"),
    ],
)
def test_a_built_in_policy_answers_the_same_for_every_role(
    name: str, rollout: str, reward: str, gradient: str, lm_head: str
) -> None:
    policy = load_policy(name)
    for role in ROLES:
        for phase, formats in zip(PHASES, (rollout, reward, gradient), strict=True):
            assert policy.resolve(LAYER, phase, role) == formats
        assert policy.resolve("lm_head", "rollout", role, is_lm_head=True) == lm_head
        assert policy.resolve("lm_head", "reward", role, is_lm_head=True) == "FP16"
        assert policy.resolve("lm_head", "gradient", role, is_lm_head=True) == "FP16"


def test_policy_b_quantises_all_three_products() -> None:
    formats = load_policy("B").resolve(LAYER, "gradient")
    assert {str(p) for p in (formats.forward, formats.dgrad, formats.wgrad)} == {"MXFP8/MXFP8"}


def test_names_are_read_in_any_case() -> None:
    assert load_policy("c8") == load_policy("C8")


def test_an_unknown_name_lists_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(
        PolicyError, match=r"unknown policy 'C9': did you mean 'C\d?'\? Valid: A, B, C, C8, D; or .*YAML"
    ):
        load_policy("C9")


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    for missing in (tmp_path / "missing", str(tmp_path / "missing"), "missing.yaml"):
        with pytest.raises(PolicyError, match=r"cannot read policy .*missing.*No such file"):
            load_policy(missing)


def test_a_folder_is_no_policy(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="cannot read policy"):
        load_policy(tmp_path)


def test_a_policy_is_taken_as_it_is() -> None:
    policy = load_policy("C")
    assert load_policy(policy) is policy


def test_activations_and_scale_rule_replace_the_policys_own() -> None:
    forward = load_policy("C", activations="MXFP6", scale_rule="floor").resolve(LAYER, "rollout").forward
    assert (str(forward.pair), forward.scale_rule) == ("MXFP4/MXFP6", "floor")


def test_an_unknown_replacement_names_the_nearest_word() -> None:
    with pytest.raises(PolicyError, match="did you mean 'floor'"):
        load_policy("C", scale_rule="flor")
    with pytest.raises(PolicyError, match="did you mean 'MXFP6'"):
        load_policy("C", activations="MXPF6")


# ---------------------------------------------------------------------------- D


def matrix() -> SensitivityMatrix:
    return SensitivityMatrix((MatrixRow(LAYER, "rollout", "policy", "MXFP4", 0.01, "kl", "nats"),), "made here")


def test_policy_d_without_a_matrix_says_what_it_needs() -> None:
    with pytest.raises(PolicyError, match=r"give sensitivity_matrix, a CSV with columns layer,phase,role,format,cost"):
        load_policy("D")


def test_policy_d_without_max_cost_says_what_it_needs() -> None:
    with pytest.raises(PolicyError, match="needs max_cost: it takes the narrowest format"):
        load_policy("D", sensitivity_matrix=matrix())


def test_policy_d_with_a_missing_csv_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(MatrixError, match=r"cannot read sensitivity matrix .*none\.csv"):
        load_policy("D", sensitivity_matrix=tmp_path / "none.csv", max_cost=0.1)


def test_a_policy_that_takes_no_matrix_refuses_one_rather_than_ignore_it() -> None:
    with pytest.raises(PolicyError, match="policy C takes no sensitivity_matrix"):
        load_policy("C", sensitivity_matrix=matrix())
    with pytest.raises(PolicyError, match="policy C takes no max_cost"):
        load_policy("C", max_cost=0.1)


def test_policy_d_reads_a_csv_by_path(tmp_path: Path) -> None:
    matrix().write(tmp_path / "m.csv")
    policy = load_policy("D", sensitivity_matrix=str(tmp_path / "m.csv"), max_cost=0.02, activations="MXFP6")
    assert policy.resolve(LAYER, "rollout") == "MXFP4/MXFP6"
    assert policy.resolve(LAYER, "reward") == "FP16"


def test_a_file_of_ones_own_may_ask_for_a_matrix_and_overrule_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\nneeds_matrix: true\nlm_head: {rollout: MXFP8}\nrules: [{layers: '*.part', format: MXINT8}]\n",
        encoding="utf-8",
    )
    policy = load_policy(path, sensitivity_matrix=matrix(), max_cost=1)
    assert policy.resolve(LAYER, "rollout") == "MXFP4"
    assert policy.resolve(f"{LAYER}.part", "rollout") == "MXINT8"
    assert policy.resolve("lm_head", "rollout", is_lm_head=True) == "MXFP8"


def test_a_policy_without_its_matrix_answers_nothing() -> None:
    from mx_plugin.precision.load import builtin_policy

    with pytest.raises(PolicyError, match="policy D has no rules yet"):
        builtin_policy("D").resolve(LAYER, "rollout")
