"""Write the RTL's constants from the Python tables: ``python -m mx_fpga.generate``.

One source for both sides: formats from the core, messages and limits from ``protocol`` and ``framing``. A test holds
the committed file to what this writes.
"""

from __future__ import annotations

from pathlib import Path

from mx_plugin.formats.spec import Format, get_format

from . import protocol
from .arithmetic import NAN_BITS
from .elements import FORMATS, INFINITE, NAN, element_table
from .framing import MAX_CONTENT

CONSTANTS = Path(__file__).resolve().parents[1] / "rtl" / "mx_constants.sv"
"""Where the package lies in the repository."""


def format_constants() -> list[str]:
    """Lines that declare what the decoders need of each format, indexed by its number on the wire."""
    formats = [get_format(name) for name in FORMATS]
    tables = [element_table(name) for name in FORMATS]

    def array(name: str, values: list[int], kind: str = "int") -> str:
        return f"  localparam {kind} {name}[{len(values)}] = '{{{', '.join(map(str, values))}}};"

    def named(form: Format) -> str:
        return f"{form.name} ({form.element.name})"

    return [
        f"  // By number: {', '.join(map(named, formats))}. The last entries are no formats.",
        array("FORMAT_BITS", _filled([form.element.bits for form in formats])),
        array("FORMAT_EXPONENT_BITS", _filled([form.element.exponent_bits for form in formats])),
        array("FORMAT_MANTISSA_BITS", _filled([form.element.mantissa_bits for form in formats])),
        "  // log2 of the value of a magnitude of one.",
        array("FORMAT_UNIT", _filled([table.unit for table in tables]), "logic signed [7:0]"),
        array("FORMAT_HAS_INFINITY", _filled([int((t.kind == INFINITE).any()) for t in tables]), "bit"),
        array("FORMAT_HAS_NAN", _filled([int((t.kind == NAN).any()) for t in tables]), "bit"),
        "  // Two digits need two passes.",
        array("FORMAT_TWO_DIGITS", _filled([int(table.digits == 2) for table in tables]), "bit"),
    ]


def protocol_constants() -> list[str]:
    """Lines that declare messages, statuses and limits."""
    lines = [f"  localparam logic [7:0] MESSAGE_{m.name} = 8'h{m.value:02x};" for m in protocol.Message]
    lines += [f"  localparam logic [7:0] STATUS_{s.name} = 8'd{s.value};" for s in protocol.Status]
    lines += [
        f"  localparam logic [7:0] REPLY = 8'h{protocol.REPLY:02x};",
        f"  localparam logic [7:0] VERSION_MAJOR = 8'd{protocol.VERSION[0]};",
        f"  localparam logic [7:0] VERSION_MINOR = 8'd{protocol.VERSION[1]};",
        f"  localparam logic [31:0] MAGIC = 32'h{int.from_bytes(protocol.MAGIC, 'little'):08x};  // little-endian",
        f"  localparam int MAX_CONTENT = {MAX_CONTENT};",
        f"  localparam int MAX_PAYLOAD = {protocol.MAX_PAYLOAD};",
        f"  localparam int HEADER_BYTES = {protocol.HEADER.size};",
    ]
    return lines


def constants() -> str:
    """The whole file."""
    lines = [
        "// Written by `python -m mx_fpga.generate` from the Python tables; do not edit.",
        "package mx_constants;",
        f"  localparam int FORMATS = {len(FORMATS)};",
        *format_constants(),
        "  // The one NaN that leaves the board.",
        f"  localparam logic [31:0] NAN_BITS = 32'h{NAN_BITS:08x};",
        "",
        *protocol_constants(),
        "endpackage",
    ]
    return "\n".join(lines) + "\n"


def _filled(values: list[int]) -> list[int]:
    """Eight entries, as many as a three-bit number can name."""
    return [*values, *[values[-1]] * (8 - len(values))]


def main() -> None:
    CONSTANTS.write_text(constants(), encoding="utf-8")
    print(CONSTANTS)


if __name__ == "__main__":
    main()
