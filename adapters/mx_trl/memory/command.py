"""``mx-plugin memory``: the plan, what would lower it, the largest batch that fits, and a check by real training."""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from typing import Any

from .fitting import largest_batch
from .placement import place
from .planner import plan
from .request import Request, read_bytes
from .suggestions import suggestions
from .table import device_lines, fit_lines, plan_lines, suggestion_lines


def run(arguments: argparse.Namespace) -> int:
    """Print the plan; 1 when ``--limit`` is given and the run as asked exceeds it, else 0.

    Raises:
        MXError: models, sizes, policy or limit that do not fit; see the message.
    """
    _quiet()
    request = request_of(arguments)
    limit = None if arguments.limit is None else read_bytes(arguments.limit)
    if arguments.validate:
        from .validate import validate

        return validate(request, arguments.steps, arguments.json)
    made = plan(request)
    devices = place(made, request.devices)
    fit = None if limit is None else largest_batch(request, limit)
    found = suggestions(request)
    if arguments.json:
        print(json.dumps(_plain(request, made, devices, found, fit), indent=2))
    else:
        lines = [*plan_lines(request, made), *device_lines(devices)]
        print("\n".join([*lines, *([] if fit is None else fit_lines(fit)), *suggestion_lines(found)]))
    return int(limit is not None and max(device.peak for device in devices) > limit)


def request_of(arguments: argparse.Namespace) -> Request:
    """The request that the command line describes.

    Raises:
        StageError: sizes or names out of range.
    """
    given = vars(arguments)
    options = {each.name: given[each.name] for each in fields(Request) if each.name in given}
    return Request(**{**options, "padded": not arguments.unpadded})


def _plain(request: Request, made: Any, devices: Any, found: Any, fit: Any) -> dict[str, Any]:
    return {
        "request": request.options(),
        **made.describe(),
        "devices": [vars(device) for device in devices],
        "suggestions": [vars(each) for each in found],
        "fit": None if fit is None else vars(fit),
    }


def _quiet() -> None:
    from transformers.utils import logging

    logging.set_verbosity_error()
