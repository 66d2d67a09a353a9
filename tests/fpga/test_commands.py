"""``mx-plugin fpga`` and its lines in ``mx-plugin doctor``, on a board made of software and on the simulated one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

import mx_fpga.checks
import mx_fpga.port
from mx_fpga import protocol
from mx_fpga.fake import DEFAULT, FakeBoard
from mx_fpga.fake_port import FakePort
from mx_fpga.protocol import EnergySource, Message
from mx_plugin.cli import main

Capture = pytest.CaptureFixture[str]


def json_of(capsys: Capture, *words: str, status: int = 0) -> dict[str, object]:
    assert main(["fpga", *words, "--json"]) == status
    return json.loads(capsys.readouterr().out)


# ---------------------------------------------------------------------------- info


def test_info_says_what_the_board_says_of_itself(capsys: Capture) -> None:
    told = json_of(capsys, "info", "fake:?columns=4")
    assert told["hello"]["columns"] == 4 and told["hello"]["formats"][0] == "MXFP8"
    assert told["counters"]["frames_received"] >= 1 and told["energy"]["source"] == "none"
    assert main(["fpga", "info", "fake:"]) == 0
    out = capsys.readouterr().out
    assert "fake, protocol 1.0" in out and "(simulated)" in out and "rows of at most 8192 elements" in out


def test_the_default_url_is_that_of_the_environment(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MX_FPGA_URL", "fake:?columns=3")
    assert json_of(capsys, "info")["hello"]["columns"] == 3


def test_a_board_that_is_not_there_is_one_message(capsys: Capture) -> None:
    assert main(["fpga", "info", "/dev/no-board"]) == 2
    assert capsys.readouterr().err.startswith("mx-plugin: error: /dev/no-board cannot be opened")


def test_options_reach_the_link(capsys: Capture) -> None:
    assert main(["fpga", "info", "/dev/no-board", "--board", "acme"]) == 2
    assert "unknown board 'acme'" in capsys.readouterr().err
    assert main(["fpga", "info", "fake:", "--baudrate", "-1"]) == 2
    assert "Not a valid baudrate: -1" in capsys.readouterr().err


def test_a_subcommand_must_be_chosen(capsys: Capture) -> None:
    assert main(["fpga"]) == 2
    assert "{sim,info,selftest,bench}" in capsys.readouterr().err


# ---------------------------------------------------------------------------- selftest


@pytest.mark.parametrize("url", ["fake:", "fake:?rows=4&columns=1&group=4&credits=1&max_payload=600&formats=49"])
def test_a_sound_board_passes(capsys: Capture, url: str) -> None:
    report = json_of(capsys, "selftest", url)
    pairs = 36 if url == "fake:" else 9
    assert report["faults"] == 0 and len(report["checks"]) == pairs + 8
    assert {"name": "MXFP8/MXFP4", "fault": ""}.items() <= report["checks"][3 + (4 if pairs == 36 else 1)].items()


def wrong_bits(reply: bytes) -> bytes:
    return reply[:4] + bytes([reply[4] ^ 1]) + reply[5:]


@pytest.mark.parametrize(
    ("message", "damage", "check", "fault"),
    [
        (Message.RUN, wrong_bits, "MXFP8/MXFP8", "results differ; the first, token 0, row 0"),
        (
            Message.PING,
            lambda reply: reply[:-1] if len(reply) > 600 else reply,
            "echoes of all sizes",
            "came back changed",
        ),
        (Message.COUNTERS, lambda reply: reply[:4] + bytes(48), "counters", "not for 16"),
        (Message.READ_ENERGY, lambda reply: reply[:4] + b"\2" + reply[5:], "energy", "READ_ENERGY says MODELLED"),
    ],
)
def test_a_board_with_a_fault_is_found_wanting(
    capsys: Capture, message: Message, damage: object, check: str, fault: str
) -> None:
    class Faulty(FakeBoard):
        def _answer(self, content: bytes) -> bytes:
            reply = super()._answer(content)
            sound = content[0] != message or protocol.decode(reply).status
            return reply if sound else damage(reply)

    with FakePort(Faulty()) as port:
        report = json_of(capsys, "selftest", port.url, status=1)
        found = {entry["name"]: entry["fault"] for entry in report["checks"]}
        assert fault in found[check]
        assert found["refusals"] == "", "the other checks are still made"
        assert main(["fpga", "selftest", port.url]) == 1
        assert f"FAULT  {check}" in capsys.readouterr().out


def test_a_board_that_takes_everything_is_found_wanting(capsys: Capture) -> None:
    class Careless(FakeBoard):
        def _answer(self, content: bytes) -> bytes:
            reply = super()._answer(content)
            frame = protocol.decode(reply)
            return protocol.encode_reply(Message(frame.message), frame.sequence, frame.payload)

    with FakePort(Careless()) as port:
        report = json_of(capsys, "selftest", port.url, status=1)
    assert any("but was taken" in entry["fault"] for entry in report["checks"])


# ---------------------------------------------------------------------------- bench


def test_bench_measures_link_and_layers(capsys: Capture) -> None:
    words = ("--rows", "64", "--length", "96", "--tokens", "3", "--formats", "MXFP4", "MXINT8")
    report = json_of(capsys, "bench", "fake:", *words)
    assert report["link"]["efficiency"] > 0.95 and report["link"]["met"] is True and report["simulated"] is True
    assert [layer["format"] for layer in report["layers"]] == ["MXFP4", "MXINT8"]
    for layer in report["layers"]:
        assert layer["exact"] and layer["load_s"] > 0 and layer["product_s"] > 0
        assert layer["busy_cycles"] == 2 * 4 * 3 * 8  # token batches x groups x blocks x turns
    assert main(["fpga", "bench", "fake:", *words]) == 0
    out = capsys.readouterr().out
    assert "target 95%: met" in out and "bit-exact" in out and "GMAC/s at 50 MHz" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fake:", "--tokens", "-1"], "a layer of 896 x 896 with -1 tokens: each must be at least 1"),
        (["fake:", "--length", "100000"], "board fake multiplies rows of 1 to 8192 elements"),
        (["fake:", "--formats", "MXFP5"], "did you mean 'MXFP8'"),
        (["fake:?element_bytes=2048"], "too small to be measured"),
        (["fake:", "--timeout_s", "0"], "timeout_s=0.0 must be above 0"),
    ],
)
def test_bench_of_what_cannot_be_is_one_message(capsys: Capture, words: list[str], message: str) -> None:
    assert main(["fpga", "bench", *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("mx-plugin: error: ") and message in said


def test_bench_of_wrong_bits_fails_and_of_an_unknown_line_judges_nothing(capsys: Capture) -> None:
    class Faulty(FakeBoard):
        def _answer(self, content: bytes) -> bytes:
            reply = super()._answer(content)
            return wrong_bits(reply) if content[0] == Message.RUN else reply

    words = ("--rows", "32", "--length", "32", "--formats", "MXFP8")
    with FakePort(Faulty()) as port:
        report = json_of(capsys, "bench", port.url, *words, status=1)
        assert report["link"]["efficiency"] is None and report["link"]["met"] is None
        assert not report["layers"][0]["exact"] and not report["layers"][0]["met"]
        assert main(["fpga", "bench", port.url, *words]) == 1
        assert "WRONG BITS" in capsys.readouterr().out
    with FakePort(FakeBoard(replace(DEFAULT, energy=EnergySource.MEASURED))) as port:
        report = json_of(capsys, "bench", port.url, *words, "--baudrate", "115200")
        assert report["link"]["compared_with"] == "115200 baud"


# ---------------------------------------------------------------------------- sim


def test_sim_prints_two_urls_and_ends_when_told(verilator: None) -> None:
    # The sizes of conftest's model, which is built already.
    sizes = ["--memory_bytes", str(1 << 20), "--handles", "16"]
    words = [sys.executable, "-m", "mx_plugin", "fpga", "sim", *sizes, "--modelled_watts", "2"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})
    assert process.stdout is not None
    urls = [process.stdout.readline().strip() for _ in range(2)]
    try:
        assert urls[1].startswith("socket://127.0.0.1:")
        for url in urls:
            done = subprocess.run(
                [sys.executable, "-m", "mx_plugin", "fpga", "info", url, "--json"],
                capture_output=True,
                text=True,
                check=True,
            )
            told = json.loads(done.stdout)
            assert told["hello"]["name"] == "simulated" and told["energy"]["source"] == "modelled"
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert not os.path.exists(urls[0])


def test_sim_with_impossible_dimensions_is_one_message(capsys: Capture) -> None:
    assert main(["fpga", "sim", "--rows", "3"]) == 2
    assert "the RTL has 1, 2 or 4 rows" in capsys.readouterr().err
    assert main(["fpga", "sim", "--port", "99999"]) == 2
    assert "port must lie in 0..65535, not 99999" in capsys.readouterr().err


# ---------------------------------------------------------------------------- doctor


def test_doctor_tells_of_pyserial_ports_and_the_simulator(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MX_FPGA_URL", "/dev/no-board")
    assert main(["doctor", "--json"]) == 0
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["pyserial"]["status"] == "ok"
    assert any(name.startswith("serial port") for name in checks)
    assert "simulated board" in checks
    assert checks["backend fpga"]["status"] == "ok", "doctor opens no board"
    assert checks["meter fpga"]["status"] == "warn" and "no board is open" in checks["meter fpga"]["detail"]


def test_doctor_names_the_remedy_where_pyserial_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx_fpga.port, "have_pyserial", lambda: False)
    check = mx_fpga.checks.board_checks()[0]
    assert (check.name, check.status, check.remedy) == ("pyserial", "warn", "pip install 'mx-plugin[fpga]'")


def test_doctor_names_ports_without_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    from serial.tools import list_ports
    from serial.tools.list_ports_common import ListPortInfo

    port = ListPortInfo("/dev/ttyUSB7", skip_link_detection=True)
    port.description = "FT231X USB UART"
    monkeypatch.setattr(list_ports, "comports", lambda: [port])
    monkeypatch.setattr(os, "access", lambda path, mode: path != "/dev/ttyUSB7")
    checks = {check.name: check for check in mx_fpga.checks.board_checks()}
    found = checks["serial port /dev/ttyUSB7"]
    assert found.status == "warn" and "FT231X" in found.detail and "dialout" in found.remedy
