"""Estimated energy: the built-in table is sound, and each target uses it as it says."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml

from mx_plugin.errors import PluginError
from mx_plugin.formats.spec import BLOCK_SIZE, format_names, get_format
from mx_plugin.interfaces import Work
from mx_plugin.ledger.energy_table import BUILT_IN, load_table
from mx_plugin.ledger.modelled import ModelledMeter

ASIC = "projected:mx-asic-45nm"
MACS = Work("policy", "MXFP4/MXFP8", "float32", macs=10**12)


def changed(tmp_path: Path, edit) -> Path:
    """The built-in table after ``edit``, in a file of its own."""
    data = yaml.safe_load(BUILT_IN.read_text(encoding="utf-8"))
    edit(data)
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    return file


def test_every_built_in_energy_names_its_source_and_lies_within_its_range():
    table = load_table()
    for target in table.targets.values():
        for energy in (*target.mac.values(), *target.memory.values(), target.cast):
            assert energy.low <= energy.mid <= energy.high
            assert all(table.sources[name]["cite"] and table.sources[name]["where"] for name in energy.source)
            assert energy.derivation


@pytest.mark.parametrize(
    ("target", "key", "picojoules"),
    [
        ("as-executed", "float32", 1.31 + 0.38),  # Jouppi et al. 2021, table 2, 7 nm
        ("as-executed", "bfloat16", 0.21 + 0.38),
        ("as-executed", "float16", 0.34 + 0.38),
        ("as-executed", "int8", 0.07 + 0.03),
        (ASIC, "float32", 3.7 + 0.9),  # Horowitz 2014, 45 nm
        (ASIC, "float16", 1.1 + 0.9),
    ],
)
def test_a_published_mac_is_the_sources_multiply_plus_add(target, key, picojoules):
    energy = load_table().targets[target].mac[key]
    assert energy.kind == "published"
    assert energy.mid == pytest.approx(picojoules, rel=1e-9)


def exact_block_sum_bits(element) -> int:
    """Width that holds any sum of 32 products of the element exactly: sign, and its range in units of the
    product of two smallest steps."""
    step = 2.0 ** (element.emin - element.mantissa_bits)
    largest = element.max / step
    return math.ceil(math.log2(largest * largest)) + 1 + int(math.log2(BLOCK_SIZE))


@pytest.mark.parametrize("name", format_names()[:6])
def test_a_derived_mx_mac_follows_from_the_formats_own_widths_as_the_note_says(name):
    element = get_format(name).element
    width = exact_block_sum_bits(element)
    significand = 8 if element.is_integer else element.mantissa_bits + 1
    exponent = 0.0 if element.is_integer else 0.03 * (element.exponent_bits + 1) / 8
    adds = 1 if element.is_integer else 2
    expected = 0.2 * (significand / 8) ** 2 + exponent + adds * 0.1 * width / 32 + (0.9 + 0.03) / BLOCK_SIZE
    energy = load_table().targets[ASIC].mac[name]
    assert energy.kind == "derived"
    assert energy.mid == pytest.approx(expected, rel=0.01)


def test_hbm2_is_the_published_energy_per_bit_times_eight():
    assert load_table().targets["as-executed"].memory["hbm2"].mid == pytest.approx(3.92 * 8)


def test_as_executed_depends_on_the_dtype_that_was_multiplied_and_not_on_the_format():
    meter = ModelledMeter()
    mx = meter.estimate(MACS)
    plain = meter.estimate(Work("policy", "FP16", "float32", macs=10**12))
    narrow = meter.estimate(Work("policy", "MXFP4/MXFP8", "bfloat16", macs=10**12))
    assert mx.joules == plain.joules == pytest.approx(1.69)
    assert narrow.joules == pytest.approx(0.59)
    assert mx.source == "modelled:as-executed" and mx.estimated


def test_joules_are_the_sum_of_macs_bytes_and_casts():
    work = Work("policy", "MXFP4/MXFP8", "float32", 10, 3, 4, 5, cast_elements=7)
    estimate = ModelledMeter().estimate(work)
    assert estimate.joules == pytest.approx((10 * 1.69 + 12 * 162.5 + 7 * 2.07) * 1e-12)
    assert set(estimate.domains) == {"mac", "memory", "cast"}
    assert sum(estimate.domains.values()) == pytest.approx(estimate.joules)


def test_the_bounds_enclose_the_estimate():
    meter = ModelledMeter()
    work = Work("policy", "MXFP4/MXFP8", "float32", 10, 3, 4, 5, cast_elements=7)
    low, mid, high = meter.bounds(work)
    assert low < mid < high and mid == pytest.approx(meter.estimate(work).joules)


def test_memory_can_be_chosen_and_an_unknown_one_is_refused():
    bytes_only = Work("policy", "FP16", "float32", weight_bytes=10**12)
    assert ModelledMeter(memory="hbm2").estimate(bytes_only).joules == pytest.approx(31.36)
    with pytest.raises(PluginError, match=r"no memory 'hbm22': did you mean 'hbm2'"):
        ModelledMeter(memory="hbm22")


def test_a_dtype_that_the_table_does_not_know_reads_unknown_and_says_which_key_is_missing():
    meter = ModelledMeter()
    work = Work("policy", "FP16", "complex64", macs=1)
    estimate = meter.estimate(work)
    assert estimate.joules is None and "mac.complex64" in estimate.why
    assert meter.bounds(work) is None


def test_work_without_macs_needs_no_mac_energy():
    assert ModelledMeter().estimate(Work("policy", "MXFP4", "complex64", cast_elements=1)).joules is not None


def test_a_projected_device_takes_the_energy_of_the_format():
    meter = ModelledMeter(target=ASIC)
    by_format = {f: meter.estimate(Work("policy", f, "float32", macs=10**12)).joules for f in ("FP16", "MXFP4/MXFP4")}
    assert by_format["FP16"] == pytest.approx(4.6)
    assert by_format["MXFP4/MXFP4"] == pytest.approx(0.14)
    assert meter.source == f"modelled:{ASIC}"


@pytest.mark.parametrize(
    ("fmt", "as_costly_as"),
    [
        ("MXFP4/MXFP8", "MXFP8"),
        ("MXFP4/FP16", "float32"),
        ("FP16[bfloat16]", "bfloat16"),
        ("MXFP8_E5M2/MXFP8+sr+rht", "MXFP8_E5M2"),
        ("MXINT8", "MXINT8"),
    ],
)
def test_a_mixed_pair_on_a_projected_device_costs_what_its_costlier_side_costs(fmt, as_costly_as):
    meter = ModelledMeter(target=ASIC)
    estimate = meter.estimate(Work("policy", fmt, "float32", macs=10**12))
    assert estimate.joules == pytest.approx(meter.target.mac[as_costly_as].mid)


def test_a_pair_that_the_device_lists_is_taken_as_listed(tmp_path):
    entry = {"pj": 9.0, "range": [9.0, 9.0], "kind": "published", "source": "horowitz2014"}
    table = changed(tmp_path, lambda data: data["targets"][ASIC]["mac"].update({"MXFP4/MXFP8": entry}))
    assert ModelledMeter(table, ASIC).estimate(MACS).joules == pytest.approx(9.0)


def test_a_window_is_never_measured():
    meter = ModelledMeter()
    meter.begin_window("rollout")
    measured = meter.end_window("rollout")
    assert measured.joules is None and "estimate" in measured.why


def test_a_users_table_replaces_the_built_in_one(tmp_path):
    table = changed(tmp_path, lambda data: data["targets"]["as-executed"]["mac"]["float32"].update(pj=2.0))
    meter = ModelledMeter(table=str(table))
    assert meter.estimate(MACS).joules == pytest.approx(2.0)
    assert meter.describe()["table"] == "mine.yaml"


def test_an_unknown_target_names_the_nearest():
    with pytest.raises(PluginError, match="did you mean 'as-executed'"):
        ModelledMeter(target="as_executed")


MISTAKES = {
    "targets.as-executed.mac.float32.pj is -1": lambda d: d["targets"]["as-executed"]["mac"]["float32"].update(pj=-1),
    "targets.as-executed.mac.float32.pj is 'much'": lambda d: d["targets"]["as-executed"]["mac"]["float32"].update(
        pj="much"
    ),
    "targets.as-executed.mac.float32.range is missing": lambda d: d["targets"]["as-executed"]["mac"]["float32"].pop(
        "range"
    ),
    "mac.float32.range is [5.0, 6.0] and does not contain": lambda d: d["targets"]["as-executed"]["mac"][
        "float32"
    ].update(range=[5.0, 6.0]),
    "mac.float32.kind is 'guessed'": lambda d: d["targets"]["as-executed"]["mac"]["float32"].update(kind="guessed"),
    "mac.float64.derivation is missing": lambda d: d["targets"]["as-executed"]["mac"]["float64"].pop("derivation"),
    "cites 'jouppi', which is not in sources: did you mean 'jouppi2021'": lambda d: d["targets"]["as-executed"][
        "cast"
    ].update(source=["jouppi"]),
    "targets.as-executed.memry is not a known key: did you mean 'memory'": lambda d: d["targets"]["as-executed"].update(
        memry={}
    ),
    "targets.as-executed.memory is empty": lambda d: d["targets"]["as-executed"].update(memory={}),
    "targets.asic is not a target": lambda d: d["targets"].update(asic=d["targets"][ASIC]),
    "version is 2": lambda d: d.update(version=2),
    "sources is missing": lambda d: d.pop("sources"),
}


@pytest.mark.parametrize("complaint", MISTAKES)
def test_a_bad_table_is_refused_with_the_file_and_the_key(tmp_path, complaint):
    file = changed(tmp_path, MISTAKES[complaint])
    with pytest.raises(PluginError) as raised:
        load_table(file)
    assert complaint in str(raised.value) and str(file) in str(raised.value)


@pytest.mark.parametrize("text", ["version: [1", "- 1", "", "\x00"])
def test_a_file_that_is_not_such_a_table_is_refused_by_name(tmp_path, text):
    file = tmp_path / "broken.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(PluginError, match=r"broken\.yaml"):
        load_table(file)


def test_a_missing_table_is_refused_by_name(tmp_path):
    with pytest.raises(PluginError, match=r"nowhere\.yaml"):
        load_table(tmp_path / "nowhere.yaml")
