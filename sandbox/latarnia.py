"""Latarnia: the public word on whether an environment is available."""

from flask import Response

from sandbox import blueprints
from sandbox.access import environment
from sandbox.fault_answers import unavailable
from sandbox.problems import json_response


@blueprints.latarnia.get("/status")
def status() -> Response:
    """`messages` is left out where there is none."""
    known = environment().latarnia
    if not known.available:
        return unavailable()
    answer: dict[str, object] = {"status": known.status}
    if known.messages and known.status != "AVAILABLE":
        answer["messages"] = known.messages
    return json_response(answer)


@blueprints.latarnia.get("/messages")
def messages() -> Response:
    """A bare array."""
    known = environment().latarnia
    return json_response(known.messages) if known.available else unavailable()
