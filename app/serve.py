"""`python -m app.serve`: the service in production, where its settings are good.

gunicorn reads WEB_CONCURRENCY and others itself before it reads any file of ours, and ends in a
stack trace where one is bad. So they are looked at before there is a gunicorn.
"""

import os
import sys

from app.settings import SettingsError, from_environment

_GUNICORN = ("-m", "gunicorn", "--config", "app/gunicorn.py", "wsgi:app")
_READ_BY_GUNICORN = ("WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS")


def main() -> None:
    """Become gunicorn, with the same process id, or end with all that is wrong, in a sentence."""
    try:
        from_environment()
    except SettingsError as error:
        sys.exit(str(error))
    for name in _READ_BY_GUNICORN:
        if not os.environ.get(name, "").strip():  # to us a blank is nothing, to gunicorn an error
            os.environ.pop(name, None)
    os.execv(sys.executable, [sys.executable, *_GUNICORN])  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()
