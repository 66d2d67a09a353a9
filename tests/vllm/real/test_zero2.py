"""SFT on two ranks under DeepSpeed ZeRO-2 on the CPU, which this environment holds as well."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.vllm.runs import HERE, Run, environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

QUANTISED = """
version: 1
name: quantised
defaults: {rollout: MXFP8, reward: MXFP8, gradient: MXFP8}
"""

Sft = Callable[[str], Run]


@pytest.fixture(scope="module")
def sft(folder: Path, model: Path) -> Sft:
    """``sft(policy)``, "" for plain TRL. The first one compiles a part of DeepSpeed: minutes."""
    (folder / "quantised.yaml").write_text(QUANTISED)

    @cache
    def finished(policy: str) -> Run:
        here = folder / f"zero2_{policy}"
        here.mkdir()
        given = str(folder / "quantised.yaml") if policy == "quantised" else policy
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        command += [str(HERE / "zero2.py"), str(model), str(here), *filter(None, [given])]
        # DeepSpeed looks for ninja on the path.
        paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        ran = subprocess.run(
            command, cwd=here, env=environment(DS_ACCELERATOR="cpu", CUDA_HOME="/usr/local", PATH=paths),
            capture_output=True, text=True, timeout=900, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr[-6000:]
        run = Run(here, ran.stderr)
        assert (run.result["engine"], run.result["stage"], run.result["ranks"]) == ("DeepSpeedEngine", 2, 2)
        return run

    return finished


def test_policy_a_gives_the_losses_of_trl_alone(sft: Sft) -> None:
    for key in ("loss", "grad_norm"):
        assert len(sft("").logged(key)) == 3 and sft("A").logged(key) == sft("").logged(key), key


def test_every_layer_trains_in_mx_on_both_ranks(sft: Sft) -> None:
    run = sft("quantised")
    hits = run.config["hits"]["policy"]["gradient"]
    trunk = {name: calls for name, calls in hits.items() if name.startswith("model.layers.")}
    assert len(trunk) == 14 and set(trunk.values()) == {2 * 3} and run.config["ranks"]["size"] == 2
    trained = {row["format"] for row in run.rows("energy.csv") if row["phase"] == "gradient" and row["macs"]}
    assert any(fmt.startswith("MXFP8/MXFP8") for fmt in trained)
    plain = sft("").logged("loss")
    # Before the first update; from then on two runs of random weights at this learning rate part.
    assert run.logged("loss")[0] != plain[0] and run.logged("loss")[0] == pytest.approx(plain[0], rel=0.02)
    assert run.logged("loss")[-1] < run.logged("loss")[0]
