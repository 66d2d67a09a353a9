"""Policies as YAML: exact round trips, and errors that name the file, the line, the key and the word."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mx_plugin.errors import PolicyError
from mx_plugin.precision import (
    PHASES,
    ROLES,
    GradientEntry,
    PhaseEntries,
    PrecisionPolicy,
    ProductEntry,
    Rule,
    load_policy,
)

FORMATS = ("FP16", "MXFP8", "MXFP8_E5M2", "MXFP6", "MXFP6_E3M2", "MXFP4", "MXINT8")
formats = st.sampled_from(FORMATS)
block_formats = st.sampled_from(FORMATS[1:])
pairs = st.builds("{}/{}".format, formats, formats)
names = st.text(min_size=1).filter(str.strip)
entries = formats | pairs


@st.composite
def products(draw: st.DrawFn) -> ProductEntry:
    rounding = draw(st.sampled_from([None, "nearest", "stochastic"]))
    scale_rule = draw(st.sampled_from([None, "floor", "rceil", "even"]))
    if draw(st.booleans()):
        return ProductEntry(f"{draw(block_formats)}/{draw(block_formats)}", rounding, scale_rule, hadamard=True)
    return ProductEntry(draw(pairs), rounding, scale_rule)


gradients = entries | st.builds(GradientEntry, products(), products(), products())
phase_entries = st.builds(PhaseEntries, st.none() | entries, st.none() | entries, st.none() | gradients)
roles_of_a_rule = st.lists(st.sampled_from(ROLES), unique=True).map(tuple)
trunk = names.filter(lambda pattern: "lm_head" not in pattern)
rules = (
    st.builds(Rule, trunk, entries, st.lists(st.sampled_from(PHASES), unique=True).map(tuple), roles_of_a_rule)
    | st.builds(Rule, trunk, gradients, st.just(("gradient",)), roles_of_a_rule)
    | st.builds(Rule, st.just("lm_head"), entries, st.just(("rollout",)), roles_of_a_rule)
)
policies = st.builds(
    PrecisionPolicy,
    name=st.text(),
    description=st.text(),
    activations=formats,
    scale_rule=st.sampled_from(["floor", "rceil", "even"]),
    defaults=phase_entries,
    roles=st.dictionaries(st.sampled_from(ROLES), phase_entries),
    lm_head=st.none() | entries,
    rules=st.lists(rules, max_size=4).map(tuple),
    exclude=st.lists(names, max_size=3).map(tuple),
    needs_matrix=st.booleans(),
)


@given(policies)
def test_plain_data_reads_back_to_an_equal_policy(policy: PrecisionPolicy) -> None:
    assert PrecisionPolicy.from_dict(policy.to_dict()) == policy


@given(policies)
def test_a_yaml_file_reads_back_to_an_equal_policy(
    tmp_path_factory: pytest.TempPathFactory, policy: PrecisionPolicy
) -> None:
    path = tmp_path_factory.mktemp("policies") / "policy.yaml"
    assert path.write_text("stale") and policy.to_yaml(path) == path.read_text("utf-8")
    assert PrecisionPolicy.from_yaml(path) == policy


def test_a_full_file_means_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        """\
version: 1
name: mine
activations: mxfp8_e4m3
scale_rule: even
defaults: {rollout: MXFP4, reward: mxfp8}
roles:
  value: {reward: MXFP6}
lm_head: {rollout: MXFP8/FP16}
rules:
  - layers: model.layers.0
    phases: [rollout, reward]
    format: MXFP8
  - layers: "*.mlp.*"
    phases: gradient
    roles: policy
    format:
      forward: MXFP8/MXFP8
      dgrad: {format: MXFP4/MXFP4, rounding: stochastic, hadamard: true}
      wgrad: FP16
exclude: "*.router"
""",
        encoding="utf-8",
    )
    policy = load_policy(path)
    assert policy.source == str(path)
    assert policy.resolve("model.layers.0.mlp.up_proj", "rollout") == "MXFP8/MXFP8"
    assert policy.resolve("model.layers.1.mlp.up_proj", "rollout") == "MXFP4"
    assert policy.resolve("model.layers.1.mlp.up_proj", "reward", "value") == "MXFP6"
    assert policy.resolve("model.layers.1.router", "rollout") == "FP16"
    assert policy.resolve("lm_head", "rollout", is_lm_head=True) == "MXFP8/FP16"
    gradient = policy.resolve("model.layers.0.mlp.up_proj", "gradient")
    assert [str(p) for p in (gradient.forward, gradient.dgrad, gradient.wgrad)] == [
        "MXFP8/MXFP8",
        "MXFP4/MXFP4+sr+rht",
        "FP16",
    ]


FAULTS = {
    "unknown key": ("defalts: {rollout: MXFP4}", 3, "defalts", "unknown key 'defalts': did you mean 'defaults'?"),
    "unknown phase": ("defaults: {rolout: MXFP4}", 3, "defaults.rolout", "did you mean 'rollout'?"),
    "unknown format": ("defaults:\n  rollout: MXPF4", 4, "defaults.rollout", "did you mean 'MXFP4'?"),
    "unknown side of a pair": ("lm_head: {rollout: MXFP8/MXPF8}", 3, "lm_head.rollout", "did you mean 'MXFP8'?"),
    "unknown role": ("roles: {polcy: {rollout: MXFP4}}", 3, "roles.polcy", "did you mean 'policy'?"),
    "unknown scale rule": ("scale_rule: rceill", 3, "scale_rule", "did you mean 'rceil'?"),
    "unknown activations": ("activations: MXFP9", 3, "activations", "unknown format 'MXFP9'"),
    "no format at all": ("defaults: {rollout: }", 3, "defaults.rollout", "None is not a format"),
    "a number for a format": ("defaults: {rollout: 4}", 3, "defaults.rollout", "4 is not a format"),
    "lm_head in reward": ("lm_head: {reward: MXFP8}", 3, "lm_head.reward", "read lm_head.weight directly"),
    "lm_head in gradient": ("lm_head: {gradient: MXFP8}", 3, "lm_head.gradient", "read lm_head.weight directly"),
    "phase of a rule": (
        "rules:\n- {layers: a, format: MXFP4}\n- layers: b\n  phases: [reword]\n  format: MXFP4",
        6,
        "rules[1].phases",
        "did you mean 'reward'?",
    ),
    "role of a rule": ("rules:\n- {layers: a, roles: valu, format: MXFP4}", 4, "rules[0].roles", "'value'?"),
    "key of a rule": ("rules:\n- {layer: a, format: MXFP4}", 4, "rules[0].layer", "did you mean 'layers'?"),
    "rule without a format": ("rules:\n- {layers: a}", 4, "rules[0]", "the rule has no format"),
    "rule that is a word": ("rules:\n- MXFP4", 4, "rules[0]", "expected a mapping with keys layers"),
    "rules that are a mapping": ("rules: {layers: a}", 3, "rules", "expected a list of rules"),
    "products outside gradient": (
        "defaults: {rollout: {forward: FP16, dgrad: FP16, wgrad: FP16}}",
        3,
        "defaults.rollout",
        "for gradient alone",
    ),
    "a product is missing": ("defaults: {gradient: {forward: FP16}}", 3, "defaults.gradient", "dgrad is missing"),
    "unknown product": ("defaults: {gradient: {fwd: FP16}}", 3, "defaults.gradient.fwd", "'forward'"),
    "unknown rounding": (
        "defaults:\n  gradient:\n    forward: FP16\n    dgrad: {format: MXFP4/MXFP4, rounding: stochastc}\n"
        "    wgrad: FP16",
        6,
        "defaults.gradient.dgrad.rounding",
        "did you mean 'stochastic'?",
    ),
    "hadamard that is no flag": (
        "defaults: {gradient: {forward: FP16, dgrad: {format: MXFP4/MXFP4, hadamard: 32}, wgrad: FP16}}",
        3,
        "defaults.gradient.dgrad.hadamard",
        "write true or false",
    ),
    "exclude that is a mapping": ("exclude: {a: b}", 3, "exclude", "expected text or a list of texts"),
    "a flag in words": ("needs_matrix: maybe", 3, "needs_matrix", "expected true or false"),
    "a key given twice": ("exclude: a\nexclude: b", 4, "", "key 'exclude' is there twice (first on line 3)"),
    "a name that YAML reads as false": ("description: no", 3, "description", "write text (in quotes)"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_reported_with_file_line_key_and_remedy(tmp_path: Path, fault: str) -> None:
    text, line, key, message = FAULTS[fault]
    path = tmp_path / "faulty.yaml"
    path.write_text(f"version: 1\nname: faulty\n{text}\n", encoding="utf-8")
    with pytest.raises(PolicyError) as caught:
        PrecisionPolicy.from_yaml(path)
    assert str(caught.value).startswith(f"{path}:{line}: {key}".rstrip())
    assert message in str(caught.value)


def test_plain_data_without_lines_still_names_source_and_key() -> None:
    with pytest.raises(PolicyError, match=re.escape("experiment 7: defaults.rollout: unknown format 'X'")):
        PrecisionPolicy.from_dict({"name": "x", "defaults": {"rollout": "X"}}, "experiment 7")


@pytest.mark.parametrize(
    ("text", "line"),
    [("name: [", 2), ("name: x\n\tversion: 1", 2), ("name: x\nrules: }{", 2), ("name: !!python/x y", 1)],
)
def test_a_yaml_fault_names_the_file_and_the_line(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text + "\n", encoding="utf-8")
    with pytest.raises(PolicyError, match=re.escape(f"{path}:{line}: not valid YAML")):
        PrecisionPolicy.from_yaml(path)


def test_yaml_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "hostile.yaml"
    path.write_text(f"name: !!python/object/apply:pathlib.Path.touch ['{tmp_path}/touched']\n", encoding="utf-8")
    with pytest.raises(PolicyError, match="not valid YAML"):
        PrecisionPolicy.from_yaml(path)


def test_an_alias_of_itself_is_refused_and_does_not_hang(tmp_path: Path) -> None:
    path = tmp_path / "loop.yaml"
    path.write_text("name: loop\nrules: &r [*r]\n", encoding="utf-8")
    with pytest.raises(PolicyError, match=r"rules\[0\]"):
        PrecisionPolicy.from_yaml(path)


@pytest.mark.parametrize("content", ["", "- a\n- b\n", "just text\n"])
def test_a_file_that_holds_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(PolicyError, match="expected a mapping with keys version, name"):
        PrecisionPolicy.from_yaml(path)


def test_a_policy_without_a_name_is_refused() -> None:
    with pytest.raises(PolicyError, match="the policy has no name"):
        PrecisionPolicy.from_dict({"defaults": {}})


@pytest.mark.parametrize("version", [2, 0, "1", True, None, 1.0])
def test_an_unknown_version_is_refused_with_the_remedy_before_its_unknown_keys(version: object) -> None:
    with pytest.raises(PolicyError, match=r"version: policy version .* upgrade mx-plugin"):
        PrecisionPolicy.from_dict({"version": version, "name": "x", "new_key": 1})


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes("name: café\n".encode("latin-1"))
    with pytest.raises(PolicyError, match=r"latin\.yaml: not UTF-8"):
        PrecisionPolicy.from_yaml(path)


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: marked\n")
    assert PrecisionPolicy.from_yaml(path).name == "marked"
