"""Running mean and deviation, clipping, and a state that comes back bit for bit."""

from __future__ import annotations

import json
import statistics
from typing import Any

import pytest
import torch

from mx_plugin.execution.phases import TRACKER
from mx_trl.embedded import EmbeddedFolder
from mx_trl.errors import StageError
from mx_trl.models import load_scorer, load_tokenizer
from mx_trl.rewards import find_rule
from mx_trl.rewards.shaped_model import shape_head, shape_scores
from mx_trl.rewards.shaping import ShapedRule, Shaping


def test_scores_are_relative_to_all_scores_so_far() -> None:
    shaping = Shaping(normalise=True)
    scores = [3.0, 1.0, 4.0, 1.5, 9.25, 2.0]
    shaping(scores[:2])
    shaped = shaping(scores[2:])
    mean, std = statistics.fmean(scores), statistics.stdev(scores)
    assert shaped == pytest.approx([(score - mean) / std for score in scores[2:]], rel=1e-12)


def test_alike_scores_are_centred_and_nothing_is_divided_by_zero() -> None:
    shaping = Shaping(normalise=True)
    assert shaping([5.0]) == [0.0]
    assert shaping([5.0, 5.0]) == [0.0, 0.0]


def test_clipping_comes_last() -> None:
    assert Shaping(clip=0.5)([-2.0, 0.25, 2.0]) == [-0.5, 0.25, 0.5]
    assert max(Shaping(normalise=True, clip=1.0)([0.0] * 30 + [1000.0])) == 1.0


def test_evaluation_is_shaped_but_not_counted() -> None:
    shaping = Shaping(normalise=True)
    shaping([1.0, 2.0, 3.0])
    before = shaping.state_dict()
    with TRACKER.evaluating():
        assert shaping([2.0, 3.0]) == [0.0, 1.0]
    assert shaping.state_dict() == before


def test_a_state_through_json_goes_on_bit_for_bit() -> None:
    numbers = torch.randn(64, generator=torch.Generator().manual_seed(1), dtype=torch.float64).tolist()
    unbroken, first, second = (Shaping(normalise=True, clip=2.0) for _ in range(3))
    unbroken(numbers[:40])
    first(numbers[:40])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second(numbers[40:]) == unbroken(numbers[40:])
    assert second.state_dict() == unbroken.state_dict()


@pytest.mark.parametrize("clip", [0.0, -1.0, float("nan")])
def test_a_clip_that_keeps_nothing_is_refused(clip: float) -> None:
    with pytest.raises(StageError, match="must be above 0"):
        Shaping(clip=clip)


def test_what_would_spoil_the_mean_is_refused() -> None:
    with pytest.raises(StageError, match="a reward of nan cannot be shaped"):
        Shaping(normalise=True)([1.0, float("nan")])
    with pytest.raises(StageError, match="no state of reward shaping"):
        Shaping().load_state_dict({"mean": 1.0})


def test_a_shaped_rule_keeps_name_and_columns() -> None:
    rule = ShapedRule(find_rule("gsm8k"), Shaping(clip=0.5))
    assert (rule.__name__, rule.columns) == ("gsm8k", ("answer",))
    assert rule(prompts=["?"], completions=["7", "8"], answer=["7", "7"]) == [0.5, 0.0]


# ---------------------------------------------------------------------------- models

WIDTH = 6


def scorer(embedded: EmbeddedFolder) -> Any:
    """A reward model that scores no two texts alike."""
    model = load_scorer(str(embedded.reward), "reward")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model


@pytest.mark.trl("<1.13")
def test_ppo_reads_the_shaped_score_of_a_model(embedded: EmbeddedFolder) -> None:
    from trl.experimental.utils import get_reward

    pad = load_tokenizer(str(embedded.reward)).pad_token_id
    table = torch.randint(5, 800, (4, WIDTH + 5), generator=torch.Generator().manual_seed(2))
    table[0, :3] = pad  # a shorter prompt
    table[1, WIDTH + 2 :] = pad  # a shorter response
    table[2, WIDTH:] = pad  # none
    model = scorer(embedded)
    with torch.no_grad():
        plain = get_reward(model, table, pad, WIDTH)[1]
        shape_head(model, Shaping(normalise=True, clip=1.0), WIDTH)
        found = get_reward(model, table, pad, WIDTH)[1]
    assert plain.unique().numel() == 4
    assert found.tolist() == pytest.approx(Shaping(normalise=True, clip=1.0)(plain.tolist()))


def test_grpo_reads_the_shaped_score_of_a_model(embedded: EmbeddedFolder) -> None:
    model = scorer(embedded)
    ids = torch.randint(5, 800, (3, 7), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        plain = model(input_ids=ids).logits[:, 0]
        shape_scores(model, Shaping(normalise=True))
        found = model(input_ids=ids).logits[:, 0]
    assert found.tolist() == pytest.approx(Shaping(normalise=True)(plain.tolist()))
    assert model.shaping.moments.count == 3
