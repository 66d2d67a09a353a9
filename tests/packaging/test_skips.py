"""CI's judge of skipped tests: what an installation could have avoided is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = """
import pytest

def test_that_runs(): pass

@pytest.mark.skip(reason={reason!r})
def test_that_is_skipped(): pass
"""


def judge(
    repository: Path, folder: Path, reports: dict[str, str], **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run real pytest on a suite per target (a skip reason each), then the judge on the reports."""
    for target, reason in reports.items():
        suite = folder / "test_suite.py"
        suite.write_text(
            SUITE.format(reason=reason) if reason else SUITE.replace("@pytest.mark.skip(reason={reason!r})", "")
        )
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={folder}/{target}.xml"]
        subprocess.run([*command, "test_suite.py"], cwd=folder, check=True, capture_output=True)
    return subprocess.run(
        [sys.executable, str(repository / ".ci" / "skips.py"), str(folder)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_missing_library_is_an_avoidable_skip(repository: Path, tmp_path: Path) -> None:
    run = judge(repository, tmp_path, {"test": "could not import 'gfloat'"})
    assert run.returncode == 1
    assert "avoidable skip in test: test_suite::test_that_is_skipped: could not import 'gfloat'" in run.stderr


def test_a_test_for_the_other_line_of_trl_may_be_skipped_if_it_ran_there(repository: Path, tmp_path: Path) -> None:
    run = judge(repository, tmp_path, {"test": "needs trl>=1.16, found 1.12.0", "test_trl": ""})
    assert run.returncode == 0, run.stderr
    assert "skipped tests: 1, of which avoidable: 0" in run.stdout


def test_a_test_that_ran_on_neither_line_of_trl_is_refused(repository: Path, tmp_path: Path) -> None:
    reasons = {"test": "needs trl>=1.14,<1.15, found 1.12.0", "test_trl": "needs trl>=1.14,<1.15, found 1.16.0"}
    assert judge(repository, tmp_path, reasons).returncode == 1


@pytest.mark.parametrize(("there", "status"), [("", 0), ("runs under `make sanitize`", 1)])
def test_a_test_of_another_target_may_be_skipped_if_it_ran_there(
    repository: Path, tmp_path: Path, there: str, status: int
) -> None:
    run = judge(repository, tmp_path, {"test": "runs under `make sanitize`", "sanitize": there})
    assert run.returncode == status, run.stderr


@pytest.mark.parametrize(("folder_exists", "status"), [(False, 0), (True, 1)])
def test_real_data_may_be_missing_only_as_a_whole(
    repository: Path, tmp_path: Path, folder_exists: bool, status: int
) -> None:
    data = tmp_path / "data"
    if folder_exists:
        data.mkdir()
    run = judge(repository, tmp_path, {"test": f"MX_TEST_DATA={data} holds no stories15m"}, MX_TEST_DATA=str(data))
    assert run.returncode == status


def test_no_report_at_all_is_a_failure(repository: Path, tmp_path: Path) -> None:
    assert judge(repository, tmp_path, {}).returncode == 1
