"""The certificates that the Ministry signs UPOs with, known by their SHA-256 in capital hex digits.

They are not published; these were seen in UPOs, and end on 2027-09-29.
"""

import re
from collections.abc import Mapping
from typing import Final

_TEST: Final = "2059EA4C85501DE54D2B4B1863D927FE8DE14F6146215E94EE47A25B4CE3FC88"
DEFAULT_SIGNERS: Final[Mapping[str, tuple[str, ...]]] = {
    "test": (_TEST,),
    "demo": (_TEST,),
    "prod": ("6B8192E9BEBCA9465E624D8750F76E6064D70A94609C52ED00BED9DEB70A2D39",),
}


def fingerprints(text: str) -> tuple[str, ...]:
    """Comma-separated SHA-256 of certificates, in hex digits with colons or without.

    Raises ValueError with a text that does not repeat the value.
    """
    found = tuple(part.strip().replace(":", "").upper() for part in text.split(","))
    if not all(re.fullmatch("[0-9A-F]{64}", part) for part in found):
        raise ValueError("is not a list of SHA-256 fingerprints: 64 hex digits each")
    return found
