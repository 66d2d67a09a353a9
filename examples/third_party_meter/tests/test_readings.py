"""What the meter says of plugs that answer well, badly, slowly, or not at all."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from plug import Plug, send
from smart_plug_mx.counter import PlugCounter
from smart_plug_mx.http_json import JsonField, UnreadablePlug
from smart_plug_mx.meter import SmartPlugMeter

from mx_plugin.errors import PluginError
from mx_plugin.interfaces import Measurement

Make = Callable[..., SmartPlugMeter]


@pytest.fixture
def make(plug: Plug) -> Iterator[Make]:
    made: list[SmartPlugMeter] = []

    def meter(**options: Any) -> SmartPlugMeter:
        made.append(SmartPlugMeter(**{"url": plug.url, "poll_s": 0.01, **options}))
        return made[-1]

    yield meter
    for one in made:
        one.close()


def window(meter: SmartPlugMeter, until: Callable[[], bool]) -> Measurement:
    meter.begin_window("rollout")
    deadline = time.monotonic() + 20
    while not until():
        assert time.monotonic() < deadline, "the plug was not read"
        time.sleep(0.005)
    return meter.end_window("rollout")


def read(plug: Plug, answer: Callable[[BaseHTTPRequestHandler], None], **limits: Any) -> float:
    plug.answer = answer
    return JsonField(plug.url, "aenergy.total", **limits).read()


# ---------------------------------------------------------------------------- good plugs


@pytest.mark.parametrize(
    ("field", "unit", "answer", "joules"),
    [
        ("aenergy.total", "Wh", lambda n: {"aenergy": {"total": 5 + n}}, 3600.0),
        ("StatusSNS.ENERGY.Total", "kWh", lambda n: {"StatusSNS": {"ENERGY": {"Total": n / 1000}}}, 3600.0),
        ("meters.1.total", "J", lambda n: {"meters": [{}, {"total": n}]}, 1.0),
    ],
    ids=["shelly", "tasmota", "in a list"],
)
def test_a_counter_is_worth_its_unit(plug: Plug, make: Make, field: str, unit: str, answer: Any, joules: float) -> None:
    plug.answer = lambda request: send(request, json.dumps(answer(len(plug.asked))).encode())
    measured = window(make(field=field, unit=unit), lambda: len(plug.asked) >= 5)
    assert measured.updates is not None and measured.updates >= 2
    assert measured.joules == pytest.approx(measured.updates * joules)
    assert (measured.estimated, measured.domains) == (False, {"plug": measured.joules})


def test_power_is_integrated_over_the_time_between_readings() -> None:
    times, watts = iter([0.0, 2.0, 3.0]), iter([10.0, 20.0, 40.0])
    counter = PlugCounter(lambda: next(watts), "W", 1.0, clock=lambda: next(times))
    for _ in range(3):
        counter.poll()
    assert counter.state.joules == pytest.approx(15.0 * 2 + 30.0 * 1)


def test_windows_side_by_side_add_up_to_what_the_plug_counted(plug: Plug, make: Make) -> None:
    plug.answer = lambda request: send(request, json.dumps({"aenergy": {"total": len(plug.asked)}}).encode())
    meter, total = make(), 0.0
    meter.begin_window("first")  # the first reading, from which the counter counts
    while len(plug.asked) < 12:
        total += meter.end_window("x").joules or 0.0
        meter.begin_window("x")
        time.sleep(0.005)
    total += meter.end_window("x").joules or 0.0
    assert total >= 10 * 3600.0
    assert total == pytest.approx(round(total / 3600.0) * 3600.0)
    assert total <= (len(plug.asked) - 1) * 3600.0


def test_a_counter_that_does_not_tick_is_not_zero_but_unknown_here(plug: Plug, make: Make) -> None:
    plug.answer = lambda request: send(request, b'{"aenergy": {"total": 7.25}}')
    measured = window(make(), lambda: len(plug.asked) >= 4)
    assert (measured.joules, measured.updates) == (None, 0)
    assert "neighbouring" in measured.why


# ---------------------------------------------------------------------------- bad plugs

BAD = {
    "redirect": (
        lambda r: send(r, b"", 302, Location="http://192.0.2.1/other"),
        "302 Found to 'http://192.0.2.1/other'",
    ),
    "error": (lambda r: send(r, b"no", 500), "500 Internal Server Error"),
    "login": (lambda r: send(r, b"who?", 401), "401 Unauthorized"),
    "not JSON": (lambda r: send(r, b"<html>"), "did not answer JSON"),
    "nested without end": (lambda r: send(r, b"[" * 50000), "did not answer JSON"),
    "no field": (lambda r: send(r, b'{"aenergy": {"sum": 1}}'), "no 'aenergy.total'; there is sum"),
    "text": (lambda r: send(r, b'{"aenergy": {"total": "12"}}'), "aenergy.total is '12', not a number"),
    "truth": (lambda r: send(r, b'{"aenergy": {"total": true}}'), "not a number"),
    "NaN": (lambda r: send(r, b'{"aenergy": {"total": NaN}}'), "is nan, not a number"),
}


@pytest.mark.parametrize("case", BAD)
def test_an_answer_that_is_no_reading_is_unknown_with_the_reason(plug: Plug, make: Make, case: str) -> None:
    answer, why = BAD[case]
    with pytest.raises(UnreadablePlug) as caught:
        read(plug, answer)
    assert why in str(caught.value)
    measured = window(make(), lambda: len(plug.asked) >= 3)
    assert (measured.joules, measured.updates) == (None, None)
    assert why in measured.why


def test_a_redirect_is_not_followed(plug: Plug) -> None:
    with pytest.raises(UnreadablePlug, match=r"302.*not followed"):
        read(plug, lambda request: send(request, b"", 302, Location="/elsewhere"))
    assert plug.asked == ["/rpc/Switch.GetStatus?id=0"]


def test_an_answer_beyond_the_cap_is_not_read_to_its_end(plug: Plug) -> None:
    with pytest.raises(UnreadablePlug, match="more than 1000 bytes"):
        read(plug, lambda request: send(request, b" " * 10_000_000), max_bytes=1000)


def test_a_plug_that_never_answers_times_out(plug: Plug) -> None:
    with pytest.raises(UnreadablePlug, match="TimeoutError"):
        read(plug, lambda request: time.sleep(3), timeout_s=0.2)


def test_a_plug_that_drips_is_cut_off(plug: Plug) -> None:
    def drip(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "1000")
        request.end_headers()
        for _ in range(1000):
            request.wfile.write(b" ")
            time.sleep(0.05)

    with pytest.raises(UnreadablePlug, match=r"did not finish its answer in 0\.3 s"):
        read(plug, drip, timeout_s=0.3)


def test_a_counter_that_went_back_makes_its_window_unknown_and_the_next_one_right() -> None:
    values = iter([10.0, 11.0, 0.5, 1.5])
    counter = PlugCounter(lambda: next(values), "J", 1.0)
    for _ in range(3):
        counter.poll()
    assert (counter.state.breaks, counter.state.joules) == (1, 1.0)
    assert "went back from 11 to 0.5 J" in counter.state.last_break
    counter.poll()
    assert (counter.state.breaks, counter.state.joules) == (1, 2.0)


def test_a_plug_that_comes_back_is_measured_again_without_what_was_missed(plug: Plug, make: Make) -> None:
    plug.answer = lambda request: send(request, b"", 500)
    meter = make()
    assert window(meter, lambda: len(plug.asked) >= 2).joules is None
    since = len(plug.asked)
    plug.answer = lambda request: send(request, json.dumps({"aenergy": {"total": 1e6 + len(plug.asked)}}).encode())
    window(meter, lambda: len(plug.asked) >= since + 3)
    since = len(plug.asked)
    measured = window(meter, lambda: len(plug.asked) >= since + 3)
    assert measured.joules is not None and measured.joules < 1e5


def test_a_plug_that_holds_one_reading_up_for_ever_is_unknown_not_without_ticks(plug: Plug, make: Make) -> None:
    meter = make(timeout_s=0.1)
    assert window(meter, lambda: len(plug.asked) >= 3).joules is not None

    def drip_headers(request: BaseHTTPRequestHandler) -> None:  # each byte restarts the socket's time-out
        request.wfile.write(b"HTTP/1.0 200 OK\r\nX: ")
        for _ in range(40):
            request.wfile.write(b"x")
            time.sleep(0.05)

    plug.answer = drip_headers
    since, started = len(plug.asked), time.monotonic()
    window(meter, lambda: len(plug.asked) > since)
    measured = window(meter, lambda: time.monotonic() > started + 0.8)
    assert (measured.joules, measured.updates) == (None, None)
    assert "was not read for" in measured.why


# ---------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"url": None}, "SMART_PLUG_URL"),
        ({"url": "file:///etc/passwd"}, "is not http"),
        ({"url": "http://admin:secret@192.0.2.7/"}, "carries a user name"),
        ({"unit": "wh"}, "did you mean 'Wh'"),
        ({"poll_s": 0}, "poll_s=0 must be above 0"),
    ],
    ids=["no url", "file", "user", "unit", "poll"],
)
def test_an_option_that_cannot_be_is_refused_with_the_remedy(
    options: dict[str, Any], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SMART_PLUG_URL", raising=False)
    with pytest.raises(PluginError) as caught:
        SmartPlugMeter(**{"url": "http://192.0.2.7/", **options})
    assert why in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_password_in_the_query_does_not_reach_config_json(make: Make, plug: Plug) -> None:
    assert "hush" not in json.dumps(make(url=plug.url + "&password=hush").describe())
