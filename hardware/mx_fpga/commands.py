"""``mx-plugin fpga``: start the simulated board, ask a board about itself, test it, measure it."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .board import Board


_VERDICTS = {True: "met", False: "missed", None: "not judged"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Four subcommands; all but ``sim`` take a board's URL."""
    subcommands = parser.add_subparsers(dest="what", required=True, metavar="{sim,info,selftest,bench}")
    sim = subcommands.add_parser("sim", help="start the simulated board, print its URLs, run until Ctrl-C")
    sim.add_argument("--port", type=int, default=0, help="TCP port on the loopback; default: any that is free")
    sim.add_argument("--rows", type=int, help="rows of dot units")
    sim.add_argument("--columns", type=int, help="columns of dot units")
    sim.add_argument("--memory_bytes", type=int, help="bytes for elements, a power of two")
    sim.add_argument("--blocks", type=int, help="blocks in a row at most, a power of two")
    sim.add_argument("--handles", type=int, help="weights at most, a power of two")
    sim.add_argument("--clock_hz", type=int, help="clock that the board says it has")
    sim.add_argument("--serial", action="store_true", help="a bit-level UART; 25 to 70 times slower")
    sim.add_argument("--modelled_watts", type=float, help="report energy, marked as modelled, from this power")
    _with_board(subcommands.add_parser("info", help="what a board says of itself, its counters and energy"))
    _with_board(subcommands.add_parser("selftest", help="compare a board with the arithmetic, bit for bit"))
    bench = subcommands.add_parser("bench", help="link efficiency, and a real layer loaded and multiplied")
    _with_board(bench)
    bench.add_argument("--rows", type=int, default=896, help="out features of the layer")
    bench.add_argument("--length", type=int, default=896, help="in features of the layer")
    bench.add_argument("--tokens", type=int, default=1, help="tokens in a product")
    bench.add_argument("--formats", nargs="+", default=["MXFP4", "MXFP8"], help="formats of the layer")
    bench.add_argument("--activations", default="MXFP8", help="format of the activations")


def _with_board(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", nargs="?", help="serial URL; default: $MX_FPGA_URL or sim:")
    parser.add_argument("--board", help="name of a registered board, for one that needs more than a URL")
    parser.add_argument("--baudrate", type=int, help="bits a second, for real serial ports")
    parser.add_argument("--timeout_s", type=float, help="seconds to wait for a reply before asking again")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Exit status: 0; 1 where a board is found wanting; 2 (by MXError) where none can be reached."""
    commands: dict[str, Callable[[argparse.Namespace], int]] = {
        "sim": _sim,
        "info": _info,
        "selftest": _selftest,
        "bench": _bench,
    }
    return commands[arguments.what](arguments)


def _open(arguments: argparse.Namespace) -> Board:
    from .boards import open_board

    chosen = {"baudrate": arguments.baudrate, "timeout_s": arguments.timeout_s}
    options = {name: value for name, value in chosen.items() if value is not None}
    return open_board(arguments.url, arguments.board, **options)


# ---------------------------------------------------------------------------- sim


def _sim(arguments: argparse.Namespace) -> int:
    from . import simulator
    from .errors import BoardError
    from .verilator import VerilatorMissing

    names = ("rows", "columns", "memory_bytes", "blocks", "handles", "clock_hz", "serial")
    options = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    print("starting the simulated board; the first time it is built, which takes a minute or two", file=sys.stderr)
    try:
        model = simulator.Model(**options)
        board = simulator.Simulator(model, port=arguments.port, modelled_watts=arguments.modelled_watts)
    except (VerilatorMissing, simulator.SimulatorError, ValueError, OSError) as error:
        raise BoardError(f"the simulated board cannot be started: {error}") from error
    with board:
        print(board.url, board.socket_url or "", sep="\n", flush=True)
        print("Ctrl-C ends it. Only this machine can reach it: the TCP port is the loopback's.", file=sys.stderr)
        ended = threading.Event()
        before = {number: signal.signal(number, lambda *_: ended.set()) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            while board.running and not ended.wait(0.2):
                pass
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if not ended.is_set():
            raise BoardError("the simulated board ended by itself")
    return 0


# ---------------------------------------------------------------------------- info


def _info(arguments: argparse.Namespace) -> int:
    with _open(arguments) as board:
        told: dict[str, Any] = {**board.describe(), "counters": asdict(board.counters())}
        energy = board.read_energy()
        told["energy"] = {**asdict(energy), "source": energy.source.name.lower(), "scope": energy.scope.name.lower()}
    if arguments.json:
        print(json.dumps(told, indent=2))
        return 0
    hello = told["hello"]
    lines = {
        "board": f"{hello['name']}, protocol {hello['version'][0]}.{hello['version'][1]}, at {told['link']['url']}",
        "formats": ", ".join(hello["formats"]),
        "dot units": f"{hello['rows']} x {hello['columns']} of {hello['lanes']} lanes, {hello['clock_hz'] / 1e6:g} MHz",
        "memory": f"{hello['element_bytes']} bytes for elements, {hello['scale_bytes']} for scales, "
        f"{hello['handles']} handles, rows of at most {hello['max_blocks'] * 32} elements",
        "link": f"{hello['credits']} requests under way, {hello['max_payload']} bytes of payload",
        "energy": told["energy"]["source"],
        "counters": ", ".join(f"{name} {value}" for name, value in told["counters"].items()),
    }
    if told["simulated"]:
        lines["board"] += " (simulated)"
    for name, text in lines.items():
        print(f"{name:<10} {text}")
    return 0


# ---------------------------------------------------------------------------- selftest


def _selftest(arguments: argparse.Namespace) -> int:
    from .selftest import run_selftest

    with _open(arguments) as board:
        outcomes = []
        for outcome in run_selftest(board):
            outcomes.append(outcome)
            if not arguments.json:
                print(f"{'ok' if outcome.passed else 'FAULT':<6} {outcome.name:<26} {outcome.fault or outcome.detail}")
        name = board.name
    faults = sum(not outcome.passed for outcome in outcomes)
    if arguments.json:
        print(json.dumps({"board": name, "faults": faults, "checks": [asdict(o) for o in outcomes]}, indent=2))
    else:
        print(f"{name}: {len(outcomes)} checks, {faults} faults")
    return 1 if faults else 0


# ---------------------------------------------------------------------------- bench


def _bench(arguments: argparse.Namespace) -> int:
    from .speed import LAYER_TARGET_S, LINK_TARGET, layer_speed, link_speed

    with _open(arguments) as board:
        link = link_speed(board, baudrate=arguments.baudrate)
        shape = {"rows": arguments.rows, "length": arguments.length, "tokens": arguments.tokens}
        layers = [layer_speed(board, fmt, arguments.activations, **shape) for fmt in arguments.formats]
        hello, simulated = board.hello, board.simulated
    if arguments.json:
        plain = {
            "board": hello.name,
            "simulated": simulated,
            "link": {**asdict(link), "target": LINK_TARGET, "met": link.met},
            "layers": [{**asdict(layer), "met": layer.met} for layer in layers],
            "layer_target_s": LAYER_TARGET_S,
        }
        print(json.dumps(plain, indent=2))
        return 0 if all(layer.exact for layer in layers) else 1
    print(f"board  {hello.name}" + (" (simulated: seconds are the simulator's)" if simulated else ""))
    used = "not known" if link.efficiency is None else f"{100 * link.efficiency:.1f}%"
    print(
        f"link   {link.payload_per_second / 1e6:.2f} MB/s of weights; {used} of {link.compared_with} (framing alone "
        f"{100 * link.framing:.1f}%); target {100 * LINK_TARGET:g}%: {_VERDICTS[link.met]}"
    )
    for layer in layers:
        exact = "bit-exact" if layer.exact else "WRONG BITS"
        macs = layer.rows * layer.length * layer.tokens
        rate = macs / max(layer.busy_cycles, 1) * hello.clock_hz / 1e9
        print(
            f"layer  {layer.rows} x {layer.length} {layer.format}/{layer.activations}, {layer.tokens} tokens: "
            f"load {layer.load_s:.3f} s, product {layer.product_s:.4f} s, {exact}; {layer.busy_cycles} busy cycles, "
            f"dot units in use {100 * layer.utilisation:.0f}% of them, {rate:.2f} GMAC/s at "
            f"{hello.clock_hz / 1e6:g} MHz; target {LAYER_TARGET_S:g} s: {_VERDICTS[layer.met]}"
        )
    return 0 if all(layer.exact for layer in layers) else 1
