"""``mx-plugin bench decode|step`` on tiny models: every row, its arithmetic, and models that are left alone."""

from __future__ import annotations

import argparse
import re
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mx_plugin import plugins
from mx_plugin.bench import Bench, BenchUnavailable, Effort
from mx_plugin.errors import MXError


def bench_with(**options: Any) -> Bench:
    return Bench(argparse.Namespace(**options), "cpu", Effort(0.0), 1e9, rotated_bytes=1, report=lambda text: None)


def tiny(**sizes: Any) -> Any:
    """Two layers, 64 wide, 100 tokens."""
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=100, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=128, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=None, pad_token_id=0, **sizes,
    )  # fmt: skip


# ---------------------------------------------------------------------------- decode


def test_decode_compares_policy_c_with_the_plain_model_of_each_dtype() -> None:
    from mx_trl.bench.decode import decode_rows

    bench = bench_with(tokens=3)
    rows = list(decode_rows(bench, tiny()))
    assert [(row.case.split()[0], row.what, row.target, row.stretch) for row in rows] == [
        ("bfloat16", "plain", None, None),
        ("bfloat16", "policy C", 2.3, 3.0),
        ("float32", "plain", None, None),
        ("float32", "policy C", 5.0, 7.0),
    ]
    for plain, quantised in (rows[:2], rows[2:]):
        assert plain.ratio == 1.0
        assert quantised.ratio == plain.seconds / quantised.seconds
        assert quantised.note == f"{4 * 3 / quantised.seconds:.1f} tokens/s"
    assert len(bench.notes) == 2 and all("packing anew" in note for note in bench.notes)


def test_a_twin_shares_every_parameter_and_adopting_it_leaves_the_first_alone() -> None:
    from transformers import Qwen2ForCausalLM

    from mx_plugin.execution.layer import adopted
    from mx_trl.bench.decode import _adopted, twin

    model = Qwen2ForCausalLM(tiny()).eval()
    second = twin(model)
    assert {id(p) for p in second.parameters()} == {id(p) for p in model.parameters()}
    with ExitStack() as stack:
        _adopted(bench_with(), second, stack)
        assert adopted(second.lm_head) and not adopted(model.lm_head)


def test_decode_has_the_shape_of_qwen2_half_a_billion() -> None:
    from transformers import Qwen2ForCausalLM

    from mx_trl.bench.decode import qwen2_half_billion

    with torch.device("meta"):
        model = Qwen2ForCausalLM(qwen2_half_billion())
    assert sum(parameter.numel() for parameter in model.parameters()) == 494_032_768


def test_decode_refuses_to_generate_nothing() -> None:
    from mx_trl.bench.decode import decode_rows

    with pytest.raises(MXError, match="--tokens 0: at least one token"):
        list(decode_rows(bench_with(tokens=0), tiny()))


# ---------------------------------------------------------------------------- step


@pytest.mark.slow
@pytest.mark.trl("<1.13")
def test_step_measures_every_variant_and_its_phases(monkeypatch: pytest.MonkeyPatch) -> None:
    from mx_trl.bench import ppo_setup, step

    monkeypatch.setattr(ppo_setup, "RESPONSE", 4)
    rows = list(step.step_rows(bench_with(rounds=1, ppo_epochs="1"), tiny()))
    assert [(row.case.split()[0], row.what, row.target) for row in rows] == [
        ("bfloat16", "plain TRL", None),
        ("bfloat16", "C, MXFP8 gradient", 1.2),
        ("bfloat16", "C, MXFP8 gradient, mismatch_every=0", None),
        ("bfloat16", "C (updates unquantised)", None),
        ("float32", "plain TRL", None),
        ("float32", "bf16 products, no casts", None),
        ("float32", "C, MXFP8 gradient", 1.5),
        ("float32", "C, MXFP8 gradient, mismatch_every=0", None),
        ("float32", "C (updates unquantised)", None),
    ]
    for group in (rows[:4], rows[4:]):
        assert [row.ratio for row in group] == [group[0].seconds / row.seconds for row in group]
    for row in rows:
        assert re.fullmatch(r"rollout \d+\.\d\d, reward \d+\.\d\d, gradient \d+\.\d\d s", row.note)


class Hours:
    """A clock that runs only when someone works."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_watch_tells_a_steps_phases_apart_and_takes_its_hooks_back() -> None:
    from mx_trl.bench.step import StepWatch

    clock = Hours()

    class Policy(torch.nn.Module):
        def generate(self) -> None:
            clock.now += 3

    trainer = SimpleNamespace(policy_model=Policy(), model=torch.nn.Identity())
    with StepWatch.on(trainer, clock) as watch:
        watch.on_train_begin()
        for reward in (2, 4):
            trainer.policy_model.generate()
            clock.now += reward
            for _ in range(4):
                trainer.model(torch.ones(1))
                clock.now += 5
            watch.on_step_end()
    trainer.policy_model.generate()
    trainer.model(torch.ones(1))
    assert watch.steps == [
        {"step": 25.0, "rollout": 3.0, "reward": 2.0, "gradient": 20.0},
        {"step": 27.0, "rollout": 3.0, "reward": 4.0, "gradient": 20.0},
    ]
    assert "generate" not in trainer.policy_model.__dict__ and not trainer.model._forward_pre_hooks


@pytest.mark.trl("<1.13")
def test_the_measured_model_has_46_million_weights() -> None:
    from transformers import Qwen2ForCausalLM

    from mx_trl.bench.ppo_setup import model_of_46_million

    with torch.device("meta"):
        model = Qwen2ForCausalLM(model_of_46_million())
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6) == 46


@pytest.mark.trl("<1.13")
def test_products_in_bf16_multiply_in_bf16_and_leave_no_trace(tmp_path: Any, ppo_imported: None) -> None:
    from mx_trl.bench.ppo_setup import make_trainer, products_in_bf16

    trainer = make_trainer(tmp_path, torch.float32, tiny())
    seen: list[torch.dtype] = []
    linear = trainer.policy_model.model.layers[0].mlp.up_proj
    linear.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    tokens = torch.ones(1, 4, dtype=torch.long)
    before = dict(trainer.policy_model.__dict__)
    with products_in_bf16(trainer):
        trainer.policy_model(tokens)
        trainer.policy_model.model(tokens)
        trainer.policy_model.generate(tokens, max_new_tokens=1, do_sample=False)
    trainer.policy_model(tokens)
    assert seen == [torch.bfloat16, torch.bfloat16, torch.bfloat16, torch.float32]
    assert trainer.policy_model.__dict__.keys() == before.keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0, "ppo_epochs": "4"}, "--rounds 0: at least one round"),
        ({"rounds": 1, "ppo_epochs": "1,x"}, "--ppo-epochs '1,x' is not a list of positive numbers"),
        ({"rounds": 1, "ppo_epochs": "0"}, "--ppo-epochs '0' is not a list"),
    ],
)
def test_step_refuses_what_it_cannot_measure(options: dict[str, Any], message: str) -> None:
    from mx_trl.bench.step import step_rows

    with pytest.raises(MXError, match=message):
        list(step_rows(bench_with(**options), tiny()))


@pytest.mark.trl(">=1.16")
def test_step_says_that_this_trl_has_no_ppo() -> None:
    from mx_trl.bench.step import step_rows

    with pytest.raises(BenchUnavailable, match=r"has no PPOTrainer \(1.12 is the last that has\)"):
        list(step_rows(bench_with(rounds=1, ppo_epochs="4"), tiny()))


# ---------------------------------------------------------------------------- registration


def test_a_missing_framework_makes_the_bench_unavailable_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mx_trl.plugin.find_spec", lambda name: None)
    with pytest.raises(BenchUnavailable, match=r"transformers is not installed: pip install 'transformers>=5'"):
        plugins.benches()["decode"].rows(bench_with(tokens=1))


def test_both_benches_are_registered_with_their_options() -> None:
    parser = argparse.ArgumentParser()
    for name in ("decode", "step"):
        add_arguments = plugins.benches()[name].add_arguments
        assert add_arguments is not None
        add_arguments(parser)
    assert vars(parser.parse_args([])) == {"tokens": 32, "rounds": 2, "ppo_epochs": "4"}
