"""What must hold of any plan: it is a maximum over instants, and no size that grows makes it smaller."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mx_plugin
from mx_trl.memory.fitting import largest_batch
from mx_trl.memory.placement import place
from mx_trl.memory.planner import plan
from mx_trl.memory.request import STAGES, Request, read_bytes
from mx_trl.memory.roles import RoleMemory, packed_bytes, roles_of
from mx_trl.memory.suggestions import suggestions
from mx_trl.memory.terms import Instant, Plan, Term

MODEL = "stories15m"


@cache
def known(stage: str, policy: str = "none") -> dict[str, RoleMemory]:
    return roles_of(Request(MODEL, stage=stage, policy=policy, beta=0.1, reward_model=MODEL))


sizes = st.fixed_dictionaries({
    "batch": st.integers(1, 16),
    "accumulation": st.integers(1, 4),
    "prompt_length": st.integers(1, 100),
    "response_length": st.integers(1, 100),
    "rollout_batch": st.integers(1, 64),
})  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(sizes, st.sampled_from(STAGES), st.sampled_from(["batch", "prompt_length", "response_length"]), st.booleans())
def test_no_phase_needs_less_when_a_size_grows(asked: dict[str, Any], stage: str, grown: str, mx: bool) -> None:
    policy = "C" if mx else "none"
    small = Request(MODEL, stage=stage, policy=policy, beta=0.1, reward_model=MODEL, **asked)
    large = replace(small, **{grown: asked[grown] + 1})
    before, after = plan(small, known(stage, policy)), plan(large, known(stage, policy))
    for phase in before.phases:
        assert before.peak(phase) <= after.peak(phase)


@settings(max_examples=30, deadline=None)
@given(sizes, st.sampled_from(STAGES))
def test_checkpointing_and_smaller_rollouts_never_need_more(asked: dict[str, Any], stage: str) -> None:
    request = Request(MODEL, stage=stage, beta=0.1, reward_model=MODEL, **asked)
    roles, now = known(stage), plan(request, known(stage))
    layers = plan(replace(request, gradient_checkpointing=True), roles)
    assert layers.instants[0].bytes <= now.instants[0].bytes
    if stage == "ppo":
        assert plan(replace(request, rollout_batch=1), roles).peak("reward") <= now.peak("reward")


def test_a_peak_is_a_maximum_over_instants_and_no_sum() -> None:
    weights, small, large = Term("weights", "policy", 100), Term("a", "policy", 5), Term("b", "value", 7)
    made = Plan((weights,), (Instant("one", "rollout", (small,)), Instant("two", "rollout", (large,))))
    assert made.peak() == made.peak("rollout") == 107
    assert made.at("rollout").name == "two"
    assert [term.kind for term in made.terms("rollout")] == ["weights", "b"]


@pytest.mark.parametrize("fmt", ["MXFP4", "MXFP6", "MXFP8", "MXINT8"])
@pytest.mark.parametrize("shape", [(8, 64), (48, 288), (5, 40)])
def test_packed_bytes_are_those_of_a_packed_weight(fmt: str, shape: tuple[int, int]) -> None:
    packed = mx_plugin.quantize(torch.randn(shape), fmt)
    assert packed_bytes(*shape, fmt) == packed.nbytes


def test_weights_are_those_of_the_loaded_model() -> None:
    from transformers import AutoModelForCausalLM

    from mx_trl.memory.configs import load_config

    model = AutoModelForCausalLM.from_config(load_config(MODEL))
    parameters = sum(parameter.nbytes for parameter in model.parameters())
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    assert known("sft")["policy"].weights == parameters + buffers
    assert known("sft")["policy"].trained == parameters


def test_policy_c_packs_what_each_role_executes() -> None:
    roles = known("ppo", "C")
    assert set(roles["policy"].packed) == {"MXFP4", "MXFP8"}  # rollout, and its output head
    assert set(roles["value"].packed) == set(roles["reward"].packed) == {"MXFP8"}
    assert set(roles["reference"].packed) == {"MXFP4"}  # PPO's matches the sampler
    assert all(not role.packed for role in known("ppo", "A").values())


def test_released_weights_are_gone_and_their_packed_copies_stay() -> None:
    kept, released = (Request(MODEL, policy="C", release_frozen=flag) for flag in (False, True))
    before, after = plan(kept), plan(released)
    gone = sum(term.bytes for term in after.released)
    assert {term.role for term in after.released} == {"reference", "reward"}
    assert gone > 0
    assert before.peak("gradient") - after.peak("gradient") == gone


def test_the_largest_batch_fits_and_one_more_does_not() -> None:
    request = Request(MODEL, policy="C", prompt_length=32, response_length=32)
    limit = read_bytes("1GiB")
    fit = largest_batch(request, limit)
    assert fit.peak <= limit < plan(replace(request, batch=fit.batch + 1)).peak()


def test_suggestions_are_ranked_and_their_peaks_are_the_planners_own() -> None:
    request = Request(MODEL, stage="ppo", policy="C", prompt_length=32, response_length=32)
    found = suggestions(request)
    assert [each.saved for each in found] == sorted((each.saved for each in found), reverse=True)
    by_name = {each.what: each for each in found}
    alone = by_name["share a trunk"]
    assert alone.peak == plan(replace(request, **alone.changes)).peak() == plan(request).peak() - alone.saved


def test_two_devices_hold_every_role_once_and_need_less_each() -> None:
    made = plan(Request(MODEL), known("ppo"))
    devices = place(made, 2)
    assert sorted(role for device in devices for role in device.roles) == ["policy", "reference", "reward", "value"]
    assert max(device.peak for device in devices) < made.peak()


def test_a_folder_a_file_and_a_known_shape_give_the_same_plan(tmp_path: Path) -> None:
    from mx_trl.memory.configs import KNOWN

    (tmp_path / "config.json").write_text(json.dumps(KNOWN[MODEL]))
    peaks = {plan(Request(str(model), stage="sft")).peak() for model in (tmp_path, tmp_path / "config.json", MODEL)}
    assert len(peaks) == 1
