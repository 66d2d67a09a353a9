"""The real thing: a full device, a file size limit, a full file system, a folder without permission."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mx_plugin.ledger.writers import RecordFile

PREAMBLE = """
import csv, json, os, resource, signal, sys
from pathlib import Path
from mx_plugin.errors import LedgerError
from mx_plugin.ledger import EnergyRow, RunFolder
out = Path(sys.argv[1])

def rows(count, start=0):
    return [EnergyRow(start + i, "rollout", "all", "all", seconds=0.5) for i in range(count)]

def steps(path):
    assert path.read_bytes().endswith(b"\\n")
    return [int(record["step"]) for record in csv.DictReader(open(path, newline=""))]

def report(**values):
    print(json.dumps(values))
"""


def run(script: str, folder: Path, *prefix: str) -> dict[str, object]:
    """Run ``script`` in a process of its own and return what it reports."""
    done = subprocess.run(
        [*prefix, sys.executable, "-c", PREAMBLE + script, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_device_keeps_the_records_and_counts_them_at_the_end():
    failures = []
    file = RecordFile(Path("/dev/full"), lambda path, error: failures.append(error.errno))
    assert not file.append(["one\n", "two\n"])
    assert file.pending == 2 and len(failures) == 1
    assert file.close() == 2
    assert file.close() == 2 and file.closed


def test_a_file_that_may_not_grow_is_cut_back_to_its_last_whole_row_and_goes_on_when_it_may(tmp_path):
    """RLIMIT_FSIZE makes the kernel write a part of a row and then fail with EFBIG."""
    result = run(
        """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = RunFolder(out, "C")
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
for step in range(100):
    folder.write_energy(rows(1, step))
short = steps(folder.path / "energy.csv")
size = (folder.path / "energy.csv").stat().st_size
try:
    folder.close()
    said = ""
except LedgerError as error:
    said = str(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
again = RunFolder(out, "C", resume_step=short[-1])
again.write_energy(rows(5, short[-1] + 1))
again.close()
report(short=short, size=size, said=said, after=steps(again.path / "energy.csv"))
""",
        tmp_path,
    )
    written = len(result["short"])
    assert 0 < written < 100 and result["short"] == list(range(written)) and result["size"] <= 1000
    assert f"{100 - written} rows of energy.csv" in result["said"] and "File too large" in result["said"]
    assert result["after"] == list(range(written + 5))


def _can_mount(folder: Path) -> bool:
    if not shutil.which("unshare"):
        return False
    probe = ["unshare", "-Urm", "mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def test_on_a_full_file_system_every_file_stays_readable_and_the_rest_follows_when_there_is_room(tmp_path):
    if not _can_mount(tmp_path):
        pytest.skip("this system lets no user mount a file system of his own (unshare -Urm mount -t tmpfs)")
    result = run(
        """
os.system(f"mount -t tmpfs -o size=64k none {out}") == 0 or sys.exit("no mount")
folder = RunFolder(out, "C")
(out / "ballast").write_bytes(b"x" * 30000)
for step in range(2000):
    folder.write_energy(rows(1, step))
    folder.write_metrics(step, {"reward": 0.5})
    folder.write_log({"step": step})
full = steps(folder.path / "energy.csv"), steps(folder.path / "metrics.csv")
lines = [json.loads(line)["step"] for line in open(folder.path / "metrics.jsonl")]
left = folder.flush()
os.system(f"mount -o remount,size=4m {out}")
(out / "ballast").unlink()
flushed = folder.flush()
folder.close()
log = (folder.path / "training_log.txt").read_text()
report(full=full, lines=lines, left=left, flushed=flushed, warned=log.count("rows wait in memory"),
       after=[steps(folder.path / n) for n in ("energy.csv", "metrics.csv")])
""",
        tmp_path,
        "unshare",
        "-Urm",
    )
    for whole in (*result["full"], result["lines"]):
        assert 0 < len(whole) < 2000 and whole == list(range(len(whole)))
    assert (result["left"], result["flushed"], result["warned"]) == (False, True, 1)
    assert result["after"] == [list(range(2000))] * 2


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_a_folder_without_permission_is_refused_with_path_and_remedy(tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o755)
    locked.chmod(0o555)
    script = """
if os.getuid() == 0:
    # Root may write anywhere: try as nobody.
    import mx_plugin.ledger
    os.setgid(65534); os.setuid(65534)
try:
    RunFolder(out, "C")
    report(said="")
except LedgerError as error:
    report(said=str(error))
"""
    result = run(script, locked)
    assert "Permission denied" in result["said"]
    assert str(locked) in result["said"] and "choose another output_dir" in result["said"]
