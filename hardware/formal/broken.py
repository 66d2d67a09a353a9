"""RTL with one fault each, which its proof must not survive: a proof that cannot fail proves nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """In ``module``, ``right`` stands once; with ``wrong`` in its place the RTL is broken."""

    module: str
    right: str
    wrong: str


FAULTS = {
    "decoder": (
        Fault("mx_decode", "code[4:3] : fields", "code[5:4] : fields"),
        Fault("mx_decode", "{1'b0, code[6:5]} : code[6:4]", "{1'b0, code[6:5]} : code[7:5]"),
        Fault("mx_decode", " & fields.exponent_mask", ""),
        Fault("mx_decode", "code[2] & fields.mantissa3", "code[2] & !fields.mantissa2"),
        Fault("mx_decode", "fields.width[0] ? code[5] : code[3]", "fields.width[0] ? code[5] : code[7]"),
        Fault("mx_decode", "end else absolute1 <= '0;", "end"),
        Fault("mx_decode", "(hidden & fields.mantissa2)", "fields.mantissa2"),
        Fault("mx_decode", "hidden ? exponent1[3:0] - 4'd1 : 4'd0", "exponent1[3:0] - 4'd1"),
        Fault("mx_decode", "exponent1[4] & (|exponent1[3:0])", "exponent1[4]"),
        Fault("mx_decode", "mantissa1[1:0] == 0 ? INFINITE", "mantissa1 != 0 ? INFINITE"),
        Fault("mx_decode", "(&exponent1[3:0]) && (&mantissa1)", "(&exponent1[3:0])"),
        Fault("mx_decode", " || absolute1 != 0", ""),
        Fault("mx_decode", "element.negative  <= negative2", "element.negative  <= negative1"),
        Fault("mx_decode", "{shift2[3:2], 2'b00}", "{1'b0, shift2[2], 2'b00}"),
    ),
    "decoder_ecp5": (
        Fault("ecp5/mx_add_subtract", "16'h96aa", "16'h66aa"),
        Fault("ecp5/mx_add_subtract", "sum[WIDTH:1]", "sum[WIDTH-1:0]"),
        Fault("ecp5/mx_add_subtract", "({a, subtract})", "({a, 1'b0})"),
    ),
    "framer": (
        Fault("mx_transmit", "code == 8'd254", "code == 8'd253"),
        Fault("mx_transmit", "if (take && byte_ != 0) begin", "if (take) begin"),
        Fault("mx_transmit", "      code_place <= place;", "      code_place <= place + 12'd1;"),
        Fault("mx_transmit", "!full_run && ((state", "((state"),
        Fault("mx_transmit", "CLOSE: if (!full_run) begin", "CLOSE: begin"),
        Fault("mx_transmit", "if (&crc_byte_number)", "if (crc_byte_number == 2'd2)"),
        Fault("mx_transmit", "~crc[7:0] : in_data", "crc[7:0] : in_data"),
        Fault("mx_transmit", "if (at + 12'd1 == place)", "if (at == place)"),
        Fault("mx_transmit", "(state == SEND && out_ready) ? at + 12'd1 : at", "at"),
        Fault("mx_transmit", "        code_place <= 12'd0;\n", ""),
        Fault("mx_transmit", "state == FILL && !full_run;", "state == FILL;"),
        Fault("mx_transmit", "(state == FILL && in_valid)", "(state == FILL && in_valid && in_data != 8'h55)"),
        Fault("mx_transmit", "if (finish) state", "if (finish && !full_run) state"),
        Fault("mx_transmit", "        state <= FETCH;", "        state <= IDLE;"),
        Fault(
            "mx_transmit",
            "        state <= IDLE;\n        sent  <= 1'b1;",
            "        state <= CLOSE;\n        sent  <= 1'b1;",
        ),
        Fault("mx_transmit", "        sent  <= 1'b1;\n", ""),
        Fault("mx_transmit", "state == SEND || state == DELIMIT;", "state == SEND;"),
        Fault("mx_receive", " && crc == RESIDUE", ""),
        Fault("mx_receive", "left == 0 && !overlong", "left == 0"),
        Fault("mx_receive", "left == 0 && !overlong", "!overlong"),
        Fault("mx_receive", " && place >= 12'(HEADER_BYTES + CRC_BYTES)", ""),
        Fault("mx_receive", "end else bad <= started;", "end"),
        Fault("mx_receive", "full != 0 || bad;", "full != 0;"),
        Fault("mx_receive", "      started  <= 1'b0;\n", ""),
        Fault("mx_receive", "(!fetched_valid || move)", "!fetched_valid"),
        Fault("mx_receive", "in_data != 8'hff", "in_data != 8'hfe"),
        Fault("mx_receive", "(left != 0 || zero_due)", "(left != 0)"),
        Fault("mx_receive", "place == 12'(LIMIT)", "place == 12'(LIMIT - 1)"),
        Fault("mx_receive", "      left     <= '0;\n", ""),
        Fault("mx_receive", "      crc      <= START;\n", ""),
        Fault("mx_receive", "!full[writing];\n  assign take", "1'b1;\n  assign take"),
        Fault("mx_receive", "place - 12'(CRC_BYTES)", "place"),
        Fault("mx_receive", "        writing         <= !writing;\n", ""),
        Fault("mx_receive", "end else bad <= started;", "end else bad <= 1'b1;"),
        Fault("mx_receive", "{writing, place[10:0]}", "{1'b0, place[10:0]}"),
        Fault("mx_receive", "fetched_valid && (!data_valid || advance)", "fetched_valid"),
        Fault("mx_receive", "(!fetched_valid || move)", "1'b1"),
        Fault("mx_crc32", "32'hedb88320", "32'hedb88321"),
    ),
}
"""By the name of the proof."""
