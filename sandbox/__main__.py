"""`python -m sandbox`: the stand-in for KSeF and Latarnia on its own."""

from __future__ import annotations

import argparse
import signal
import sys
from types import FrameType

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
    options = parser.parse_args()
    running = server.start(
        options.host,
        options.port,
        down=options.down,
        quota=options.quota,
        latency=options.latency,
    )

    def stop(_number: int, _frame: FrameType | None) -> None:
        sys.exit(0)

    signal.signal(signal.SIGTERM, stop)
    print(f"KSeF sandbox at {running.url} (control plane: {running.url}/_sandbox)", flush=True)
    try:
        running.wait()
    except (KeyboardInterrupt, SystemExit):
        running.stop()


if __name__ == "__main__":
    main()
