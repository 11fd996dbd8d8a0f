"""All benchmarks against the sandbox, as one markdown table; misses are named in its last line.

python -m bench.run [a b c d e load r pdf]
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from bench import first_check, hour, load, pdf, replicas, stored
from bench.table import Row

GROUPS: dict[str, Callable[[Path], Iterator[Row]]] = {
    "a": stored.rows,
    "b": hour.rows,
    "c": first_check.ten_thousand,
    "d": first_check.linking,
    "e": first_check.added,
    "load": load.rows,
    "r": replicas.rows,
    "pdf": pdf.rows,
}


def main() -> int:
    """Print the table; returns 1 if a target is missed."""
    began = time.monotonic()
    missed = []
    print("| what | measured | target | |\n|---|---|---|---|")
    for name in sys.argv[1:] or GROUPS:
        with tempfile.TemporaryDirectory(prefix="ksef-bench-") as folder:
            for what, measured, target, holds in GROUPS[name](Path(folder)):
                verdict = {True: "holds", False: "**missed**", None: ""}[holds]
                print(f"| {what} | {measured} | {target} | {verdict} |", flush=True)
                missed += [what] if holds is False else []
    load_now = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(f"\n{datetime.now(UTC):%Y-%m-%d}, {load_now}, {time.monotonic() - began:.0f} s.")
    print(f"Missed: {'; '.join(missed) or 'nothing'}.")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
