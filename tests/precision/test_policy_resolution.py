"""What a policy answers: which entry wins, and what an entry means as three products."""

from __future__ import annotations

import pytest

from mx_plugin.errors import PolicyError
from mx_plugin.precision import PHASES, GradientEntry, PhaseEntries, PrecisionPolicy, ProductEntry, Rule

Q0, Q1, Q10 = (f"model.layers.{n}.self_attn.q_proj" for n in (0, 1, 10))


def policy(**fields: object) -> PrecisionPolicy:
    return PrecisionPolicy(name="test", **fields)  # type: ignore[arg-type]


def test_a_policy_that_says_nothing_leaves_every_layer_in_the_models_dtype() -> None:
    for phase in PHASES:
        assert policy().resolve(Q0, phase) == "FP16"
        assert not policy().resolve(Q0, phase).quantised


def test_a_single_name_takes_the_policys_activations() -> None:
    formats = policy(defaults=PhaseEntries(rollout="MXFP4"), activations="MXFP6").resolve(Q0, "rollout")
    assert formats == "MXFP4"
    assert formats == "MXFP4/MXFP6"
    assert not formats.dgrad.pair.quantised and not formats.wgrad.pair.quantised


def test_a_pair_says_its_own_activations() -> None:
    assert policy(defaults=PhaseEntries(reward="MXFP4/MXINT8")).resolve(Q0, "reward") == "MXFP4/MXINT8"


def test_a_pair_with_fp16_is_weight_only() -> None:
    formats = policy(defaults=PhaseEntries(rollout="MXFP4/FP16")).resolve(Q0, "rollout")
    assert (formats.weights, formats.activations) == ("MXFP4", "FP16")


def test_a_name_in_gradient_gives_w_x_then_w_dy_then_x_dy() -> None:
    formats = policy(defaults=PhaseEntries(gradient="MXFP6")).resolve(Q0, "gradient")
    assert [str(p.pair) for p in (formats.forward, formats.dgrad, formats.wgrad)] == [
        "MXFP6/MXFP8",
        "MXFP6/MXFP8",
        "MXFP8/MXFP8",
    ]


def test_a_weight_only_pair_in_gradient_leaves_the_product_without_weights_alone() -> None:
    formats = policy(defaults=PhaseEntries(gradient="MXFP8/FP16")).resolve(Q0, "gradient")
    assert str(formats.dgrad.pair) == "MXFP8/FP16"
    assert not formats.wgrad.pair.quantised


@pytest.mark.parametrize(
    ("entry", "activations", "forward", "dgrad", "wgrad"),
    [
        ("MXFP4", "MXFP8", "nearest", "stochastic", "nearest"),
        ("MXFP8", "MXFP4", "nearest", "stochastic", "stochastic"),
        ("MXFP8", "MXFP8", "nearest", "nearest", "nearest"),
        ("MXFP6", "MXFP6", "nearest", "nearest", "nearest"),
    ],
)
def test_backward_products_with_a_four_bit_operand_round_stochastically(
    entry: str, activations: str, forward: str, dgrad: str, wgrad: str
) -> None:
    formats = policy(defaults=PhaseEntries(gradient=entry), activations=activations).resolve(Q0, "gradient")
    assert (formats.forward.rounding, formats.dgrad.rounding, formats.wgrad.rounding) == (forward, dgrad, wgrad)


def test_rollout_never_rounds_stochastically() -> None:
    assert policy(defaults=PhaseEntries(rollout="MXFP4")).resolve(Q0, "rollout").forward.rounding == "nearest"


def test_each_product_of_gradient_can_be_spelled_out_and_explicit_values_win() -> None:
    entry = GradientEntry(
        forward=ProductEntry("MXFP8/MXFP8"),
        dgrad=ProductEntry("MXFP4/MXFP4", rounding="nearest", scale_rule="floor", hadamard=True),
        wgrad=ProductEntry("MXFP4/MXFP8"),
    )
    formats = policy(defaults=PhaseEntries(gradient=entry), scale_rule="even").resolve(Q0, "gradient")
    assert (formats.dgrad.rounding, formats.dgrad.scale_rule, formats.dgrad.hadamard) == ("nearest", "floor", True)
    assert (formats.wgrad.rounding, formats.wgrad.scale_rule, formats.wgrad.hadamard) == ("stochastic", "even", False)
    assert formats.forward.scale_rule == "even"


def test_a_spelled_out_forward_product_rounds_to_nearest_even_in_four_bits() -> None:
    entry = GradientEntry(*(ProductEntry("MXFP4/MXFP4") for _ in range(3)))
    formats = policy(defaults=PhaseEntries(gradient=entry)).resolve(Q0, "gradient")
    assert [p.rounding for p in (formats.forward, formats.dgrad, formats.wgrad)] == [
        "nearest",
        "stochastic",
        "stochastic",
    ]


def test_the_scale_rule_is_rceil_unless_the_policy_says_otherwise() -> None:
    assert policy(defaults=PhaseEntries(rollout="MXFP4")).resolve(Q0, "rollout").forward.scale_rule == "rceil"


def test_the_last_matching_rule_wins() -> None:
    rules = (Rule("*", "MXFP8"), Rule("model.layers.0", "MXFP4"), Rule("*.k_proj", "MXFP6"))
    chosen = policy(rules=rules)
    assert chosen.resolve(Q0, "rollout") == "MXFP4"
    assert chosen.resolve(Q1, "rollout") == "MXFP8"
    assert chosen.resolve("model.layers.0.self_attn.k_proj", "rollout") == "MXFP6"


def test_a_prefix_covers_what_lies_below_it_and_not_names_that_merely_begin_alike() -> None:
    chosen = policy(rules=(Rule("model.layers.1", "MXFP4"),))
    assert chosen.resolve(Q1, "rollout") == "MXFP4"
    assert chosen.resolve(Q10, "rollout") == "FP16"


def test_a_rule_speaks_only_about_its_phases_and_roles() -> None:
    chosen = policy(rules=(Rule("*", "MXFP4", phases=("rollout", "reward"), roles=("policy",)),))
    assert chosen.resolve(Q0, "rollout") == "MXFP4"
    assert chosen.resolve(Q0, "reward") == "MXFP4"
    assert chosen.resolve(Q0, "gradient") == "FP16"
    assert chosen.resolve(Q0, "reward", "reference") == "FP16"


def test_a_roles_entries_overrule_the_defaults_and_yield_to_rules() -> None:
    chosen = policy(
        defaults=PhaseEntries(reward="MXFP8", gradient="MXFP8"),
        roles={"value": PhaseEntries(reward="MXFP6")},
        rules=(Rule("model.layers.1", "MXFP4", roles=("value",)),),
    )
    assert chosen.resolve(Q0, "reward") == "MXFP8"
    assert chosen.resolve(Q0, "reward", "value") == "MXFP6"
    assert chosen.resolve(Q0, "gradient", "value") == "MXFP8"
    assert chosen.resolve(Q1, "reward", "value") == "MXFP4"


def test_excluded_layers_stay_in_the_models_dtype_whatever_the_rules_say() -> None:
    chosen = policy(rules=(Rule("*", "MXFP4"),), exclude=("model.layers.0", "*.router"))
    assert chosen.resolve(Q0, "rollout") == "FP16"
    assert chosen.resolve("model.layers.1.router", "rollout") == "FP16"
    assert chosen.resolve(Q1, "rollout") == "MXFP4"


def test_eval_phases_resolve_as_the_phase_within() -> None:
    chosen = policy(defaults=PhaseEntries(rollout="MXFP4", reward="MXFP8"))
    assert chosen.resolve(Q0, "eval/rollout") == "MXFP4"
    assert chosen.resolve(Q0, "eval/reward") == "MXFP8"


# ---------------------------------------------------------------------------- the output head


def test_the_output_head_is_quantised_only_in_rollout_and_only_when_named() -> None:
    unnamed = policy(defaults=PhaseEntries("MXFP4", "MXFP4", "MXFP4"), rules=(Rule("*", "MXFP4"),))
    named = policy(defaults=PhaseEntries("MXFP4", "MXFP4", "MXFP4"), lm_head="MXFP8")
    for phase in PHASES:
        assert unnamed.resolve("lm_head", phase, is_lm_head=True) == "FP16"
        assert named.resolve("lm_head", phase, is_lm_head=True) == ("MXFP8" if phase == "rollout" else "FP16")


def test_a_rule_may_name_the_output_head_in_rollout() -> None:
    chosen = policy(lm_head="MXFP8", rules=(Rule("lm_head", "MXFP6", phases=("rollout",), roles=("policy",)),))
    assert chosen.resolve("lm_head", "rollout", is_lm_head=True) == "MXFP6"
    assert chosen.resolve("lm_head", "rollout", "reference", is_lm_head=True) == "MXFP8"


@pytest.mark.parametrize("phases", [(), ("reward",), ("gradient",), ("rollout", "reward")])
@pytest.mark.parametrize("pattern", ["lm_head", "*.lm_head", "model.lm_head"])
def test_a_rule_that_names_the_output_head_outside_rollout_is_refused_with_the_reason(
    pattern: str, phases: tuple[str, ...]
) -> None:
    with pytest.raises(PolicyError, match=r"read lm_head\.weight directly"):
        Rule(pattern, "MXFP8", phases=phases)


# ---------------------------------------------------------------------------- what is refused


def test_an_unknown_phase_names_the_nearest_one() -> None:
    with pytest.raises(PolicyError, match=r"unknown phase 'rolout': did you mean 'rollout'\?"):
        policy().resolve(Q0, "rolout")


def test_other_is_no_phase_that_a_policy_answers_for() -> None:
    with pytest.raises(PolicyError, match="unknown phase 'other'"):
        policy().resolve(Q0, "other")


def test_an_unknown_role_names_the_nearest_one() -> None:
    with pytest.raises(PolicyError, match=r"unknown role 'critic'.*Valid: policy, value, reference, reward"):
        policy().resolve(Q0, "reward", "critic")


def test_an_unknown_format_names_the_nearest_one() -> None:
    with pytest.raises(PolicyError, match=r"unknown format 'MXPF4': did you mean 'MXFP4'\?"):
        Rule("*", "MXPF4")


def test_products_are_refused_outside_gradient() -> None:
    products = GradientEntry(*(ProductEntry("MXFP8/MXFP8") for _ in range(3)))
    for wrong in (lambda: Rule("*", products), lambda: PhaseEntries(rollout=products)):
        with pytest.raises(PolicyError, match="for gradient alone"):
            wrong()


def test_a_product_needs_both_operands() -> None:
    with pytest.raises(PolicyError, match=r"one operand of a product that has two.*'MXFP4/MXFP8'"):
        ProductEntry("MXFP4")


@pytest.mark.parametrize("pair", ["FP16", "MXFP4/FP16", "FP16/MXFP4"])
def test_a_hadamard_transform_needs_both_operands_in_blocks(pair: str) -> None:
    with pytest.raises(PolicyError, match="hadamard turns both operands"):
        ProductEntry(pair, hadamard=True)


def test_activations_are_one_format() -> None:
    with pytest.raises(PolicyError, match="activations is 'MXFP8/MXFP8'; write one format name"):
        policy(activations="MXFP8/MXFP8")


def test_policies_are_hashable_and_do_not_follow_changes_of_the_mapping_they_were_made_from() -> None:
    roles = {"value": PhaseEntries(reward="MXFP4")}
    chosen = policy(roles=roles)
    hash(chosen)
    roles["value"] = PhaseEntries(reward="MXFP8")
    assert chosen.resolve(Q0, "reward", "value") == "MXFP4"
