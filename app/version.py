"""The version, in one place: shown by /status and in every call to KSeF. And which build it is."""

import subprocess
from functools import cache
from pathlib import Path

VERSION = "0.1.0"

WRITTEN = Path(__file__).with_name("COMMIT")


@cache
def commit() -> str | None:
    """The commit of this code, 40 hex digits: git's own word in a checkout, else what was written
    into the package when it was built; None if neither is there."""
    project = Path(__file__).parents[1]
    if (project / ".git").exists():
        # A checkout that belongs to another user is as good, which git doubts unless it is told.
        git = ("git", "-C", str(project), "-c", "safe.directory=*")
        asked = (*git, "rev-parse", "--verify", "HEAD")
        try:
            said = subprocess.run(asked, capture_output=True, text=True, timeout=5, check=False)
        except (OSError, subprocess.SubprocessError):  # no git here
            return None
        return said.stdout.strip() or None
    return (WRITTEN.read_text("ascii").strip() or None) if WRITTEN.exists() else None
