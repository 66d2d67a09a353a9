"""The provider: a policy checked against the layers of a run, and asked by name or by prefix."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import pytest

from mx_plugin.errors import PolicyError
from mx_plugin.interfaces import LayerInfo
from mx_plugin.precision import (
    MatrixRow,
    PhaseEntries,
    PolicyProvider,
    PrecisionPolicy,
    Rule,
    SensitivityMatrix,
    load_policy,
)

PARTS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


def gpt2(role: str = "policy", blocks: int = 3, head: bool = True) -> list[LayerInfo]:
    layers = [LayerInfo(f"transformer.h.{n}.{part}", role, 64, 64) for n in range(blocks) for part in PARTS]
    return layers + ([LayerInfo("lm_head", role, 64, 1000, is_lm_head=True)] if head else [])


def started(policy: PrecisionPolicy, layers: Sequence[LayerInfo] = ()) -> PolicyProvider:
    provider = PolicyProvider(policy)
    provider.start(layers or gpt2())
    return provider


def with_rules(*rules: Rule, **fields: object) -> PrecisionPolicy:
    return PrecisionPolicy(name="test", rules=rules, **fields)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------- asking


def test_a_layer_answers_by_its_name() -> None:
    provider = started(load_policy("C"))
    assert provider.get_precision("transformer.h.0.attn.c_attn", "rollout") == "MXFP4/MXFP8"
    assert provider.get_precision("transformer.h.0.attn.c_attn", "reward") == "MXFP8"
    assert provider.get_precision("transformer.h.0.attn.c_attn", "gradient") == "FP16"


def test_the_output_head_answers_as_one() -> None:
    provider = started(load_policy("C"))
    assert [
        provider.get_precision("lm_head", phase) == f for phase, f in (("rollout", "MXFP8"), ("reward", "FP16"))
    ] == [
        True,
        True,
    ]
    assert provider.get_precision("lm_head", "gradient") == "FP16"


def test_a_prefix_answers_for_all_layers_below_it() -> None:
    provider = started(with_rules(Rule("transformer.h.1", "MXFP4")))
    assert provider.get_precision("transformer.h.1.attn", "rollout") == "MXFP4"
    assert provider.get_precision("transformer.h.0", "rollout") == "FP16"


def test_a_prefix_whose_layers_differ_is_refused_with_the_layers() -> None:
    provider = started(with_rules(Rule("*.c_proj", "MXFP4")))
    with pytest.raises(
        PolicyError,
        match=r"layers below 'transformer\.h\.0' differ in rollout: transformer\.h\.0\.attn\.c_attn FP16, "
        r"transformer\.h\.0\.attn\.c_proj MXFP4/MXFP8, transformer\.h\.0\.mlp\.c_proj MXFP4/MXFP8; ask for one",
    ):
        provider.get_precision("transformer.h.0", "rollout")


def test_no_more_than_five_differing_layers_are_listed() -> None:
    provider = started(with_rules(Rule("*.c_proj", "MXFP4")))
    with pytest.raises(PolicyError, match=r"\.\.\. \(2 more\)"):
        provider.get_precision("transformer", "rollout")


def test_a_prefix_ends_at_a_dot() -> None:
    provider = started(load_policy("C"), gpt2(blocks=12))
    with pytest.raises(PolicyError, match=r"lies below, 'transformer\.h\.1\.att'"):
        provider.get_precision("transformer.h.1.att", "rollout")
    rules = with_rules(Rule("transformer.h.10", "MXFP4"), Rule("transformer.h.11", "MXFP4"))
    assert started(rules, gpt2(blocks=12)).get_precision("transformer.h.1", "rollout") == "FP16"


def test_an_unknown_layer_names_the_nearest_one() -> None:
    with pytest.raises(PolicyError, match=r"did you mean 'transformer\.h\.0\.attn'\?"):
        started(load_policy("C")).get_precision("transformer.h.0.atn", "rollout")


def test_a_glob_is_no_layer_name() -> None:
    with pytest.raises(PolicyError, match=re.escape("'transformer.*'")):
        started(load_policy("C")).get_precision("transformer.*", "rollout")


def test_a_role_that_is_not_in_the_run_is_refused() -> None:
    with pytest.raises(PolicyError, match=r"role 'value' has no layer in this run: Valid: policy"):
        started(load_policy("C")).get_precision("transformer.h.0.attn.c_attn", "reward", "value")


@pytest.mark.parametrize("begin", [True, False])
def test_unknown_phases_and_roles_name_the_nearest(begin: bool) -> None:
    provider = started(load_policy("C")) if begin else PolicyProvider(load_policy("C"))
    with pytest.raises(PolicyError, match="did you mean 'rollout'"):
        provider.get_precision("transformer.h.0", "roll_out")
    with pytest.raises(PolicyError, match="did you mean 'reference'"):
        provider.get_precision("transformer.h.0", "reward", "referense")


def test_eval_phases_answer_as_the_phase_within() -> None:
    provider = started(load_policy("C"))
    assert provider.get_precision("transformer.h.0", "eval/rollout") == "MXFP4"


def test_roles_answer_apart() -> None:
    policy = PrecisionPolicy(
        name="test", defaults=PhaseEntries(reward="MXFP8"), roles={"value": PhaseEntries(reward="MXFP4")}
    )
    provider = started(policy, gpt2() + gpt2("value", head=False))
    assert provider.get_precision("transformer.h.0", "reward") == "MXFP8"
    assert provider.get_precision("transformer.h.0", "reward", "value") == "MXFP4"


def test_starting_again_forgets_earlier_layers() -> None:
    provider = started(load_policy("C"))
    provider.get_precision("transformer.h.2.attn.c_attn", "rollout")
    provider.start(gpt2(blocks=1))
    with pytest.raises(PolicyError, match="no policy layer"):
        provider.get_precision("transformer.h.2.attn.c_attn", "rollout")


# ---------------------------------------------------------------------------- before the start


def test_before_the_start_rules_alone_decide() -> None:
    provider = PolicyProvider(with_rules(Rule("transformer.h.0.attn", "MXFP4"), Rule("*.mlp.*", "MXFP6")))
    assert provider.get_precision("transformer.h.0.attn", "rollout") == "MXFP4"
    assert provider.get_precision("transformer.h.0.attn.c_attn", "rollout") == "MXFP4"
    assert provider.get_precision("transformer.h.7.mlp.c_fc", "rollout") == "MXFP6"
    assert provider.get_precision("anything", "rollout") == "FP16"


def test_before_the_start_a_prefix_answers_for_the_layers_that_rules_name_below_it() -> None:
    rules = (Rule("transformer.h.0.attn.c_attn", "MXFP4"), Rule("transformer.h.0.attn.c_proj", "MXFP4"))
    assert PolicyProvider(with_rules(*rules)).get_precision("transformer.h.0.attn", "rollout") == "MXFP4"


def test_before_the_start_a_prefix_below_which_rules_differ_is_refused() -> None:
    apart = (Rule("transformer.h.0.attn.c_attn", "MXFP4"), Rule("transformer.h.0.attn.c_proj", "MXFP8"))
    nested = (Rule("transformer.h.0.attn", "MXFP8"), Rule("transformer.h.0.attn.c_attn", "MXFP4"))
    for rules in (apart, nested):
        with pytest.raises(PolicyError, match=r"layers below 'transformer\.h\.0\.attn' differ in rollout"):
            PolicyProvider(with_rules(*rules)).get_precision("transformer.h.0.attn", "rollout")


# ---------------------------------------------------------------------------- fitting the run


def test_built_in_policies_fit_any_layers() -> None:
    for name in ("A", "B", "C", "C8"):
        started(load_policy(name), [LayerInfo("anything.at_all", "reward", 32, 32)])


@pytest.mark.parametrize("pattern", ["transformer.h.0.atn", "transformer.h.9", "*.q_proj", "transformer.h.0.attn.c"])
def test_a_rule_that_matches_no_layer_is_refused_with_the_nearest(pattern: str) -> None:
    with pytest.raises(PolicyError) as caught:
        started(with_rules(Rule(pattern, "MXFP4")))
    assert f"policy test (from code) names {pattern!r}, which matches no adopted layer: did you mean '" in str(
        caught.value
    )


def test_it_says_its_policys_name_by_which_run_folders_are_called() -> None:
    assert started(with_rules()).describe()["name"] == with_rules().name


def test_an_exclude_pattern_that_matches_no_layer_is_refused() -> None:
    with pytest.raises(PolicyError, match=r"names exclude '\*\.router', which matches no adopted layer"):
        started(with_rules(exclude=("*.router", "transformer.h.0")))


def test_a_rule_is_checked_against_the_layers_of_its_own_roles() -> None:
    layers = [*gpt2(), LayerInfo("backbone.fc", "value", 32, 32)]
    started(with_rules(Rule("backbone", "MXFP4", roles=("value",))), layers)
    with pytest.raises(PolicyError, match="names 'backbone', which matches no adopted layer"):
        started(with_rules(Rule("backbone", "MXFP4", roles=("policy",))), layers)


def test_a_rule_for_a_role_that_the_run_lacks_is_passed_over_and_reported() -> None:
    provider = started(with_rules(Rule("backbone", "MXFP4", roles=("value",))))
    assert provider.describe()["rules_for_absent_roles"] == ["backbone"]


def test_a_rule_that_quantises_a_head_of_another_name_outside_rollout_is_refused() -> None:
    layers = [LayerInfo("embed_out", "policy", 32, 100, is_lm_head=True)]
    started(with_rules(Rule("embed_out", "MXFP8", phases=("rollout",))), layers)
    with pytest.raises(PolicyError, match=r"'embed_out' is the output head: .*lm_head takes a format in rollout only"):
        started(with_rules(Rule("embed_out", "MXFP8")), layers)


def test_a_matrix_of_another_model_is_refused_with_the_first_layers_that_differ() -> None:
    rows = tuple(MatrixRow(f"model.layers.{n}", "rollout", "policy", "MXFP4", 0.1) for n in range(7))
    policy = PrecisionPolicy.from_matrix(SensitivityMatrix(rows, "llama.csv"), 1.0)
    with pytest.raises(PolicyError) as caught:
        started(policy)
    message = str(caught.value)
    assert "policy D (llama.csv) names 'model.layers.0', 'model.layers.1'" in message
    assert "'model.layers.4', ... (2 more), which match no adopted layer" in message
    assert "layers that no rule names: transformer.h.0.attn.c_attn, " in message


# ---------------------------------------------------------------------------- describing


def test_layers_that_no_rule_covers_are_listed_by_role() -> None:
    provider = started(with_rules(Rule("transformer.h.0", "MXFP4"), Rule("transformer.h.1", "MXFP8")))
    assert provider.uncovered() == {"policy": [f"transformer.h.2.{part}" for part in PARTS]}
    assert provider.describe()["uncovered"] == provider.uncovered()


def test_the_description_is_plain_data_that_holds_the_whole_policy() -> None:
    policy = with_rules(Rule("transformer.h.0", "MXFP4"))
    plain = json.loads(json.dumps(started(policy).describe()))
    assert PrecisionPolicy.from_dict(plain["policy"]) == policy


def test_resolved_formats_are_listed_by_role_phase_and_layer() -> None:
    layers = gpt2(blocks=1) + gpt2("value", blocks=1, head=False)
    table = started(load_policy("B", activations="MXFP4"), layers).resolved(layers)
    assert set(table) == {"policy", "value"}
    assert table["policy"]["rollout"]["transformer.h.0.attn.c_attn"] == "MXFP8/MXFP4"
    assert table["policy"]["reward"]["lm_head"] == "FP16"
    assert table["value"]["gradient"]["transformer.h.0.mlp.c_fc"] == (
        "forward MXFP8/MXFP4, dgrad MXFP8/MXFP4+sr, wgrad MXFP4/MXFP4+sr"
    )
