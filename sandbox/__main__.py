"""`python -m sandbox`: the stand-in for KSeF and Latarnia on its own."""

from __future__ import annotations

import argparse
import signal

from sandbox import server
from sandbox.state import ENVIRONMENTS


def main() -> None:
    """Reads the options and runs until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m sandbox", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8090, help="0 takes a free one")
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
        "--latency", type=float, default=0.0, metavar="SECONDS", help="delay every answer"
    )
    running = server.start(**vars(parser.parse_args()))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"KSeF sandbox at {running.url} (control plane: {running.url}/_sandbox)", flush=True)
    try:
        running.wait()
    except KeyboardInterrupt:
        running.stop()


if __name__ == "__main__":
    main()
