"""The fast engine: estimates of the right size and order, from one backward pass."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mx_plugin.sensitivity import Batch, ProfileError, profile
from mx_plugin.sensitivity.correlation import spearman
from tests.sensitivity.tiny import VOCABULARY, TinyModel, TinyScorer, tiny_batches


def many(count: int = 24) -> list[Batch]:
    generator = torch.Generator().manual_seed(11)
    return [Batch({"input_ids": torch.randint(VOCABULARY, (8, 16), generator=generator)}) for _ in range(count // 8)]


@pytest.mark.parametrize(
    ("phase", "role", "metric"),
    [
        ("rollout", "policy", "kl"),
        ("reward", "reward", "score_error"),
        ("reward", "value", "score_error"),
        ("gradient", "policy", "gradient_error"),
    ],
)
def test_estimates_are_of_the_right_size_and_order(phase: str, role: str, metric: str) -> None:
    models = {"reward": TinyScorer(), "value": TinyScorer()} if phase == "reward" else {}
    found = profile(TinyModel(), many(), models=models, formats=["MXFP4", "MXFP6", "MXFP8"], phases=[phase])
    exact = found.costs(metric, phase=phase, role=role)
    estimated = found.costs(metric + "_estimate", phase=phase, role=role)
    assert exact.keys() == estimated.keys()
    ratios = [estimated[key] / exact[key] for key in exact]
    assert 0.6 < float(np.median(ratios)) < 1.6
    (correlation,) = (c for c in found.correlations if (c.phase, c.role, c.metric) == (phase, role, metric))
    assert correlation.all_formats == pytest.approx(spearman([*exact.values()], [estimated[k] for k in exact]))
    assert correlation.all_formats > 0.7


def test_alone_it_writes_estimates_only_and_a_policy_reads_them(tmp_path: Path) -> None:
    found = profile(TinyModel(), tiny_batches(), formats=["MXFP4"], engine="fast", output=tmp_path / "m.csv")
    assert {row.metric for row in found.rows} == {"kl_estimate", "gradient_error_estimate"}
    assert not found.whole and not found.correlations
    assert {row.metric for row in found.matrix().rows} == {"kl_estimate", "gradient_error_estimate"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.csv", "m.json"]


def test_the_same_seed_gives_the_same_estimates() -> None:
    first, second, other = (
        profile(TinyModel(), tiny_batches(), formats=["MXFP4"], engine="fast", seed=seed).rows for seed in (0, 0, 1)
    )
    assert first == second != other


def test_estimates_beside_exact_costs_are_those_of_the_fast_engine() -> None:
    exact = profile(TinyModel(), tiny_batches(), formats=["MXFP4"], phases=["rollout"])
    fast = profile(TinyModel(), tiny_batches(), formats=["MXFP4"], phases=["rollout"], engine="fast")
    assert exact.costs("kl_estimate") == fast.costs("kl_estimate")


class Stubborn(TinyModel):
    """Calls an attention kernel of which torch has no second derivative."""

    def hidden(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = super().hidden(input_ids).unsqueeze(1)
        y: torch.Tensor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(x, x, x, 0.0, True)[0]
        return y.squeeze(1)


def test_a_model_that_cannot_be_differentiated_twice_is_measured_and_not_estimated(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = profile(Stubborn(), tiny_batches(), formats=["MXFP4"], phases=["gradient"])
    assert found.costs("gradient_error", phase="gradient") and not found.correlations
    assert "no estimate, and so no rank correlation: gradient/policy: the fast engine cannot" in caplog.text
    with pytest.raises(ProfileError, match="gradient/policy: the fast engine cannot differentiate this model"):
        profile(Stubborn(), tiny_batches(), formats=["MXFP4"], phases=["gradient"], engine="fast")


def test_spearman_knows_order_ties_and_ignorance() -> None:
    assert spearman([1, 2, 3, 4], [10, 20, 25, 1e9]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    # Kendall and Gibbons, "Rank Correlation Methods": ties share their mean rank; by hand 0.9486832980505138.
    assert spearman([1, 2, 3, 4], [1, 2, 2, 3]) == pytest.approx(0.9486832980505138)
    assert spearman([1, 2, 3], [7, 7, 7]) is None
    assert spearman([1, 2], [1, 2]) is None
    assert spearman([1, 2, float("inf")], [1, 2, 3]) == pytest.approx(1)


@given(
    st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=3, max_size=30, unique_by=lambda p: p[0])
)
def test_without_ties_spearman_is_the_textbook_formula(points: list[tuple[int, int]]) -> None:
    points = [(a, b * 1000 + i) for i, (a, b) in enumerate(points)]  # no ties
    a, b = (np.argsort(np.argsort([p[side] for p in points])) for side in (0, 1))
    n = len(points)
    expected = 1 - 6 * float(((a - b) ** 2).sum()) / (n * (n * n - 1))
    assert spearman([p[0] for p in points], [p[1] for p in points]) == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.real_data
def test_on_a_real_model_fast_and_exact_agree_on_the_order_of_layers(stories260k: Path, tinystories: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(stories260k)
    model = transformers.AutoModelForCausalLM.from_pretrained(stories260k, dtype=torch.float32)
    with gzip.open(tinystories, "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for _, line in zip(range(8), lines, strict=False)]
    tokens = torch.tensor([tokenizer(text)["input_ids"][:32] for text in texts])
    found = profile(model, [{"input_ids": tokens, "use_cache": False}], formats=["MXFP4"])
    correlations = {c.metric: c.all_formats for c in found.correlations}
    assert correlations["kl"] > 0.6
    assert correlations["gradient_error"] > 0.4
