"""Compare the three ways to install - wheel from the sdist, sdist, editable -, try the wheel alone and with plugins.

Runs in .venv, where the editable install is. The wheel goes into a fresh environment that borrows the
libraries of .venv by a path entry; the repository is not on its path.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

import third_party

REPOSITORY = Path(__file__).resolve().parent.parent
NAME = "mx-plugin"
PACKAGES = ("mx_plugin", "mx_trl", "mx_openrlhf", "mx_vllm", "mx_cpu", "mx_cuda", "mx_fpga")
# Folders beside the packages that a wheel carries inside one; hatch_build.py puts them there.
CARRIED = {"hardware/rtl/": "mx_fpga/hardware/rtl/", "hardware/sim/": "mx_fpga/hardware/sim/"}


def build(folder: Path) -> tuple[Path, Path]:
    """Build the sdist, then the wheel from it; return both paths."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(REPOSITORY)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return next(folder.glob("*.tar.gz")), next(folder.glob("*.whl"))


def of_interest(path: str) -> bool:
    return "__pycache__" not in path and not path.endswith((".pyc", ".so"))


def editable_files() -> set[str]:
    """Files under the packages as the editable install imports them, e.g. ``mx_trl/py.typed``."""
    files: set[str] = set()
    for package in PACKAGES:
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise SystemExit(f"{package} cannot be imported from the editable install")
        root = Path(spec.origin).parent
        files |= {f.relative_to(root.parent).as_posix() for f in root.rglob("*") if f.is_file()}
    for folder, inside in CARRIED.items():
        root = REPOSITORY / folder
        files |= {inside + f.relative_to(root).as_posix() for f in root.rglob("*") if f.is_file()}
    return set(filter(of_interest, files))


def wheel_files(wheel: Path) -> set[str]:
    """Files of the wheel outside its dist-info."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.split("/")[0].endswith(".dist-info")}
    return set(filter(of_interest, names))


def sdist_files(sdist: Path) -> set[str]:
    """Files of the sdist under the packages, by the name that they have in the wheel."""
    with tarfile.open(sdist) as archive:
        names = [m.name.split("/", 1)[1] for m in archive.getmembers() if m.isfile()]
    inside = set()
    for name in names:
        for folder, package in {**CARRIED, "adapters/": "", "hardware/": ""}.items():
            if name.startswith(folder):
                name = package + name.removeprefix(folder)
                break
        inside.add(name)
    return {name for name in inside if name.split("/")[0] in PACKAGES and of_interest(name)}


def entry_points(text: str) -> set[str]:
    """Lines of an entry_points.txt, comparable whatever their order."""
    return {line.strip() for line in text.splitlines() if line.strip()}


def compare(sdist: Path, wheel: Path) -> list[str]:
    """What the three do not have in common; empty when all is well."""
    editable = editable_files()
    faults = []
    for kind, files in (("wheel", wheel_files(wheel)), ("sdist", sdist_files(sdist))):
        faults += [f"{kind} lacks {name}, which the editable install has" for name in sorted(editable - files)]
        faults += [f"{kind} has {name}, which the editable install lacks" for name in sorted(files - editable)]
    with zipfile.ZipFile(wheel) as archive:
        inside = next(name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt"))
        shipped = entry_points(archive.read(inside).decode())
    installed = entry_points(distribution(NAME).read_text("entry_points.txt") or "")
    if shipped != installed:
        faults.append(f"entry points differ: only in one of wheel and editable: {sorted(shipped ^ installed)}")
    return faults


def fresh_environment(folder: Path, wheel: Path) -> Path:
    """A new environment with the wheel, and the libraries of this one behind it; return its python."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(pip, check=True)
    # A line of a .pth file is appended to sys.path; the .pth files that lie there, the editable one among
    # them, are not read.
    site = folder / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        sdist, wheel = build(Path(scratch) / "dist")
        faults = compare(sdist, wheel)
        for fault in faults:
            print(fault, file=sys.stderr)
        print(f"{wheel.name}: {len(wheel_files(wheel))} files compared with sdist and editable install")
        python = fresh_environment(Path(scratch) / "fresh", wheel)
        smoke = REPOSITORY / ".ci" / "smoke.py"
        ran = subprocess.run([str(python), "-I", str(smoke), *PACKAGES], cwd=scratch, check=False)
        for command in (["plugins"], ["doctor"]):
            print(f"--- mx-plugin {' '.join(command)} (installed wheel)", flush=True)
            subprocess.run([str(python.with_name("mx-plugin")), *command], cwd=scratch, check=True)
        for fault in third_party.check(python, Path(scratch)):
            print(f"third parties: {fault}", file=sys.stderr)
            faults.append(fault)
    return 1 if faults or ran.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
