"""Forks a process that follows for each line of standard input, and prints its process id.

The service is loaded once, as gunicorn loads it for its workers: a killed process is replaced at
once. What waits for hours in a receiver's time is as much shorter as the rest (BENCH_SPEED).
"""

import os
import signal
import sys

from flask.cli import ScriptInfo

from app.services.events import webhooks
from bench.wsgi import app

speed = float(os.environ["BENCH_SPEED"])
webhooks.PAUSES = tuple(pause / speed for pause in webhooks.PAUSES)
webhooks._LEASE = 2.0
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who was killed is gone at once
for _ in sys.stdin:
    if pid := os.fork():
        print(pid, flush=True)
    else:
        app.cli.main(["follow"], obj=ScriptInfo(create_app=lambda: app))
