"""``mx-plugin profile`` and ``policy search --verify``: from a model and prompts to a matrix, a policy, a verdict."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mx_plugin.cli.main import main
from mx_plugin.precision import load_policy

if TYPE_CHECKING:
    from mx_trl.embedded import EmbeddedFolder

Capture = pytest.CaptureFixture[str]

COLUMNS = ["layer", "phase", "role", "format", "cost", "metric", "unit"]


@pytest.fixture(scope="session")
def small(embedded: EmbeddedFolder) -> list[str]:
    """The options of a profile that takes a second or two; ``policy search --verify`` takes them too."""
    return [
        "--dataset", str(embedded.prompts), "--num_prompts", "8", "--generate", "8", "--max_length", "64",
        "--batch_size", "8",
    ]  # fmt: skip


def test_from_a_model_to_a_matrix_a_policy_and_a_verdict(
    tmp_path: Path, embedded: EmbeddedFolder, small: list[str], capsys: Capture
) -> None:
    matrix, picture, policy = (str(tmp_path / name) for name in ("m.csv", "m.svg", "p.yaml"))
    profile = ["profile", "--model", str(embedded.policy), *small, "--output", matrix, "--heatmap", picture]
    profile += ["--reward_model", str(embedded.reward), "--formats", "MXFP8/MXFP4"]
    assert main(profile) == 0
    said = capsys.readouterr()
    assert "rollout/policy: kl in nats/token" in said.out and "sum of layers alone" in said.out
    assert "reward/reward: score_error in standard deviations" in said.out
    assert re.search(r"fast estimate of kl: rank correlation -?\d\.\d\d \(\d+ costs\)", said.out)
    assert "left: gradient/policy" in said.err  # the progress bar
    with open(matrix, encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert list(rows[0])[:7] == COLUMNS
    assert {(row["phase"], row["role"]) for row in rows} == {
        ("rollout", "policy"), ("reward", "reward"), ("gradient", "policy")
    }  # fmt: skip
    assert {row["format"] for row in rows} == {"MXFP8/MXFP4"}
    assert {row["unit"] for row in rows if row["metric"] == "kl_all_but"} == {"nats/token"}
    assert Path(picture).read_text(encoding="utf-8").startswith("<svg")

    before = Path(matrix).read_bytes()
    assert main([*profile, "--resume"]) == 0  # finished: read, not measured again
    assert Path(matrix).read_bytes() == before

    capsys.readouterr()
    search = ["policy", "search", "--matrix", matrix, "--budget", "rollout=0.01", "--output", policy]
    assert main([*search, "--verify", "20", "--model", str(embedded.policy), *small]) == 0
    verdict = capsys.readouterr().out
    assert re.search(r"rollout/policy: R\^2 -?\d+\.\d{3} of predicted against measured cost over 20 random", verdict)
    assert re.search(r"rollout/policy: the chosen policy: predicted .*, measured .*", verdict)
    assert re.search(r"step-0 mismatch, rollout against gradient formats: KL \S+ nats a token", verdict)
    assert load_policy(policy).name == "searched"


def test_a_matrix_for_another_model_names_the_first_layers_that_differ(
    tmp_path: Path, embedded: EmbeddedFolder, small: list[str], capsys: Capture
) -> None:
    matrix = tmp_path / "m.csv"
    matrix.write_text(
        "layer,phase,format,cost,metric,unit,in_features,out_features,dtype\n"
        "model.layers.77.mlp.up_proj,rollout,MXFP4,0.01,kl,nats/token,64,64,float32\n"
        "model.layers.78.mlp.up_proj,rollout,MXFP4,0.01,kl,nats/token,64,64,float32\n"
    )
    search = ["policy", "search", "--matrix", str(matrix), "--budget", "rollout=0.01", "--verify", "20"]
    assert main([*search, "--model", str(embedded.policy), *small]) == 2
    said = capsys.readouterr().err
    assert "model.layers.77.mlp.up_proj" in said and "model.layers.78.mlp.up_proj" in said


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], [], "has no rows, so there is nothing to profile on"),
        ([{"label": 1}], [], "no column of the data set is known to hold prompts (label): name one by --prompt_from"),
        ([{"prompt": "a b " * 200}], [], "all 1 prompts are longer than 32 tokens (the shortest has"),
        ([{"prompt": "a b"}], ["--max_length", "65"], "--max_length 65 exceeds the context of"),
        ([{"prompt": "a b"}], ["--generate", "64"], "leaves no room for a prompt in --max_length 64"),
        (
            [{"prompt": "a b"}],
            ["--phases", "reward"],
            "--phases reward needs a model that scores: give --reward_m",
        ),
        ([{"prompt": "a b"}], ["--formats", "MXFP5"], "MXFP5"),
        ([{"prompt": "a b"}], ["--heatmap", "map.png"], "the ending '.png' cannot be drawn; give .svg or .html"),
        ([{"prompt": "a b"}], ["--exclude", "*.nothing"], "exclude '*.nothing' matches no adopted layer"),
    ],
)
def test_bad_input_is_one_message_with_the_remedy(
    tmp_path: Path,
    embedded: EmbeddedFolder,
    capsys: Capture,
    rows: list[dict[str, object]],
    options: list[str],
    message: str,
) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    arguments = ["profile", "--model", str(embedded.policy), "--dataset", str(data), "--max_length", "64"]
    assert main([*arguments, *options, "--output", str(tmp_path / "m.csv")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "m.csv").exists()


def test_an_unfinished_profile_of_another_model_is_not_continued(
    tmp_path: Path, embedded: EmbeddedFolder, small: list[str], capsys: Capture
) -> None:
    output = tmp_path / "m.csv"
    short = ["--formats", "MXFP8", "--phases", "rollout", "--engine", "fast", "--output", str(output)]
    assert main(["profile", "--model", str(embedded.policy), *small, *short]) == 0
    from safetensors.torch import load_file, save_file

    other = tmp_path / "other"
    shutil.copytree(embedded.policy, other)
    weights = load_file(other / "model.safetensors")
    changed = next(name for name in weights if name.endswith("0.self_attn.q_proj.weight"))
    save_file(weights | {changed: weights[changed] * 2}, other / "model.safetensors", metadata={"format": "pt"})
    capsys.readouterr()
    assert main(["profile", "--model", str(other), *small, *short, "--resume"]) == 2
    assert f"the weights of {changed.removesuffix('.weight')} differ" in capsys.readouterr().err


def test_critics_and_references_are_profiled_under_their_own_names(
    tmp_path: Path, embedded: EmbeddedFolder, small: list[str]
) -> None:
    output = tmp_path / "m.csv"
    profile = ["profile", "--model", str(embedded.policy), *small, "--output", str(output), "--phases", "reward"]
    profile += ["--reference_model", str(embedded.policy), "--value_model", str(embedded.reward), "--formats", "MXFP4"]
    assert main([*profile, "--engine", "fast"]) == 0
    with output.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert {(row["role"], row["metric"]) for row in rows} == {
        ("value", "score_error_estimate"), ("reference", "kl_estimate")
    }  # fmt: skip
    names = {role: {row["layer"] for row in rows if row["role"] == role} for role in ("value", "reference")}
    from mx_trl.models import load_scorer

    critic = {name for name, _ in load_scorer(str(embedded.reward), "critic").named_modules()}
    assert names["value"] and names["value"] <= critic
    for role in names:
        assert max(float(row["cost"]) for row in rows if row["role"] == role) > 0
