"""`follow`: the process that follows the sessions of all companies, and delivers webhooks."""

import random
import signal
import threading

import click

from app import clock, errors, telemetry
from app.cli.options import command
from app.context import service
from app.service import Service
from app.services.events import follow as following
from app.services.events import webhooks

_LAST_DELIVERIES = 60.0
"""Seconds that `--once` gives to the receivers of webhooks."""


@command("follow")
@click.option("--once", is_flag=True, help="Do what is due now, for cron")
def follow(once: bool) -> None:
    """Follow the sessions of all companies, and deliver webhooks.

    What KSeF lists is read, linked and archived before anybody asks. Runs until SIGTERM or Ctrl-C;
    may be killed at any moment, and run as often as you like. Leaves half of KSeF's quota to live
    traffic.
    """
    if once:
        following.follow_all(service())
        webhooks.deliver_all(service(), _LAST_DELIVERIES)
        return
    # A thread of its own, since a company's turn may be long. Whatever it does may be cut off.
    threading.Thread(target=_deliver, args=(service(),), daemon=True).start()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while True:
            _round()
    except KeyboardInterrupt:
        telemetry.info("following ends")


def _deliver(service: Service) -> None:
    """Deliver webhooks, as long as the process lives."""
    while True:
        pause = service.timing.follow_poll
        try:
            pause = webhooks.deliver_due(service)
        except errors.Unavailable as error:
            telemetry.warning("webhooks wait for the database", reason=error.detail)
        except Exception:
            telemetry.exception("webhooks could not be delivered")
        clock.sleep(pause)


def _round() -> None:
    """What is due, and a short pause."""
    timing = service().timing
    try:
        following.follow_all(service(), turn=timing.follow_turn)
    except errors.Unavailable as error:
        telemetry.warning("following waits for the database", reason=error.detail)
    clock.sleep(timing.follow_poll * random.uniform(0.8, 1.2))  # noqa: S311 - no secret
