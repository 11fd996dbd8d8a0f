"""The application as gunicorn serves it in tests: settings by name, durations scaled."""

from dataclasses import replace

from app import create_app, settings
from tests.service import QUICK

app = create_app(replace(settings.from_environment(), timing=QUICK))
