"""gunicorn's settings: `gunicorn --config app/gunicorn.py …`, as `app.serve` starts it."""

import ctypes
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

# gunicorn looks first in the folder where it was started: something else may be called `app` there.
sys.path.insert(0, str(Path(__file__).parents[1]))
from app.settings import SettingsError, from_environment
from app.version import commit
from app.worker import Worker

del sys.path[0]

try:
    _settings = from_environment()
except SettingsError as error:
    sys.exit(str(error))  # once, and not by each worker again and again

_host = f"[{_settings.host}]" if ":" in _settings.host else _settings.host
bind = f"{_host}:{_settings.port}"
worker_class = Worker
workers = _settings.web_concurrency
threads = _settings.web_threads
timeout = 60  # seconds without a heartbeat; not a limit on requests, which have their own deadline
graceful_timeout = 30
keepalive = 5
# A process may usually open 1,024 files, and a worker that runs out of them while accepting dies.
worker_connections = max(512, 2 * threads)
limit_request_line = 2048
limit_request_fields = 40
limit_request_field_size = 4096
forwarder_headers = ""  # nobody, not even a proxy, tells us our SCRIPT_NAME
control_socket_disable = True
accesslog = None  # the application logs each request itself

# gunicorn's own events are logged in our format. Logs of all other libraries are dropped, as they
# might quote an address or a secret.
logconfig_dict = {
    "formatters": {"lines": {"()": "app.telemetry.formatter"}},
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": "lines"},
        "nowhere": {"class": "logging.NullHandler"},
    },
    "root": {"handlers": ["nowhere"]},
    "loggers": {
        "gunicorn.error": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
    },
}

# Larger blocks go back to the system (M_MMAP_THRESHOLD): else glibc keeps the 19 MiB of a password
# hash for each thread that ever computed one. Not smaller ones: having their pages anew costs a
# fifth of the processor time of a big session.
with suppress(AttributeError):  # another libc
    ctypes.CDLL(None).mallopt(-3, 8 * 2**20)


def when_ready(_server: Any) -> None:
    """Make a fresh folder for the metrics that the workers share, once the port is ours."""
    # prometheus-client reads this variable when it is imported, which only workers do, later.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="ksef-proxy-metrics-")


def post_worker_init(worker: Any) -> None:
    """Warn of what an operator should know, now that the application is there."""
    from app.factory import report_at_start

    commit()  # remembered, so that no request waits for git
    report_at_start(worker.wsgi)


def child_exit(_server: Any, worker: Any) -> None:
    """Drop the gauges of a worker that has ended; its counters stay."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)


def on_exit(_server: Any) -> None:
    """Delete the folder of the metrics."""
    shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)
