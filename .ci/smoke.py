"""What must work from an installed wheel, without the repository on the path. Usage: smoke.py PACKAGE..."""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import entry_points, version
from importlib.resources import files
from pathlib import Path


def installed_here(package: str) -> None:
    """The package comes from this environment and carries its type marker."""
    origin = Path(importlib.import_module(package).__file__ or "")
    if not origin.is_relative_to(sys.prefix):
        raise SystemExit(f"{package} was imported from {origin}, not from {sys.prefix}")
    if not (files(package) / "py.typed").is_file():
        raise SystemExit(f"{package} was installed without py.typed: type checkers would not see its types")


def reference_backend_works() -> None:
    """A packed product agrees with the product of the decoded operands."""
    import torch

    import mx_plugin

    torch.manual_seed(0)
    x, weight = torch.randn(5, 64), torch.randn(48, 64)
    backend = mx_plugin.get_backend("cpu")
    packed = mx_plugin.quantize(weight, "MXFP4")
    y = backend.linear(x, backend.load_weight(packed), activations="MXFP8")
    expected = mx_plugin.quantize(x, "MXFP8").dequantize(torch.float32) @ packed.dequantize(torch.float32).T
    torch.testing.assert_close(y, expected)
    backend.close()


def built_in_files_travel_with_the_wheel() -> None:
    """Policies and the energy table are YAML files: they load, and D asks for the matrix that it lacks."""
    import mx_plugin
    from mx_plugin.errors import PolicyError

    for name in ("A", "B", "C", "C8"):
        mx_plugin.load_policy(name)
    try:
        mx_plugin.load_policy("D")
    except PolicyError as error:
        if "matrix" not in str(error):
            raise
    else:
        raise SystemExit("policy D loaded without a sensitivity matrix")
    mx_plugin.get_meter("modelled").close()


def simulated_board_works() -> None:
    """The wheel carries the RTL and the harness: the smallest board builds, starts and says HELLO.

    Where there is no Verilator it is only shown that the sources are there.
    """
    import os
    import select

    from mx_fpga import protocol
    from mx_fpga.framing import Deframer, encode_frame
    from mx_fpga.simulator import Model, Simulator, hardware
    from mx_fpga.verilator import VerilatorMissing

    if not hardware().is_relative_to(sys.prefix):
        raise SystemExit(f"the RTL was found in {hardware()}, not in {sys.prefix}")
    try:
        simulator = Simulator(Model(rows=1, columns=1, memory_bytes=1 << 16, blocks=16, handles=4))
    except VerilatorMissing as missing:
        print(f"simulated board not built: {missing}")
        return
    with simulator:
        port = os.open(simulator.url, os.O_RDWR | os.O_NOCTTY)
        request = protocol.encode_request(protocol.Message.HELLO, 1, protocol.hello_request())
        os.write(port, encode_frame(request))
        deframer, frames = Deframer(), []
        while not frames and select.select([port], [], [], 60)[0]:
            frames = deframer.feed(os.read(port, 4096))
        os.close(port)
        hello = protocol.Hello.decode(protocol.decode(frames[0]).payload)
        print(f"simulated board {hello.name!r}: {hello.rows} x {hello.columns}, built from the wheel")


def main(packages: list[str]) -> None:
    import mx_plugin

    for package in packages:
        installed_here(package)
    if mx_plugin.__version__ != version("mx-plugin"):
        raise SystemExit(f"__version__ is {mx_plugin.__version__}, the metadata say {version('mx-plugin')}")
    for point in entry_points(group="mx_plugin"):
        point.load()
    reference_backend_works()
    built_in_files_travel_with_the_wheel()
    simulated_board_works()
    print(f"mx-plugin {mx_plugin.__version__} works from {sys.prefix}")


if __name__ == "__main__":
    main(sys.argv[1:])
