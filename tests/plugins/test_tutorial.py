"""The plugin author's tutorial, followed: a package is written, the docs' own block becomes its method, it trains."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from textwrap import indent

import pytest

from tests.plugins.written import own_tests, python, write

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "plugins.md").read_text("utf-8")


def block() -> str:
    """The method as the tutorial gives it, without the imports that the written module has already."""
    (code,) = [found for found in re.findall(r"```python\n(.*?)```", PAGE, re.S) if "def multiply" in found]
    return str(code[code.index("def multiply") :])


def filled_in(folder: Path, method: str) -> Path:
    """The package of the tutorial, with ``method`` in the place of its ``multiply``."""
    package = write("backend", "acme", folder)
    file = package / "src" / "acme_mx" / "backend.py"
    text = file.read_text("utf-8")
    replaced, times = re.subn(
        r"    def multiply\(.*?(?=\n    @property)", lambda _: indent(method, "    "), text, flags=re.S
    )
    assert times == 1
    file.write_text(replaced, "utf-8")
    return package


def test_the_commands_of_the_tutorial_are_those_of_the_written_package(tmp_path: Path) -> None:
    package = write("backend", "acme", tmp_path)
    assert package.name == "acme-mx" and "pip install -e './acme-mx[test]'" in PAGE
    assert (package / "src" / "acme_mx" / "backend.py").is_file() and "`acme-mx/src/acme_mx/backend.py`" in PAGE
    shown = re.search(r"```python\n(import pytest\n.*?)```", PAGE, re.S)
    assert shown is not None
    assert shown[1] in (package / "tests" / "test_conformance.py").read_text("utf-8")


def test_with_the_tutorials_method_the_packages_tests_are_green(tmp_path: Path) -> None:
    done = own_tests(filled_in(tmp_path, block()))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_mistake_that_the_tutorial_suggests_is_caught_at_the_products(tmp_path: Path) -> None:
    (right,) = re.findall(r"range\(0, x\.shape\[1\], 32\)", block())
    wrong = "range(0, x.shape[1] - 31, 32)"
    assert f"`{wrong}`" in PAGE
    done = own_tests(filled_in(tmp_path, block().replace(right, wrong)), options=["-k", "multiplies"])
    assert done.returncode == 1
    assert "multiplies" in done.stdout


@pytest.mark.trl("<1.13")
@pytest.mark.slow
def test_it_trains_by_its_name(tmp_path: Path) -> None:
    package = filled_in(tmp_path, block())
    words = (
        "--policy C --backend acme --max_steps 2 --per_device_train_batch_size 8 --num_mini_batches 1 --report_to none"
    )
    command = [str(ROOT / "examples" / "ppo_mx.py"), *words.split(), "--output_dir", str(tmp_path / "run")]
    done = python(*command, path=[package], cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    demand_that_it_trained(tmp_path / "run" / "policy_C")


@pytest.mark.trl("<1.13")
@pytest.mark.slow
def test_it_trains_by_its_name_where_there_is_no_checkout(tmp_path: Path) -> None:
    package = filled_in(tmp_path, block())
    (code,) = re.findall(r"\$ python -c \"(.*)\"", PAGE)
    done = python("-c", code, path=[package], cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "`runs/rlhf/policy_C`" in PAGE
    demand_that_it_trained(tmp_path / "runs" / "rlhf" / "policy_C")


@pytest.mark.slow
def test_it_conforms_by_the_tutorials_command_the_level_that_trains_included(tmp_path: Path) -> None:
    assert "$ mx-plugin conformance acme" in PAGE
    done = python("-m", "mx_plugin", "conformance", "acme", path=[filled_in(tmp_path, block())], cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    *lines, summary = done.stdout.splitlines()
    trained = lines[lines.index("trl") + 1 :]
    assert [line.split()[0] for line in trained] == ["ok"] * 4
    assert " failed" not in summary


def demand_that_it_trained(run: Path) -> None:
    assert json.loads((run / "config.json").read_text("utf-8"))["backends"] == [{"backend": "acme"}]
    with (run / "energy.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["phase"] == "rollout" and row["format"] == "MXFP4/MXFP8"]
    assert rows and all(float(row["macs"]) > 0 for row in rows)
