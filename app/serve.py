"""`ksef-proxy serve`: the service in production, where its settings are good.

gunicorn reads WEB_CONCURRENCY and others itself before it reads any file of ours, and ends in a
stack trace where one is bad. So they are looked at before there is a gunicorn.
"""

import os
import sys
from pathlib import Path

from app.settings import from_environment

_CONFIG = str(Path(__file__).with_name("gunicorn.py"))
# -P: what lies in the folder where it is started, a gunicorn.py say, is not meant.
_GUNICORN = (
    "-P",
    "-c",
    "import sys; sys.path.insert(0, sys.argv.pop(1));"
    " from app.worker import Gunicorn; del sys.path[0]; Gunicorn().run()",
    str(Path(__file__).parents[1]),
    *("--config", _CONFIG, "app:create_app()"),
)
_READ_BY_GUNICORN = ("WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS")


def become_gunicorn() -> None:
    """Go on as gunicorn, with the same process id. Raises SettingsError, which tells all that is
    wrong."""
    from_environment()
    for name in _READ_BY_GUNICORN:
        if not os.environ.get(name, "").strip():  # to us a blank is nothing, to gunicorn an error
            os.environ.pop(name, None)
    os.execv(sys.executable, [sys.executable, *_GUNICORN])  # noqa: S606 - no shell is wanted
