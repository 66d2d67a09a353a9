"""The zeus meter: what no counter knows is None, and real counter files give joules per domain."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys
from pathlib import Path

import pytest

from mx_plugin.errors import PluginError
from mx_plugin.ledger.zeus_meter import ZeusMeter


def test_without_the_library_the_error_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without_zeus(name: str, *rest: object, **more: object) -> object:
        if name.partition(".")[0] == "zeus":
            raise ModuleNotFoundError("No module named 'zeus'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_zeus)
    with pytest.raises(PluginError, match=r"pip install 'mx-plugin\[energy\]'"):
        ZeusMeter()


def test_with_no_counter_chosen_the_joules_are_unknown_with_a_reason_and_not_zero():
    pytest.importorskip("zeus", reason="needs the extra [energy]")
    meter = ZeusMeter(gpu_indices=[], cpu_indices=[])
    meter.begin_window("rollout")
    measured = meter.end_window("rollout")
    meter.close()
    assert measured.joules is None and measured.source == "zeus"
    assert "no energy counter can be read" in measured.why
    assert meter.describe()["why"] == measured.why


def test_on_this_machine_the_meter_gives_joules_above_zero_or_none_with_a_reason():
    pytest.importorskip("zeus", reason="needs the extra [energy]")
    meter = ZeusMeter()
    meter.begin_window("rollout")
    measured = meter.end_window("rollout")
    meter.close()
    assert (measured.joules is None and measured.why) or measured.joules > 0.0


RAPL = """
import json, sys
from pathlib import Path

root = Path(sys.argv[1])

def zone(path, name, microjoules):
    path.mkdir(parents=True, exist_ok=True)
    (path / "name").write_text(name + "\\n")
    (path / "max_energy_range_uj").write_text("262143328850\\n")
    (path / "energy_uj").write_text(f"{microjoules}\\n")

def counters(package, dram, psys):
    zone(root / "intel-rapl:0", "package-0", package)
    zone(root / "intel-rapl:0" / "intel-rapl:0:0", "dram", dram)
    zone(root / "intel-rapl:1", "psys", psys)

def main():
    import zeus.device.cpu.rapl as rapl
    rapl.RAPL_DIR = str(root)
    counters(1_000_000, 500_000, 9_000_000)
    from mx_plugin.ledger.zeus_meter import ZeusMeter
    meter = ZeusMeter(gpu_indices=[])
    windows = []
    for package, dram, psys in ((4_000_000, 1_500_000, 99_000_000), (4_000_000, 1_500_000, 199_000_000),
                                (6_000_000, 1_500_000, 299_000_000)):
        meter.begin_window("rollout")
        counters(package, dram, psys)
        m = meter.end_window("rollout")
        windows.append([m.joules, dict(m.domains), m.updates, m.why])
    meter.close()
    print(json.dumps({"source": meter.source, "windows": windows}))

if __name__ == "__main__":
    main()
"""


def test_counter_files_of_the_kernels_layout_give_joules_of_package_and_dram_without_psys(tmp_path: Path):
    """zeus reads files laid out as in /sys/class/powercap/intel-rapl; it watches them from a process of its own."""
    pytest.importorskip("zeus", reason="needs the extra [energy]")
    script = tmp_path / "rapl.py"
    script.write_text(RAPL)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "powercap")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    both, neither, package_only = result["windows"]
    assert result["source"] == "zeus:cpu+dram"
    assert both == [pytest.approx(4.0), {"cpu:0": pytest.approx(3.0), "dram:0": pytest.approx(1.0)}, None, ""]
    assert neither[0] is None and neither[2] == 0 and "did not tick" in neither[3]
    assert package_only[0] == pytest.approx(2.0) and "dram:0" in package_only[3]
