"""Each unit of the datapath, by itself, against an independent model."""

from __future__ import annotations

from pathlib import Path

from tests.fpga.rtl.running import REPOSITORY, run_cocotb


def test_the_float32_adder_equals_numpy(tmp_path: Path) -> None:
    run_cocotb("mx_add", "cocotb_add", tmp_path)


def test_the_rounder_equals_fractions(tmp_path: Path) -> None:
    run_cocotb("mx_round", "cocotb_round", tmp_path)


def test_the_tile_equals_the_arithmetic_for_all_pairs(tmp_path: Path) -> None:
    sizes = {"TILE_ROWS": "2", "TILE_COLUMNS": "2"}  # plain COLUMNS is a terminal's width where tests are shared out
    run_cocotb("mx_tile", "cocotb_tile", tmp_path, {"ROWS": 2, "COLUMNS": 2}, **sizes)


def test_the_core_keeps_every_byte_whatever_stalls(tmp_path: Path) -> None:
    run_cocotb("mx_core", "cocotb_core", tmp_path, {"ROWS": 1, "COLUMNS": 1, "WORDS": 256, "BLOCKS": 16})


FORMAL = REPOSITORY / "hardware" / "formal"


def test_what_is_proved_of_the_decoder_is_seen_in_simulation(tmp_path: Path) -> None:
    run_cocotb("decoder", "cocotb_decoder", tmp_path, harness=[FORMAL / "decoder.sv"])


def test_what_is_proved_of_the_framer_is_seen_with_noise_pauses_and_full_runs(tmp_path: Path) -> None:
    names = ("framer_pkg.sv", "framer_place.sv", "framer.sv")
    run_cocotb("framer", "cocotb_framer", tmp_path, harness=[FORMAL / name for name in names])
