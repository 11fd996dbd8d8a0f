"""Latarnia: the public word on whether an environment is available."""

from __future__ import annotations

from flask import Blueprint, Response

from sandbox.access import environment
from sandbox.fault_answers import UNAVAILABLE_PAGE
from sandbox.problems import json_response


def register(latarnia: Blueprint) -> None:
    """Adds Latarnia's two routes."""
    latarnia.add_url_rule("/status", view_func=status)
    latarnia.add_url_rule("/messages", view_func=messages)


def status() -> Response:
    """GET /status; `messages` is left out where there is none."""
    known = environment().latarnia
    if not known.available:
        return _unavailable()
    answer: dict[str, object] = {"status": known.status}
    if known.messages and known.status != "AVAILABLE":
        answer["messages"] = known.messages
    return json_response(answer)


def messages() -> Response:
    """GET /messages: a bare array."""
    known = environment().latarnia
    return json_response(known.messages) if known.available else _unavailable()


def _unavailable() -> Response:
    return Response(UNAVAILABLE_PAGE, 503, content_type="text/html; charset=utf-8")
