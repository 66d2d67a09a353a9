"""The controller's weights: quantised, loaded into a backend or a board, and never stale."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

import mx_plugin
from mx_plugin import plugins
from mx_plugin.errors import FormatError, PluginError, PolicyError
from mx_plugin.interfaces import Backend, Capabilities
from mx_plugin.precision import AdaptiveController

Controllers = Callable[..., AdaptiveController]


@pytest.fixture
def attached(model: nn.Module, controllers: Controllers) -> AdaptiveController:
    controller = controllers(policy="C")
    controller.attach(model)
    return controller


MLP = "transformer.h.0.mlp"


def weight_in(controller: AdaptiveController, handle: object) -> torch.Tensor:
    """The weight (out, in) behind a handle: what the backend multiplies the unit matrix by."""
    return controller.backend.linear(torch.eye(64), handle, activations="FP16").T


@pytest.mark.parametrize("fmt", ["MXFP4", "MXFP8", "MXFP6_E3M2/MXFP4"])
def test_a_loaded_weight_is_the_quantised_one_and_the_layers_own_is_untouched(
    attached: AdaptiveController, model: nn.Module, fmt: str
) -> None:
    weight = model.get_parameter(f"{MLP}.weight")
    before = weight.detach().clone()
    loaded = weight_in(attached, attached.load_quantized_weights(MLP, fmt))
    expected = mx_plugin.quantize(before, fmt.split("/")[0], dim=-1, scale_rule="rceil").dequantize(torch.float32)
    assert torch.equal(loaded, expected)
    assert not torch.equal(loaded, before)
    assert torch.equal(weight, before)


def test_a_weight_is_loaded_once_per_layer_and_format(attached: AdaptiveController) -> None:
    first = attached.load_quantized_weights(MLP, "MXFP4")
    attached.load_quantized_weights(MLP, "MXFP8")
    attached.load_quantized_weights("transformer.h.1.mlp", "MXFP4")
    loads = attached.backend.counters().weights_loaded
    assert attached.load_quantized_weights(MLP, "mxfp4") is first
    assert attached.backend.counters().weights_loaded == loads == 3


def optimiser_step(model: nn.Module) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    model.get_parameter(f"{MLP}.weight").grad = torch.ones(64, 64)
    optimiser.step()


def write_through_data(model: nn.Module) -> None:
    model.get_parameter(f"{MLP}.weight").data.mul_(1.5)


def load_state_dict(model: nn.Module) -> None:
    state = {name: value.clone() for name, value in model.state_dict().items()}
    # One element that the sampled fingerprint does not see: only the hook can tell.
    state[f"{MLP}.weight"][0, 1] += 3.0
    model.load_state_dict(state)


@pytest.mark.parametrize("write", [optimiser_step, write_through_data, load_state_dict])
def test_a_written_weight_is_loaded_anew(
    attached: AdaptiveController, model: nn.Module, write: Callable[[nn.Module], None]
) -> None:
    attached.load_quantized_weights(MLP, "MXFP8")
    write(model)
    loaded = weight_in(attached, attached.load_quantized_weights(MLP, "MXFP8"))
    weight = model.get_parameter(f"{MLP}.weight").detach()
    assert torch.equal(loaded, mx_plugin.quantize(weight, "MXFP8", scale_rule="rceil").dequantize(torch.float32))


def test_an_unknown_layer_or_format_is_refused(attached: AdaptiveController) -> None:
    with pytest.raises(PolicyError, match=r"did you mean 'transformer\.h\.0\.mlp'"):
        attached.load_quantized_weights("transformer.h.0.mpl", "MXFP4")
    with pytest.raises((PolicyError, FormatError), match="did you mean 'MXFP4'"):
        attached.load_quantized_weights(MLP, "MXPF4")
    with pytest.raises(PolicyError, match="FP16 is not a block format"):
        attached.load_quantized_weights(MLP, "FP16")


# ---------------------------------------------------------------------------- a board


def board_plugin(opened: list[Backend], urls: list[str]) -> object:
    """A plugin whose backend ``fpga`` is the reference backend with the few formats of a small board."""
    reference = type(mx_plugin.get_backend("cpu"))

    class SmallBoard(reference):  # type: ignore[misc, valid-type]
        name = "fpga"
        closed = False

        @property
        def capabilities(self) -> Capabilities:
            return Capabilities(formats=("MXFP4", "MXFP8"), activations=("MXFP8",))

        def close(self) -> None:
            self.closed = True

    def make(url: str) -> Backend:
        opened.append(SmallBoard())
        urls.append(url)
        return opened[-1]

    class Plugin:
        @mx_plugin.hookimpl
        def mx_register_backends(self, register: Callable[..., None]) -> None:
            register("fpga", make, summary="a board for these tests")

    return Plugin()


@pytest.fixture
def boards(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[Backend], list[str]]]:
    """Boards opened so far, and their URLs."""
    monkeypatch.setenv("MX_PLUGIN_DISABLE", "mx_fpga")
    plugins.reset()
    opened: list[Backend] = []
    urls: list[str] = []
    plugins.register(board_plugin(opened, urls), "board_of_the_tests")
    yield opened, urls
    plugins.reset()


def test_without_a_device_there_is_no_board_to_configure(controllers: Controllers) -> None:
    with pytest.raises(PluginError, match=r"give AdaptiveController\(fpga_device=\.\.\.\)"):
        controllers(policy="C").configure_fpga("MXFP8")


def test_without_an_fpga_backend_the_error_lists_what_is_installed(
    controllers: Controllers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MX_PLUGIN_DISABLE", "mx_fpga")
    plugins.reset()
    try:
        with pytest.raises(PluginError, match=r"'fpga'.*cpu"):
            controllers(policy="C", fpga_device="/dev/ttyUSB1").configure_fpga("MXFP8")
    finally:
        monkeypatch.undo()
        plugins.reset()


def test_fp16_is_no_format_of_a_board(controllers: Controllers) -> None:
    with pytest.raises(PolicyError, match="FP16 is not a block format, which the board needs"):
        controllers(policy="C", fpga_device="/dev/ttyUSB1").configure_fpga("FP16")


def test_a_configured_board_takes_the_weights(
    attached: AdaptiveController, boards: tuple[list[Backend], list[str]]
) -> None:
    attached.load_quantized_weights(MLP, "MXFP8")
    attached.fpga_device = "sim:small"
    board = attached.configure_fpga("MXFP8")
    assert (boards[0], boards[1]) == ([board], ["sim:small"])
    assert attached.backend is board
    attached.load_quantized_weights(MLP, "MXFP8")
    assert board.counters().weights_loaded == 1
    with pytest.raises(PluginError, match=r"configured for MXFP8/MXFP8, not for MXFP4: call configure_fpga\('MXFP4'\)"):
        attached.load_quantized_weights(MLP, "MXFP4")
    assert attached.configure_fpga("MXFP4") is board
    attached.load_quantized_weights(MLP, "MXFP4")
    assert board.counters().weights_loaded == 2
    # A board holds weights of the format that it is configured for, and no others.
    attached.configure_fpga("MXFP8")
    attached.load_quantized_weights(MLP, "MXFP8")
    assert board.counters().weights_loaded == 3
    attached.detach()
    assert board.closed  # type: ignore[attr-defined]


def test_a_format_that_the_board_lacks_is_refused_and_the_board_closed(
    controllers: Controllers, boards: tuple[list[Backend], list[str]]
) -> None:
    controller = controllers(policy="C", fpga_device="sim:small")
    with pytest.raises(PluginError, match=r"backend fpga has no weights in MXINT8: .*Valid: MXFP4, MXFP8"):
        controller.configure_fpga("MXINT8")
    with pytest.raises(PluginError, match="backend fpga has no activations in MXFP4"):
        controller.configure_fpga("MXFP8/MXFP4")
    assert [board.closed for board in boards[0]] == [True, True]  # type: ignore[attr-defined]
