"""The backend ``fpga``: three modes, the same bits; failures stop training or are survived, never hidden."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import Any

import pytest
import torch

import mx_fpga.lazy_board
from mx_fpga import arithmetic
from mx_fpga.board import open_boards
from mx_fpga.compare import allowed_error, compare_within
from mx_fpga.elements import FORMATS, format_number
from mx_fpga.errors import BoardError, DoesNotFit
from mx_fpga.fake import DEFAULT, FakeBoard
from mx_fpga.fake_port import FakePort
from mx_fpga.protocol import Message
from mx_plugin import get_backend, hookimpl, plugins, quantize
from mx_plugin.errors import FormatError, PluginError
from mx_plugin.interfaces import Backend, Exactness

LINK = {"timeout_s": 0.2, "retries": 2, "backoff_s": 0.001, "reopen_s": 0.1}


def weight(rows: int = 40, length: int = 70, fmt: str = "MXFP4") -> Any:
    return quantize(torch.randn(rows, length), fmt, scale_rule="rceil")


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a.view(torch.uint8), b.view(torch.uint8))


# ---------------------------------------------------------------------------- emulate


@pytest.mark.parametrize("activations", FORMATS)
@pytest.mark.parametrize("weights", FORMATS)
def test_emulate_is_the_boards_arithmetic(make: Any, weights: str, activations: str) -> None:
    w, x = weight(fmt=weights), torch.randn(3, 70)
    backend = make(mode="emulate")
    y = backend.linear(x, backend.load_weight(w), None, activations, scale_rule="rceil")
    packed = quantize(x, activations, scale_rule="rceil")
    exact = arithmetic.matmul_codes(
        packed.element_codes().numpy(), packed.scale_codes().numpy(), activations,
        w.element_codes().numpy(), w.scale_codes().numpy(), weights,
    )  # fmt: skip
    assert same_bits(y, torch.from_numpy(exact))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(70,), (1, 70), (2, 3, 70), (0, 70), (65, 2, 70)])
def test_shapes_dtypes_and_bias_are_those_of_a_linear_layer(
    make: Any, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    backend, w = make(mode="emulate"), weight()
    x, bias = torch.randn(shape).to(dtype), torch.randn(40).to(dtype)
    y = backend.linear(x, backend.load_weight(w), bias)
    reference = get_backend("reference")
    other = reference.linear(x, reference.load_weight(w), bias)
    assert y.shape == other.shape == (*shape[:-1], 40) and y.dtype == dtype
    torch.testing.assert_close(y, other, rtol=3 * torch.finfo(dtype).eps, atol=64 * torch.finfo(dtype).eps)


def test_emulate_stays_within_the_bound_that_it_declares(make: Any) -> None:
    backend, w, x = make(mode="emulate"), weight(64, 8192, "MXFP8"), torch.randn(4, 8192)
    y = backend.linear(x, backend.load_weight(w), activations="MXFP8").double()
    xq, wq = quantize(x, "MXFP8").dequantize().double(), w.dequantize().double()
    relative = (y - xq @ wq.T).abs() / (xq.abs() @ wq.abs().T)
    assert 0 < float(relative.max()) <= backend.capabilities.exactness.bound


def test_a_finished_backend_and_foreign_handles_are_refused(make: Any) -> None:
    backend, other = make(mode="emulate"), make(mode="emulate")
    handle = backend.load_weight(weight())
    for wrong in (other.load_weight(weight()), "handle", None):
        with pytest.raises(PluginError, match="not a weight"):
            backend.linear(torch.randn(1, 70), wrong)
    backend.unload_weight(handle)
    backend.unload_weight(handle)
    with pytest.raises(PluginError, match="not a weight"):
        backend.linear(torch.randn(1, 70), handle)
    backend.close()
    backend.close()
    with pytest.raises(PluginError, match="closed"):
        backend.load_weight(weight())


def test_what_no_board_multiplies_is_refused_with_the_remedy(make: Any) -> None:
    backend = make(mode="emulate")
    handle = backend.load_weight(weight())
    with pytest.raises(
        FormatError, match=r"not unquantised activations \(FP16\): give the layer a pair such as MXFP4/MXFP8"
    ):
        backend.linear(torch.randn(1, 70), handle, activations="FP16")
    with pytest.raises(FormatError, match=r"needs \(\.\.\., 70\)"):
        backend.linear(torch.randn(1, 71), handle)
    with pytest.raises(FormatError, match="blocked along"):
        backend.load_weight(quantize(torch.randn(32, 32), "MXFP8", dim=0))
    with pytest.raises(FormatError, match="scale_rule"):
        backend.linear(torch.randn(1, 70), handle, scale_rule="up")


# ---------------------------------------------------------------------------- offload


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_offload_gives_the_bits_of_emulate(make: Any, port: FakePort, dtype: torch.dtype) -> None:
    board, host = make(url=port.url, **LINK), make(mode="emulate")
    for fmt, activations in (("MXFP4", "MXFP8"), ("MXFP8_E5M2", "MXINT8")):
        w, x, bias = weight(fmt=fmt), torch.randn(2, 5, 70).to(dtype), torch.randn(40)
        on_board, on_host = (b.linear(x, b.load_weight(w), bias, activations) for b in (board, host))
        assert same_bits(on_board, on_host)
    counters = board.counters()
    assert (counters.linear_calls, counters.weights_loaded, counters.macs) == (2, 2, 2 * 10 * 70 * 40)
    assert counters.extra["board_loads"] == 2 and counters.extra["emulated_calls"] == 0
    assert board.product_dtype(torch.float32) == torch.int32, "a host's float32 energies do not apply"


def test_a_weight_stays_on_the_board_until_it_is_unloaded(make: Any, port: FakePort, fake: FakeBoard) -> None:
    backend = make(url=port.url, **LINK)
    handle = backend.load_weight(weight())
    for _ in range(3):
        backend.linear(torch.randn(1, 70), handle)
    assert fake.requests.count(Message.LOAD_COMMIT) == 1
    memory = backend.board.opened.memory
    assert memory.used_bytes > 0
    backend.unload_weight(handle)
    assert memory.used_bytes == 0


def test_a_url_that_is_given_is_opened_at_once_and_the_default_one_late(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PluginError, match=r"could not be made: PortLost: /dev/no-board cannot be opened"):
        make(url="/dev/no-board")
    monkeypatch.setenv("MX_FPGA_URL", "fake:?columns=3")
    backend = make()
    assert open_boards() == [] and backend.capabilities.memory_bytes is None
    backend.load_weight(weight())
    assert [board.hello.columns for board in open_boards()] == [3]
    assert backend.capabilities.memory_bytes == DEFAULT.element_bytes + DEFAULT.scale_bytes


def test_without_pyserial_only_emulate_works_and_the_error_says_how_to_get_it(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mx_fpga.lazy_board, "have_pyserial", lambda: False)
    with pytest.raises(PluginError, match=r"pip install 'mx-plugin\[fpga\]', or choose mode=emulate"):
        make()
    make(mode="emulate")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "ofload"}, "mode='ofload' is not a choice: did you mean 'offload'"),
        ({"on_failure": "go on", "url": "fake:"}, "on_failure='go on' is not a choice"),
        ({"mode": "verify", "share": 0.0}, r"share=0\.0 must lie in \(0, 1\]"),
        ({"mode": "verify", "tokens": 0}, "tokens=0 must be at least 1"),
        ({"mode": "verify", "on_mismatch": "cry"}, "on_mismatch='cry' is not a choice"),
        ({"mode": "verify", "executor": "fpga"}, "executor='fpga' is itself"),
        ({"mode": "verify", "executor": "cpuu"}, "unknown backend 'cpuu': did you mean 'cpu'"),
    ],
)
def test_wrong_options_are_refused(make: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PluginError, match=message):
        make(**options)


# ---------------------------------------------------------------------------- failures


def test_a_board_that_fails_stops_training_with_a_clear_error(make: Any, port: FakePort) -> None:
    backend = make(url=port.url, **LINK)
    handle = backend.load_weight(weight())
    port.close()
    with pytest.raises(BoardError, match=r"did not come back within 0\.1 s"):
        backend.linear(torch.randn(2, 70), handle)


def test_a_board_that_fails_may_be_given_up_for_the_same_bits(
    make: Any, port: FakePort, caplog: pytest.LogCaptureFixture
) -> None:
    backend, host = make(url=port.url, on_failure="emulate", **LINK), make(mode="emulate")
    w, x = weight(), torch.randn(6, 70)
    handle, expected = backend.load_weight(w), host.linear(x, host.load_weight(w))
    assert same_bits(backend.linear(x, handle), expected)
    port.close()
    for _ in range(2):
        assert same_bits(backend.linear(x, handle), expected)
    assert same_bits(backend.linear(x, backend.load_weight(w)), expected)
    assert caplog.text.count("is given up") == 1 and "computes the same bits" in caplog.text
    told = json.loads(json.dumps(backend.describe()))
    assert "did not come back" in told["gave_up"] and told["emulated_calls"] == 3
    assert open_boards() == [] and backend.product_dtype(torch.float32) == torch.float32


def test_a_board_that_cannot_be_opened_may_be_given_up_too(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    backend = make(url="/dev/no-board", on_failure="emulate")
    assert backend.linear(torch.randn(2, 70), backend.load_weight(weight())).shape == (2, 40)
    assert "/dev/no-board is given up" in caplog.text


def test_a_row_that_is_too_long_for_the_board_is_refused_or_multiplied_on_the_host(
    caplog: pytest.LogCaptureFixture,
) -> None:
    w, x = weight(20, 200), torch.randn(2, 200)
    with FakePort(FakeBoard(replace(DEFAULT, max_blocks=4))) as port:
        stopping = get_backend("fpga", url=port.url, **LINK)
        with pytest.raises(DoesNotFit, match="20 rows of 200 elements: board fake multiplies rows of 1 to 128"):
            stopping.load_weight(w)
        stopping.close()
        backend, host = (
            get_backend("fpga", url=port.url, on_failure="emulate", **LINK),
            get_backend("fpga", mode="emulate"),
        )
        assert same_bits(backend.linear(x, backend.load_weight(w)), host.linear(x, host.load_weight(w)))
        assert "multiplied on the host, with the same bits" in caplog.text
        small = weight(20, 128)
        backend.linear(torch.randn(1, 128), backend.load_weight(small))
        assert backend.counters().extra["emulated_calls"] == 1, "the board is still used for what fits"
        backend.close()


@pytest.mark.parametrize("activations", ["MXFP8", "MXFP4"])
def test_a_format_that_the_board_does_not_know_is_multiplied_on_the_host(
    caplog: pytest.LogCaptureFixture, activations: str
) -> None:
    """Of the weight, or of the activations alone."""
    fmt = "MXFP4" if activations == "MXFP8" else "MXFP8"
    w, x = quantize(torch.randn(20, 64), fmt), torch.randn(2, 64)
    with FakePort(FakeBoard(replace(DEFAULT, formats=1 << format_number("MXFP8")))) as port:
        host = get_backend("fpga", mode="emulate")
        expected = host.linear(x, host.load_weight(w), activations=activations)
        offload = get_backend("fpga", url=port.url, on_failure="emulate", **LINK)
        assert same_bits(offload.linear(x, offload.load_weight(w), activations=activations), expected)
        assert "does not multiply MXFP4" in caplog.text and offload.counters().extra["emulated_calls"] == 1
        offload.close()
        verify = get_backend("fpga", mode="verify", url=port.url, share=1.0, **LINK)
        verify.linear(x, verify.load_weight(w), activations=activations)
        assert "compared with emulate alone" in caplog.text
        verify.close()


# ---------------------------------------------------------------------------- verify


class WrongBoard(FakeBoard):
    """Flips the lowest bit of the first result of every RUN."""

    def _answer(self, content: bytes) -> bytes:
        reply = super()._answer(content)
        if content[0] == Message.RUN and reply[1] == 0:
            return reply[:4] + bytes([reply[4] ^ 1]) + reply[5:]
        return reply


@pytest.mark.parametrize("executor", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_verify_returns_the_executing_backends_bits_and_finds_nothing(
    make: Any, port: FakePort, executor: str, dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    backend, alone = make(mode="verify", url=port.url, executor=executor, share=1.0, **LINK), get_backend(executor)
    w, bias = weight(), torch.randn(40).to(dtype)
    handle, other = backend.load_weight(w), alone.load_weight(w)
    for seed in range(4):
        x = torch.randn(20, 70, generator=torch.Generator().manual_seed(seed)).to(dtype)
        assert same_bits(backend.linear(x, handle, bias), alone.linear(x, other, bias))
    found = backend.findings
    assert (found.mirrored_calls, found.mirrored_tokens) == (4, 32)
    assert found.board_elements == found.executor_elements == 32 * 40
    assert found.board_mismatches == found.executor_mismatches == 0
    assert 0 <= found.worst_error <= 1
    assert backend.capabilities == alone.capabilities
    assert backend.counters().extra["verify_board_mismatches"] == 0
    backend.close()
    assert "verify: 4 calls (32 tokens) mirrored; board and emulate differ in 0 of 1280 elements" in caplog.text


def test_a_board_that_errs_by_one_bit_is_found_counted_and_reported(
    make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with FakePort(WrongBoard()) as port:
        backend = make(mode="verify", url=port.url, share=1.0, **LINK)
        handle = backend.load_weight(weight())
        for _ in range(8):
            backend.linear(torch.randn(2, 70), handle)
        assert backend.findings.board_mismatches == 8 and backend.findings.executor_mismatches == 0
        assert json.loads(json.dumps(backend.describe()))["findings"]["board_mismatches"] == 8
        warnings = [r.message for r in caplog.records if "verify: board and emulate differ in 1 of 80" in r.message]
        assert len(warnings) == 5 and "40 x 70 layer, MXFP4/MXFP8; token 0, row 0" in warnings[0]
        assert "only counted" in warnings[-1]
        backend.close()
        assert "board and emulate differ in 8 of 640 elements" in caplog.text


def test_a_mismatch_is_fatal_by_option(make: Any) -> None:
    with FakePort(WrongBoard()) as port:
        backend = make(mode="verify", url=port.url, on_mismatch="fail", **LINK)
        with pytest.raises(BoardError, match="verify: board and emulate differ in 1 of 40"):
            backend.linear(torch.randn(1, 70), backend.load_weight(weight()))
        backend.close()


def test_an_executing_backend_that_leaves_its_bound_is_found(make: Any, port: FakePort) -> None:
    class Sloppy:
        MX_PLUGIN_INTERFACE = (1, 0)

        @hookimpl
        def mx_register_backends(self, register: Any) -> None:
            def factory() -> Backend:
                backend = get_backend("reference")
                bind = backend.bind

                def off_by_a_little(*arguments: Any) -> Any:
                    bound = bind(*arguments)
                    return lambda x, bias: bound(x, bias) * (1 + 1e-3)

                backend.bind = off_by_a_little  # type: ignore[method-assign]
                return backend

            register("sloppy", factory)

    plugins.register(Sloppy(), "sloppy_plugin")
    try:
        backend = make(mode="verify", url=port.url, executor="sloppy", **LINK)
        backend.linear(torch.randn(3, 70), backend.load_weight(weight()))
        assert backend.findings.executor_mismatches > 60 and backend.findings.board_mismatches == 0
        assert backend.findings.worst_error > 10
        backend.close()
    finally:
        plugins.reset()


def test_a_share_of_calls_and_of_rows_is_mirrored_the_first_call_always(make: Any, port: FakePort) -> None:
    backend = make(mode="verify", url=port.url, share=0.25, tokens=3, **LINK)
    handles = [backend.load_weight(weight()) for _ in range(2)]
    for handle in handles:
        for _ in range(9):
            backend.linear(torch.randn(50, 70), handle)
    assert backend.findings.mirrored_calls == 2 * 3  # calls 0, 4 and 8 of each
    assert backend.findings.mirrored_tokens == 2 * 3 * 3
    assert backend.counters().extra["board_loads"] == 2


def test_what_no_board_multiplies_is_executed_counted_and_said(
    make: Any, port: FakePort, caplog: pytest.LogCaptureFixture
) -> None:
    backend = make(mode="verify", url=port.url, share=1.0, **LINK)
    handle = backend.load_weight(weight())
    for _ in range(2):
        backend.linear(torch.randn(1, 70), handle, activations="FP16")
    assert backend.findings.unmirrored_calls == 2 and backend.findings.mirrored_calls == 0
    assert caplog.text.count("products of MXFP4/FP16 cannot be verified") == 1


def test_verify_survives_the_boards_end_only_where_that_is_allowed(make: Any) -> None:
    port = FakePort(FakeBoard())
    stopping = make(mode="verify", url=port.url, share=1.0, **LINK)
    handle = stopping.load_weight(weight())
    stopping.linear(torch.randn(1, 70), handle)
    port.close()
    with pytest.raises(BoardError, match="did not come back"):
        stopping.linear(torch.randn(1, 70), handle)
    stopping.close()
    port = FakePort(FakeBoard())
    going_on = make(mode="verify", url=port.url, share=1.0, on_failure="emulate", **LINK)
    handle = going_on.load_weight(weight())
    port.close()
    for _ in range(2):
        going_on.linear(torch.randn(1, 70), handle)
    found = going_on.findings
    assert (found.mirrored_calls, found.board_elements, found.executor_elements) == (2, 0, 80)


def test_infinities_and_nan_are_compared_for_what_they_are() -> None:
    x, w = quantize(torch.ones(1, 32), "MXFP8"), quantize(torch.ones(2, 32), "MXFP8")
    allowed = allowed_error(x, w, None, Exactness(1e-6), torch.float32)
    same = torch.tensor([[32.0, float("nan")]])
    assert compare_within(same, same.numpy(), None, allowed).count == 0
    assert (
        compare_within(torch.tensor([[32.0, float("nan")]]), torch.tensor([[32.0, 32.0]]).numpy(), None, allowed).count
        == 1
    )
    assert (
        compare_within(torch.tensor([[32.0, float("inf")]]), torch.tensor([[32.0, 32.0]]).numpy(), None, allowed).count
        == 1
    )
