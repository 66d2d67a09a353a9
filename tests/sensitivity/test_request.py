"""Requests that cannot be met are refused before anything is measured, with the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mx_plugin.errors import AdoptionError, PluginError, PolicyError
from mx_plugin.precision import PrecisionPolicy, SensitivityMatrix
from mx_plugin.sensitivity import Batch, Profile, ProfileError, profile, summary
from tests.sensitivity.tiny import LAYERS, TinyModel, TinyScorer, tiny_batches


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"batches": []}, ProfileError, "role policy has no batches: the data set is empty"),
        (
            {"batches": [torch.zeros(0, 4, dtype=torch.int64)]},
            ProfileError,
            r"batch 0 of role .*shape \(0, 4\)",
        ),
        ({"batches": [{"x": "text"}]}, ProfileError, "batch 0 of role policy: .*found no tensor"),
        ({"batches": {"input_ids": 3}}, ProfileError, "a mapping by role; no roles are: input_ids"),
        ({"batches": ["text"]}, ProfileError, "a str is no batch"),
        ({"formats": "MXFP4"}, ProfileError, "give a list of names or pairs"),
        ({"formats": []}, ProfileError, "give a list of names or pairs"),
        ({"formats": ["MXPF4"]}, PolicyError, "did you mean 'MXFP4'"),
        ({"formats": ["FP16"]}, ProfileError, "FP16 means unquantised"),
        ({"phases": ["rolout"]}, PolicyError, "unknown phase 'rolout': did you mean 'rollout'"),
        ({"phases": ["reward"]}, ProfileError, "phase reward needs a model that scores"),
        ({"engine": "exakt"}, PolicyError, "unknown engine 'exakt': did you mean 'exact'"),
        ({"exclude": ["blocks.7"]}, ProfileError, r"exclude 'blocks.7' matches no adopted layer: did you mean"),
        ({"exclude": ["*"]}, ProfileError, "rollout/policy: no layer is left to profile"),
        ({"backend": "gpu"}, PluginError, "gpu"),
        ({"models": {"judge": TinyModel()}}, PolicyError, "unknown role 'judge'"),
        ({"pairs": [tuple(tiny_batches())]}, ProfileError, "pairs are for a reward model"),
        ({"output": "/nowhere/m.csv"}, ProfileError, "the folder /nowhere does not exist"),
        ({"output": "/tmp"}, ProfileError, "it is a folder"),
        ({"scale_rule": "ceil"}, ValueError, "unknown scale_rule 'ceil'"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {"batches": tiny_batches(), **changes}
    with pytest.raises(error, match=message):
        profile(TinyModel(), **arguments)


def test_masks_that_count_nothing_or_do_not_fit_are_refused() -> None:
    tokens = torch.zeros(2, 4, dtype=torch.int64)
    with pytest.raises(ProfileError, match="no position of the batch counts"):
        Batch({"input_ids": tokens, "attention_mask": torch.zeros(2, 4)})
    with pytest.raises(ProfileError, match=r"give bool of shape \(2, 4\)"):
        Batch({"input_ids": tokens}, torch.ones(2, 3, dtype=torch.bool))


def test_scores_that_are_all_alike_have_no_unit() -> None:
    class Constant(TinyScorer):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
            return super().forward(input_ids) * 0

    with pytest.raises(ProfileError, match="reward: 6 scores, all alike, have no standard deviation"):
        profile(TinyModel(), tiny_batches(), models={"reward": Constant()}, phases=["reward"])


def test_a_frozen_model_has_no_gradient_to_profile() -> None:
    frozen = TinyModel().requires_grad_(False)
    with pytest.raises(ProfileError, match="policy: no parameter requires a gradient"):
        profile(frozen, tiny_batches())
    assert profile(frozen, tiny_batches(), phases=["rollout"], formats=["MXFP4"]).correlations


def test_a_model_without_linear_layers_or_logits_is_refused() -> None:
    with pytest.raises(AdoptionError, match="no layer to adopt"):
        profile(nn.Embedding(4, 4), tiny_batches())

    class Wordless(TinyModel):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> Any:
            return object()

    with pytest.raises(ProfileError, match="returned a object without logits"):
        profile(Wordless(), tiny_batches(), phases=["rollout"])


def test_pairs_of_different_size_are_refused() -> None:
    pair = ({"input_ids": torch.zeros(2, 4, dtype=torch.int64)}, {"input_ids": torch.zeros(3, 4, dtype=torch.int64)})
    with pytest.raises(ProfileError, match="pair 0: 2 chosen texts but 3 rejected ones"):
        profile(TinyModel(), tiny_batches(), models={"reward": TinyScorer()}, pairs=[pair])


# ---------------------------------------------------------------------------- what comes out


def test_the_file_is_a_sensitivity_matrix_that_policy_d_reads(tmp_path: Path) -> None:
    path = tmp_path / "matrix.csv"
    found = profile(TinyModel(), tiny_batches(), formats=["MXFP8", "MXFP4"], output=path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["matrix.csv", "matrix.json"]
    matrix = SensitivityMatrix.read(path)
    assert matrix == found.matrix()
    assert {row.metric for row in matrix.rows} == {"kl", "gradient_error"}
    assert SensitivityMatrix.read(path, {"rollout": "kl_all_but"}).rows[0].cost == found.rows_of("kl_all_but")[0].cost
    first = matrix.rows[0]
    assert (first.in_features, first.out_features, first.dtype, first.unit) == (64, 96, "float32", "nats/token")
    policy = PrecisionPolicy.from_matrix(matrix, {"rollout": 1e9, "gradient": 0})
    assert policy.resolve("blocks.0.up", "rollout") == "MXFP4"
    assert policy.resolve("blocks.0.up", "gradient") == "FP16"
    assert Profile.read(path).whole == found.whole


def test_what_was_left_out_and_excluded_is_listed() -> None:
    found = profile(TinyModel(), tiny_batches(), formats=["MXFP4"], phases=["rollout"], exclude=["lm_head", "blocks.1"])
    assert "policy embed: embedding" in found.left_out
    assert {x for x in found.left_out if x.endswith("excluded")} == {
        "policy lm_head: excluded", "policy blocks.1.up: excluded", "policy blocks.1.down: excluded"
    }  # fmt: skip
    assert {row.layer for row in found.rows} == {name for name in LAYERS if not name.startswith("blocks.1")}


def test_the_summary_ranks_layers_and_shows_what_the_whole_model_costs() -> None:
    found = profile(TinyModel(), tiny_batches(), formats=["MXFP8", "MXFP4"], phases=["rollout"])
    text = summary(found, layers=3)
    lines = text.splitlines()
    assert lines[0] == "rollout/policy: kl in nats/token, 7 layers"
    assert lines[1].split() == ["layer,", "quantised", "alone", "MXFP8", "MXFP4", "all", "but", "it", "in", "MXFP4"]
    costs = {layer: cost for (layer, fmt), cost in found.costs("kl").items() if fmt == "MXFP4"}
    assert [line.split()[0] for line in lines[2:5]] == sorted(costs, key=lambda name: -costs[name])[:3]
    assert "all layers at once" in text and "rank correlation" in text
