"""Count the skipped tests of a CI run and refuse those that an installation could have avoided.

Usage: skips.py FOLDER, which holds the junit files of the test targets: test.xml, test_trl.xml, ...
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

HERE = Path(__file__).resolve().parent
OTHER_TARGET = re.compile(r"needs trl\S*, found \S+$|runs under `make \w+`$")


@dataclass(frozen=True)
class Skip:
    """One skipped test: the target that skipped it, its name and the reason it gave."""

    target: str
    test: str
    reason: str


def read(report: Path) -> tuple[set[str], list[Skip]]:
    """Names of the tests that ran in a junit file, and its skips (expected failures are no skips)."""
    ran: set[str] = set()
    skips: list[Skip] = []
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        skipped = case.find("skipped")
        if skipped is None or skipped.get("type") == "pytest.xfail":
            ran.add(name)
        else:
            skips.append(Skip(report.stem, name, skipped.get("message") or ""))
    return ran, skips


def data_folder() -> Path:
    """Where tests/conftest.py looks for real data."""
    return Path(os.environ.get("MX_TEST_DATA") or HERE.parent.parent / "shared" / "data")


def permitted(skip: Skip, ran: set[str]) -> bool:
    """Whether the skip could not have been avoided by installing something."""
    if OTHER_TARGET.match(skip.reason):
        return skip.test in ran
    if "MX_TEST_DATA" in skip.reason:
        return not data_folder().is_dir()
    lines = (HERE / "allowed_skips.txt").read_text().splitlines()
    return any(re.search(line, skip.reason) for line in lines if line and not line.startswith("#"))


def main(folder: Path) -> int:
    reports = sorted(folder.glob("*.xml"))
    if not reports:
        print(f"no junit files in {folder}: no tests have run", file=sys.stderr)
        return 1
    ran: set[str] = set()
    skips: list[Skip] = []
    for report in reports:
        names, skipped = read(report)
        print(f"{report.stem}: {len(names)} tests ran, {len(skipped)} skipped")
        ran |= names
        skips += skipped
    refused = [skip for skip in skips if not permitted(skip, ran)]
    for skip in refused:
        print(f"avoidable skip in {skip.target}: {skip.test}: {skip.reason}", file=sys.stderr)
    print(f"skipped tests: {len(skips)}, of which avoidable: {len(refused)}")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
