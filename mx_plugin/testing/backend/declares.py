"""Level ``declares``: capabilities hold, in both directions."""

from __future__ import annotations

from ... import formats
from ...errors import MXError
from ...formats.spec import FP16, canonical, format_names
from ...interfaces import Capabilities
from ..check import Level
from ..fault import Fault, NotApplicable, demand, demand_form
from .trial import BackendTrial, gaussian, refused

LEVEL = Level("backend", "declares", "it does what its capabilities declare, and refuses the rest", BackendTrial)

NO_FORMAT = "MXFP5"


@LEVEL.check
def capabilities_are_sound(trial: BackendTrial) -> None:
    """Capabilities name registered formats, a device and a bound that is a positive number."""
    can = trial.can
    demand(isinstance(can, Capabilities), f"capabilities is a {type(can).__name__}, not a Capabilities")
    demand(can.formats, "no format of weights is declared")
    demand(can.activations, "no format of activations is declared; FP16 leaves them unquantised")
    demand(can.devices, "no device is declared")
    for fmt in (*can.formats, *can.activations):
        try:
            known = canonical(fmt)
        except MXError as error:
            raise Fault(f"a format is declared that nobody registered: {error}") from None
        demand(known == fmt, f"{fmt!r} is declared", f"declare {known!r}, the format's own name")
    demand(FP16 not in can.formats, "FP16 is declared as a format of weights; unquantised layers reach no backend")
    bound = can.exactness.bound
    demand(bound is None or bound > 0, f"the bound of exactness is {bound!r}", "None declares bit-exactness")


@LEVEL.check
def takes_what_it_declares(trial: BackendTrial) -> None:
    """Every declared pair of formats is loaded and multiplied."""
    x = gaussian(3, 64)
    for weights in trial.can.formats:
        handle = trial.backend.load_weight(trial.weight(weights))
        for activations in trial.can.activations:
            try:
                y = trial.backend.linear(x, handle, None, activations)
            except Exception as error:
                raise Fault(
                    f"{weights}/{activations} is declared, and linear raised {type(error).__name__}: {error}",
                    "declare what works only",
                ) from error
            demand_form(y, (3, 24), x.dtype, f"{weights}/{activations}")


@LEVEL.check
def refuses_other_activations(trial: BackendTrial) -> None:
    """Activations in a format that is not declared, or does not exist, are refused with an error."""
    backend, handle = trial.backend, trial.backend.load_weight(trial.weight(trial.pair[0]))
    undeclared = [fmt for fmt in (FP16, *format_names()) if fmt not in trial.can.activations]
    for fmt in (NO_FORMAT, *undeclared):
        refused(
            lambda fmt=fmt: backend.linear(gaussian(3, 64), handle, None, fmt),
            f"activations={fmt!r}, which is not declared,",
            "raise mx_plugin.errors.FormatError, or declare it",
        )


@LEVEL.check
def refuses_other_weights(trial: BackendTrial) -> None:
    """Weights in a format that is not declared, and casts to one that does not exist, are refused with an error."""
    backend, x = trial.backend, gaussian(24, 64)
    refused(
        lambda: backend.quantize(x, NO_FORMAT), f"quantize to {NO_FORMAT!r}, which does not exist,", "raise FormatError"
    )
    for fmt in format_names():
        if fmt not in trial.can.formats:
            packed = formats.quantize(x, fmt)
            refused(
                lambda packed=packed: backend.load_weight(packed), f"a weight in {fmt}, which is not declared,",
                "raise mx_plugin.errors.FormatError, or declare it",
            )  # fmt: skip


@LEVEL.check
def refuses_unknown_rules(trial: BackendTrial) -> None:
    """Scale rules and roundings that do not exist are refused with an error."""
    backend, x, fmt = trial.backend, gaussian(3, 64), trial.pair[0]
    handle = backend.load_weight(trial.weight(fmt))
    remedy = "raise mx_plugin.errors.FormatError"
    cast = next((fmt for fmt in trial.activations), None)
    refused(lambda: backend.quantize(x, fmt, scale_rule="flor"), "quantize with scale_rule='flor'", remedy)
    refused(lambda: backend.quantize(x, fmt, rounding="up"), "quantize with rounding='up'", remedy)
    if cast is not None:
        refused(
            lambda: backend.linear(x, handle, None, cast, scale_rule="flor"), "linear with scale_rule='flor'", remedy
        )


@LEVEL.check
def casts_for_training_as_declared(trial: BackendTrial) -> None:
    """fake_quantize is there if it is declared."""
    if not trial.can.fake_quantize:
        raise NotApplicable("it declares fake_quantize=False: the engine takes the reference cast")
    try:
        trial.backend.fake_quantize(gaussian(3, 64), trial.pair[0])
    except NotImplementedError as error:
        raise Fault("fake_quantize is declared and not implemented", "declare fake_quantize=False") from error


@LEVEL.check
def refuses_a_weight_blocked_along_out(trial: BackendTrial) -> None:
    """A weight whose blocks lie along ``out``, or that is no matrix, is refused with an error."""
    backend, fmt = trial.backend, trial.pair[0]
    for x, dim in ((gaussian(64, 64), 0), (gaussian(2, 8, 64), -1)):
        packed = backend.quantize(x, fmt, dim)
        refused(
            lambda packed=packed: backend.load_weight(packed),
            f"a weight of shape {tuple(x.shape)} blocked along dimension {dim}",
            "raise mx_plugin.errors.FormatError",
        )


@LEVEL.check
def refuses_x_of_another_length(trial: BackendTrial) -> None:
    """x whose last dimension is not the weight's ``in`` is refused with an error."""
    backend, (fmt, activations) = trial.backend, trial.pair
    handle = backend.load_weight(trial.weight(fmt))
    for length in (32, 96):
        refused(
            lambda length=length: backend.linear(gaussian(3, length), handle, None, activations),
            f"x of shape (3, {length}) for a weight of shape (24, 64)",
            "raise mx_plugin.errors.FormatError",
        )
