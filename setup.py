"""Everything about the package stands in setup.cfg, but the commit of which it is built."""

import shutil
import sys
from pathlib import Path

from setuptools import setup

sys.path.insert(0, str(Path(__file__).resolve().parent))
from app.version import WRITTEN, commit

WRITTEN.write_text(commit() or "")  # a wheel takes it along
# So it would what an earlier build has left.
shutil.rmtree(Path(__file__).with_name("build"), ignore_errors=True)

setup()
