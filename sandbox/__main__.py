"""`python -m sandbox`: the stand-in for KSeF and Latarnia on its own."""

import argparse
import re
import signal

from sandbox import server
from sandbox.state import ENVIRONMENTS


def main() -> None:
    """Reads the options and runs until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m sandbox", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=_port, default=8090, help="0 takes a free one")
    parser.add_argument(
        "--down",
        action="append",
        default=[],
        choices=ENVIRONMENTS,
        metavar="ENV",
        help="an environment that is out of order (may be repeated)",
    )
    parser.add_argument("--quota", action="store_true", help="enforce KSeF's request limits")
    parser.add_argument(
        "--latency", type=_seconds, default=0.0, metavar="SECONDS", help="delay every answer"
    )
    options = vars(parser.parse_args())
    try:
        running = server.start(**options)
    except (OSError, SystemExit) as error:  # Werkzeug ends the process where a port is taken
        where = f"{options['host']}, port {options['port']}"
        reason = getattr(error, "strerror", None) or "the port is taken"
        parser.error(f"nobody can listen at {where}: {reason}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"KSeF sandbox at {running.url} (control plane: {running.url}/_sandbox)", flush=True)
    try:
        running.wait()
    except KeyboardInterrupt:
        running.stop()


def _port(text: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", text) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: 0 to 65535")
    return int(text)


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,5}(\.[0-9]+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return float(text)


if __name__ == "__main__":
    main()
