"""The meter ``zeus``: joules read by the ``zeus`` library from NVML, AMD SMI and RAPL counters.

The only room of the core that may import ``zeus`` (extra ``[energy]``), and only when the meter is made.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from typing import Any

from ..errors import PluginError
from ..interfaces import Measurement, Meter

log = logging.getLogger(__name__)


class ZeusMeter(Meter):
    """Sums every counter that zeus can read: GPUs, CPU packages and their DRAM.

    ``source`` names what the sum covers (``zeus:gpu+cpu+dram``), ``domains`` keep ``gpu:0``, ``cpu:0``,
    ``dram:0`` apart. Where zeus finds no counter it reports 0 J, and its own ``total_energy`` adds GPUs
    only; here that is None, with the reason. So is a window in which no counter ticked (``updates=0``):
    the counters are cumulative, so its energy appears in a neighbouring window. RAPL zones that are not
    packages (``psys`` contains them) are left out, or energy would be counted twice.

    zeus waits for the GPU at both ends of a window, and watches RAPL overflow from a spawned process that
    imports the main script again: guard it by ``if __name__ == "__main__"``.

    Args:
        gpu_indices: GPUs to read, as the process numbers them; default all. ``[]`` for none.
        cpu_indices: CPU packages to read; default all. ``[]`` for none.

    Raises:
        PluginError: zeus is not installed.
    """

    name = "zeus"

    def __init__(self, gpu_indices: list[int] | None = None, cpu_indices: list[int] | None = None) -> None:
        try:
            from zeus.monitor import ZeusMonitor  # type: ignore[import-untyped, import-not-found, unused-ignore]
        except ImportError as error:
            raise PluginError(
                f"meter 'zeus' needs the zeus library ({error}): pip install 'mx-plugin[energy]', "
                "or leave 'zeus' out of meters"
            ) from error
        warnings.filterwarnings("ignore", message="The energy consumption of one or more GPUs was measured as zero")
        packages = _packages() if cpu_indices is None else cpu_indices
        self._monitor: Any = ZeusMonitor(gpu_indices=gpu_indices, cpu_indices=packages)
        self.why = "" if self._monitor.gpu_indices or self._monitor.cpu_indices else _why_nothing()
        self.source = "zeus" if self.why else f"zeus:{'+'.join(self._kinds())}"
        if self.why:
            log.warning("meter zeus can read nothing here, its joules stay empty: %s", self.why)

    def begin_window(self, name: str) -> None:
        if not self.why:
            self._monitor.begin_window(name, restart=True)

    def end_window(self, name: str) -> Measurement:
        """Joules of all domains that ticked; None with ``why`` where there is no counter or none ticked."""
        if self.why:
            return Measurement(None, self.source, why=self.why)
        measured = self._monitor.end_window(name)
        domains = _domains(measured)
        silent = [domain for domain, joules in domains.items() if joules == 0.0]
        ticked = {domain: joules for domain, joules in domains.items() if joules != 0.0}
        why = ""
        if silent:
            why = (
                f"the counter of {', '.join(silent)} did not tick in this window of {measured.time:.4f} s; "
                "its energy appears in a neighbouring window"
            )
        if not ticked:
            return Measurement(None, self.source, updates=0, why=why or "zeus returned no domain")
        return Measurement(sum(ticked.values()), self.source, ticked, why=why)

    def describe(self) -> Mapping[str, Any]:
        """Which counters are read, or why none is."""
        return {
            "meter": self.name,
            "source": self.source,
            "gpu_indices": list(self._monitor.gpu_indices),
            "cpu_indices": list(self._monitor.cpu_indices),
            "why": self.why,
        }

    def close(self) -> None:
        """Cancel a window that is still open."""
        self._monitor.reset_windows()

    def _kinds(self) -> list[str]:
        kinds = ["gpu"] if self._monitor.gpu_indices else []
        if self._monitor.cpu_indices:
            kinds.append("cpu")
            cpus = self._monitor.cpus
            if any(cpus.supports_get_dram_energy_consumption(i) for i in self._monitor.cpu_indices):
                kinds.append("dram")
        return kinds


def _domains(measured: Any) -> dict[str, float]:
    """Joules per domain of a zeus ``Measurement``; what zeus could not read has no entry."""
    domains = {f"gpu:{index}": float(joules) for index, joules in measured.gpu_energy.items()}
    domains |= {f"cpu:{index}": float(joules) for index, joules in (measured.cpu_energy or {}).items()}
    domains |= {f"dram:{index}": float(joules) for index, joules in (measured.dram_energy or {}).items()}
    return domains


def _packages() -> list[int] | None:
    """Indices of RAPL zones that are CPU packages; None leaves the choice to zeus."""
    from zeus.device import get_cpus  # type: ignore[import-untyped, import-not-found, unused-ignore]

    try:
        cpus = get_cpus().cpus
    except Exception:
        return None
    named = [getattr(getattr(cpu, "rapl_file", None), "name", "package") for cpu in cpus]
    return [index for index, name in enumerate(named) if name.startswith("package")]


def _why_nothing() -> str:
    """Ask zeus for each kind of counter, to learn what it says is missing."""
    from zeus.device import get_cpus, get_gpus

    reasons = []
    for kind, get in (("GPU", get_gpus), ("CPU", get_cpus)):
        try:
            found = len(get())
            reasons.append(f"{kind}: {found} found, none chosen")
        except Exception as error:
            reasons.append(f"{kind}: {error}")
    return "no energy counter can be read (" + "; ".join(reasons) + ")"
