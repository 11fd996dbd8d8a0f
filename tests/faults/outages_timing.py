"""Durations of the tests of outages: what they wait for is scaled."""

import math
from dataclasses import replace

from tests.service import QUICK

TIMING = replace(
    QUICK,
    retry_left=math.inf,  # no call is repeated: each failure is one
    ksef_connect=0.5,
    ksef_call=0.5,
    outage_after=0.5,
    outage_probe=0.5,
    outage_probe_every=1.0,
    latarnia=0.5,
)
