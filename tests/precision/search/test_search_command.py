"""``mx-plugin policy search``: from a CSV to a YAML that the reader loads and ``policy show`` shows."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from mx_plugin.cli import main, search_command
from mx_plugin.precision import PrecisionPolicy, SensitivityMatrix
from tests.precision.search.matrices import row

Capture = pytest.CaptureFixture[str]

ROWS = (
    row("h.0.up", "MXFP4", 0.03, size=(96, 64)),
    row("h.0.up", "MXFP8", 0.004, size=(96, 64)),
    row("h.1.up", "MXFP4", 0.012, size=(96, 64)),
    row("h.1.up", "MXFP8", 0.001, size=(96, 64)),
    row("h.0.up", "MXFP8", 0.05, ("gradient", "policy"), size=(96, 64)),
    row("score.up", "MXFP8", 0.01, ("reward", "reward"), size=(32, 64)),
)


@pytest.fixture
def matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    SensitivityMatrix(ROWS).write("matrix.csv")
    return "matrix.csv"


def search(*arguments: str) -> int:
    return main(["policy", "search", *arguments])


def test_the_policy_is_written_loaded_and_shown(matrix: str, capsys: Capture) -> None:
    status = search("--matrix", matrix, "--budget", "rollout=0.02", "gradient=0.1", "--output", "policy.yaml")
    out = capsys.readouterr().out
    assert status == 0
    assert "rollout/policy: predicted cost 0.016 of 0.02 nats/token; 9600 bytes of 24576 unquantised" in out
    assert "without a budget, so unquantised: reward/reward" in out
    assert main(["policy", "show", "policy.yaml"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert {"layers": "h.1.up", "phases": ["rollout"], "roles": ["policy"], "format": "MXFP4/MXFP8"} in shown["rules"]
    policy = PrecisionPolicy.from_yaml("policy.yaml")
    assert policy.resolve("h.0.up", "rollout") == "MXFP8/MXFP8"
    assert policy.resolve("score.up", "reward", "reward") == "FP16"


def test_without_output_stdout_is_the_policy_and_nothing_else(matrix: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert search("--matrix", matrix, "--budget", "rollout=0.02", "--name", "mine") == 0
    captured = capfd.readouterr()
    assert PrecisionPolicy.from_dict(yaml.safe_load(captured.out)).name == "mine"
    assert "rollout/policy: predicted cost" in captured.err


def test_the_whole_front_is_written(matrix: str, capsys: Capture) -> None:
    assert search("--matrix", matrix, "--budget", "rollout=0.02", "--output", "p.yaml", "--pareto", "front.csv") == 0
    with open("front.csv", encoding="utf-8", newline="") as file:
        points = list(csv.DictReader(file))
    assert [(float(p["cost"]), float(p["price"]), p["chosen"]) for p in points] == [
        (0.0, 24576.0, ""),
        (0.001, 18624.0, ""),
        (0.005, 12672.0, ""),
        (0.016, 9600.0, "yes"),
        (0.042, 6528.0, ""),
    ]
    assert points[3]["formats"] == "MXFP4/MXFP8 1; MXFP8/MXFP8 1"
    assert points[0]["method"] == "exact"


def test_energy_and_seconds(matrix: str, capsys: Capture) -> None:
    recipe = ["--recipe", "batch_size=2", "prompt_tokens=2", "response_tokens=3", "epochs=1"]
    arguments = ["--matrix", matrix, "--budget", "rollout=0.02", "--output", "p.yaml", *recipe]
    assert search(*arguments, "--objective", "energy", "--target", "projected:mx-asic-45nm") == 0
    out = capsys.readouterr().out
    assert "J/step" in out
    assert "note: energy is modelled (modelled:projected:mx-asic-45nm, energies.yaml), not measured" in out
    assert search(*arguments, "--objective", "seconds") == 2
    assert "give --seconds bench.json" in capsys.readouterr().err
    times = {"bf16": 3.0, "MXFP4/MXFP8": 1.0, "MXFP8/MXFP8": 2.0, "MXFP4/MXFP8 read limit": 0.1, "int4pack": 0.2}
    rows = [
        {"bench": "linear", "case": f"96x64 M={m}", "what": what, "seconds": m * seconds}
        for m in (2, 4)
        for what, seconds in times.items()
    ]
    Path("bench.json").write_text(json.dumps({"schema": 1, "rows": rows[:-5]}), encoding="utf-8")
    assert search(*arguments, "--objective", "seconds", "--seconds", "bench.json") == 2
    error = capsys.readouterr().err
    assert "bench.json holds no time of 3 calls that the search needs: 96x64 M=4 FP16[bfloat16], " in error
    assert "mx-plugin bench linear --shapes 96x64 --rows 4 --pairs MXFP4/MXFP8,MXFP8/MXFP8 --json" in error
    Path("bench.json").write_text(json.dumps({"schema": 1, "rows": rows}), encoding="utf-8")
    assert search(*arguments, "--objective", "seconds", "--seconds", "bench.json") == 0
    # Of each layer: 4 rows once and 2 rows twice, 8 row-times; MXFP8 in one layer, MXFP4 in the other.
    assert "24 s/step of 48 unquantised (50.0%)" in capsys.readouterr().out


def test_options_given_twice_add_up() -> None:
    parser = argparse.ArgumentParser()
    search_command.add_arguments(parser)
    given = ["--matrix", "m.csv", "--recipe", "batch_size=32", "--recipe", "epochs=2"]
    found = parser.parse_args([*given, "--formats", "MXFP4", "--formats", "MXFP8"])
    assert (found.recipe, found.formats) == (["batch_size=32", "epochs=2"], ["MXFP4", "MXFP8"])


def test_seconds_may_come_as_csv(matrix: str, capsys: Capture) -> None:
    lines = ["out_features,in_features,rows,format,seconds"]
    lines += [f"96,64,{m},{f},{m}" for m in (64, 8192) for f in ("FP16[bfloat16]", "mxfp4/mxfp8", "MXFP8/MXFP8")]
    Path("times.csv").write_text("\n".join(lines), encoding="utf-8")
    arguments = ["--matrix", matrix, "--objective", "seconds", "--seconds", "times.csv", "--output", "p.yaml"]
    assert search(*arguments, "--budget", "rollout=0.02") == 0
    assert search(*arguments, "--budget", "gradient=0.1") == 2
    assert "no measured seconds for gradient" in capsys.readouterr().err
    assert search(*arguments, "--budget", "rollout=0.02", "--dtype", "float32") == 2
    assert "not FP16[float32]: give --dtype bfloat16 if the model runs in it, or a CSV" in capsys.readouterr().err
    Path("times.csv").write_text("\n".join([*lines, "96,64,1,MXFP4/MXFP8,soon"]), encoding="utf-8")
    assert search(*arguments, "--budget", "rollout=0.02") == 2
    assert "times.csv:8: could not convert string to float: 'soon'" in capsys.readouterr().err


def weights(folder: Path, names: dict[str, tuple[int, int]], **config: object) -> str:
    folder.mkdir()
    save_file({f"{name}.weight": torch.zeros(shape) for name, shape in names.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(folder)


def test_sizes_come_from_a_models_folder_and_a_matrix_for_another_model_is_refused(
    matrix: str, tmp_path: Path, capsys: Capture
) -> None:
    Path("bare.csv").write_text(
        "layer,phase,format,cost,unit\nh.0,rollout,MXFP4,0.01,nats\nlm_head,rollout,MXFP8,0.001,nats\n",
        encoding="utf-8",
    )
    arguments = ["--budget", "rollout=0.02", "--output", "p.yaml"]
    assert search("--matrix", "bare.csv", *arguments) == 2
    assert "bare.csv gives no sizes for 2 of its 2 layers of role policy: h.0, lm_head; give" in capsys.readouterr().err
    sizes = {"embed": (50, 64), "h.0.up": (96, 64), "h.0.down": (64, 96)}
    model = weights(tmp_path / "model", sizes, tie_word_embeddings=True, vocab_size=50, hidden_size=64)
    assert search("--matrix", "bare.csv", *arguments, "--model", model) == 0
    packed = 96 * (32 + 2) + 64 * (48 + 3) + 50 * (64 + 2)
    whole = 4 * (2 * 96 * 64 + 50 * 64)
    assert f"{packed} bytes of {whole} unquantised" in capsys.readouterr().out
    other = weights(tmp_path / "other", {"model.h.0.up": (96, 64), "h.0.up": (96, 60), "h.1.up": (96, 64)})
    assert search("--matrix", matrix, *arguments, "--model", f"policy={other}") == 2
    error = capsys.readouterr().err
    assert "matrix.csv is for another model: 1 of its 2 layers of role policy have other sizes" in error
    assert "h.0.up (96x64 in the matrix, 96x60 in the model)" in error
    assert search("--matrix", "bare.csv", *arguments, "--model", other) == 2
    assert "of its 2 layers of role policy, 1 are not in the model: lm_head" in capsys.readouterr().err
    gpt2 = weights(tmp_path / "gpt2", sizes, model_type="gpt2")
    assert search("--matrix", "bare.csv", *arguments, "--model", gpt2) == 2
    assert "models of type gpt2 store some weights (in, out)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no budget given; matrix.csv holds rollout/policy in nats/token, gradient/policy in relative, reward/re"),
        (["--budget", "rollout"], "--budget 'rollout' is not PHASE=COST"),
        (["--budget", "rollout=much"], "--budget 'rollout=much' is not PHASE=COST"),
        (["--budget", "rollout=nan"], "the budget of rollout is nan"),
        (["--budget", "rollout=-1"], "the budget of rollout is -1; the smallest feasible one is 0"),
        (["--budget", "rollout=1", "rollout=2"], "--budget gives 'rollout' twice"),
        (["--budget", "rolout=1"], "the budget names 'rolout', which matrix.csv does not hold: did you mean 'rollout'"),
        (["--budget", "rollout.value=1"], "the budget names 'rollout/value', which matrix.csv does not hold"),
        (["--budget", "rollout=1", "--formats", "MXPF4"], "unknown format 'MXPF4': did you mean 'MXFP4'"),
        (
            ["--budget", "rollout=1", "--formats", "MXINT8"],
            "--formats names MXINT8/MXFP8, of which matrix.csv knows no",
        ),
        (["--budget", "rollout=1", "--backend", "cup"], "unknown backend 'cup': did you mean 'cpu'"),
        (["--budget", "rollout=1", "--dtype", "half"], "unknown dtype 'half'"),
        (["--budget", "rollout=1", "--metric", "kl"], "has no metric 'kl'"),
        (["--budget", "rollout=1", "--metric", "rollout=cost", "kl"], "--metric 'kl': several are given"),
        (["--budget", "rollout=1", "--model", "nowhere"], "nowhere holds no *.safetensors file"),
        (["--budget", "rollout=1", "--objective", "energy", "--recipe", "epochs=0"], "epochs is 0"),
        (
            ["--budget", "rollout=1", "--objective", "energy", "--target", "projected:x"],
            "no energy target 'projected:x'",
        ),
        (["--budget", "rollout=1", "--objective", "seconds", "--seconds", "no.json"], "cannot read measured seconds"),
        (
            ["--budget", "rollout=0.001", "--all_quantised"],
            "rollout/policy: 0.001 given, the smallest feasible is 0.005",
        ),
        (["--budget", "rollout=1", "--output", "no/such.yaml"], "cannot write the policy to no/such.yaml"),
        (["--budget", "rollout=1", "--pareto", "no/such.csv"], "cannot write the front to no/such.csv"),
    ],
)
def test_bad_input_is_one_message_with_the_remedy(
    matrix: str, capsys: Capture, arguments: list[str], message: str
) -> None:
    assert search("--matrix", matrix, *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_phase_budget_for_roles_in_different_units_is_refused(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "m.csv"
    path.write_text(
        "layer,phase,role,format,cost,unit,in_features,out_features,dtype\n"
        "h.0,reward,value,MXFP8,0.1,sd,64,64,float32\nh.0,reward,reward,MXFP8,0.1,share,64,64,float32\n",
        encoding="utf-8",
    )
    assert search("--matrix", str(path), "--budget", "reward=1", "--output", str(tmp_path / "p.yaml")) == 2
    assert "counts reward/value in sd, reward/reward in share; give one for each role" in capsys.readouterr().err
    assert search("--matrix", str(path), "--budget", "reward.value=1", "--output", str(tmp_path / "p.yaml")) == 0


def test_a_matrix_that_mixes_metrics_needs_a_choice(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "m.csv"
    path.write_text(
        "layer,phase,format,cost,metric,unit,in_features,out_features,dtype\n"
        "h.0,rollout,MXFP8,0.1,one,nats,64,64,float32\nh.1,rollout,MXFP8,0.1,two,nats,64,64,float32\n",
        encoding="utf-8",
    )
    assert search("--matrix", str(path), "--budget", "rollout=1") == 2
    assert "rollout/policy mixes the metrics one, two, which cannot be added; choose one" in capsys.readouterr().err
    assert (
        search("--matrix", str(path), "--budget", "rollout=1", "--metric", "two", "--budget", "rollout.policy=0.5") == 0
    )


def test_costs_of_all_layers_but_one_are_not_added_up(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "m.csv"
    path.write_text("layer,phase,role,format,cost,metric,unit\nh.0.up,rollout,policy,MXFP4,0.1,kl_all_but,nats/token\n")
    assert search("--matrix", str(path), "--budget", "rollout=1", "--metric", "kl_all_but") == 2
    assert "kl_all_but is what is left when one layer is spared" in capsys.readouterr().err


def test_a_search_by_gradient_errors_says_that_they_do_not_add_up(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "m.csv"
    head = "layer,phase,role,format,cost,metric,unit,in_features,out_features,dtype\n"
    rows = [f"h.0.up,gradient,policy,MXFP8,0.1,{m},{m},64,64,float32\n" for m in ("gradient_error", "gradient_cosine")]
    path.write_text(head + "".join(rows))
    arguments = ["--matrix", str(path), "--budget", "gradient=1", "--objective", "energy", "--output", f"{tmp_path}/p"]
    assert search(*arguments) == 0
    assert "relative errors add in quadrature" in capsys.readouterr().out
    assert search(*arguments, "--metric", "gradient=gradient_cosine") == 0
    assert "quadrature" not in capsys.readouterr().out
