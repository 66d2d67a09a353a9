"""Proofs about the RTL, for every input and every length: ``python hardware/formal/prove.py``.

Needs pyosys and z3-solver (`make fpga_proof` puts both into .venv-fpga). Each proof is a module of this folder around
modules of ``hardware/rtl``: what it assumes and asserts stands there. Exit status 1: an assertion fails or could not be
decided, or (``--broken``) a fault of broken.py went unnoticed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

from broken import FAULTS, Fault
from induction import FAILS, HOLDS, Model, possible, start, step

FORMAL = Path(__file__).resolve().parent
RTL = FORMAL.parent / "rtl"
QUICKLY = 3.0
"""Seconds for a question in the first search for what a fault breaks."""
PASSES = (
    "read_verilog -overwrite +/ecp5/cells_sim.v",  # what the cells mean that the ECP5 leaves name
    "prep -flatten -nordff -top {top}",
    "memory_nordff",
    "setundef -undriven -anyseq",  # what is undefined may be anything, and something else in every cycle
    "check -assert",
    "async2sync",
    "chformal -lower",
    "opt_clean",
    "write_smt2 -wires {output}",
)


@dataclass(frozen=True)
class Proof:
    """Sources, of the RTL and of this folder (the top last), and how many states the induction looks back on."""

    rtl: tuple[str, ...]
    harness: tuple[str, ...]
    depth: int

    @property
    def top(self) -> str:
        return self.harness[-1]


FRAMER = ("framer_pkg", "framer_place", "framer")
PROOFS = {
    "decoder": Proof(("mx_constants", "mx_types", "generic/mx_add_subtract", "mx_decode"), ("decoder",), 4),
    "decoder_ecp5": Proof(
        ("ecp5/cells", "mx_constants", "mx_types", "ecp5/mx_add_subtract", "mx_decode"), ("decoder",), 4
    ),
    "framer": Proof(("mx_constants", "mx_crc32", "mx_receive", "mx_transmit"), FRAMER, 2),
}
"""Clocked assertions are a register behind what they speak of: a depth is a state more than the claim needs."""


def model(name: str, fault: Fault | None = None) -> Model:
    """The state machine of a proof, with a fault or without. Raises ``ValueError`` where there is no place for it."""
    proof = PROOFS[name]
    with TemporaryDirectory() as place:
        folder = Path(place)
        files = [RTL / f"{module}.sv" for module in proof.rtl]
        if fault:
            files[proof.rtl.index(fault.module)] = broken(fault, folder)
        files += [FORMAL / f"{module}.sv" for module in proof.harness]
        output = folder / "model.smt2"
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
            try:
                fresh.submit(run_yosys, proof.top, files, output).result()
            except BrokenProcessPool:  # an error of yosys ends its process
                raise SystemExit(
                    f"yosys failed on the proof {name}:\n{output.with_suffix('.log').read_text()[-2000:]}"
                ) from None
        return Model(output.read_text(), proof.top)


def broken(fault: Fault, folder: Path) -> Path:
    source = (RTL / f"{fault.module}.sv").read_text()
    if source.count(fault.right) != 1:
        raise ValueError(f"{fault.right!r} stands {source.count(fault.right)} times in {fault.module}.sv, not once")
    path = folder / Path(f"{fault.module}.sv").name
    path.write_text(source.replace(fault.right, fault.wrong))
    return path


def run_yosys(top: str, files: list[Path], output: Path) -> None:
    from pyosys import libyosys as ys

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # where each command is announced, however quiet it is told to be
    yosys, log = ys.Design(), output.with_suffix(".log")
    for command in (f"read_slang --top {top} {' '.join(map(str, files))}", *PASSES):
        ys.run_pass(f"tee -q -a {log} {command.format(top=top, output=output)}", yosys)


def steps(pool: ProcessPoolExecutor, machine: Model, depth: int, seconds: float) -> Iterator[tuple[str, str]]:
    """Assertions and what became of them, as they are decided."""
    asked = {pool.submit(step, machine, depth, claim, seconds): claim for claim in machine.claims()}
    try:
        for answer in as_completed(asked):
            yield asked[answer], answer.result()
    finally:
        for answer in asked:
            answer.cancel()


def prove(pool: ProcessPoolExecutor, name: str, seconds: float) -> list[str]:
    """Print every assertion; return what is not proved."""
    began, depth, machine = time.monotonic(), PROOFS[name].depth, model(name)
    found = {"from reset on": start(machine, depth, seconds)}
    found |= {case: possible(machine, depth, case, seconds) for case in machine.cases()}
    for claim, verdict in steps(pool, machine, depth, seconds):
        found[claim] = verdict
    for claim, verdict in found.items():
        print(f"{name:12} {claim:28} {verdict}")
    print(f"{name}: {len(found)} questions in {time.monotonic() - began:.0f} s", flush=True)
    return [f"{name}: {claim}: {verdict}" for claim, verdict in found.items() if verdict != HOLDS]


def unnoticed(pool: ProcessPoolExecutor, name: str, fault: Fault, seconds: float) -> str | None:
    """Print which assertion a fault breaks; return a complaint where it breaks none."""
    where = f"{name:12} {fault.module:20} {fault.right.strip()!r} -> {fault.wrong.strip()!r}"
    machine = model(name, fault)
    for limit in (QUICKLY, seconds):  # what fails is often found soon, where what holds takes minutes
        for claim, verdict in steps(pool, machine, PROOFS[name].depth, limit):
            if verdict == FAILS:
                print(f"{where}: {claim}", flush=True)
                return None
    return f"{where}: nothing fails that could be decided in {seconds:g} s"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("proofs", nargs="*", help=f"of {', '.join(PROOFS)}; default: all")
    parser.add_argument("--broken", action="store_true", help="prove nothing; see that each fault of broken.py fails")
    parser.add_argument(
        "--seconds", type=float, default=900, help="for one question to the solver (default: %(default)s)"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.seconds < 1 or arguments.jobs < 1:
        parser.error(f"--seconds {arguments.seconds:g} and --jobs {arguments.jobs}: at least 1")
    for name in set(arguments.proofs) - set(PROOFS):
        parser.error(f"unknown proof {name!r}; valid: {', '.join(PROOFS)}")

    faults: list[str] = []
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        for name in arguments.proofs or PROOFS:
            if arguments.broken:
                found = [unnoticed(pool, name, fault, arguments.seconds) for fault in FAULTS[name]]
                faults += [complaint for complaint in found if complaint]
            else:
                faults += prove(pool, name, arguments.seconds)
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
