"""The application as gunicorn serves it in tests of faults: quick, unless told otherwise.

`TEST_TIMING`: fields of Timing, as JSON · `CLOCK_AHEAD`: seconds by which this replica's clock is
wrong. It stands in for the clock of the machine, which a process of its own does not have.
"""

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from app import clock, create_app, settings
from tests.service import QUICK

ahead = timedelta(seconds=float(os.environ.get("CLOCK_AHEAD", "0")))
clock.now = lambda: datetime.now(UTC) + ahead

timing = replace(QUICK, **json.loads(os.environ.get("TEST_TIMING", "{}")))
app = create_app(replace(settings.from_environment(), timing=timing))
