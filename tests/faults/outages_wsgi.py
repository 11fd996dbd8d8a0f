"""The application as gunicorn serves it in the tests of outages."""

from dataclasses import replace

from app import create_app, settings
from tests.faults.outages_timing import TIMING

app = create_app(replace(settings.from_environment(), timing=TIMING))
