"""Signed UPOs, made by the sandbox, whose code for signatures is another than the app's."""

from datetime import UTC, datetime
from functools import cache

from lxml import etree

from sandbox.forgeries import FORGERIES
from sandbox.keys import Signers
from sandbox.signing import Seal, sign
from tests.upo import samples


@cache
def signers() -> Signers:
    return Signers("test")


def trusted() -> set[str]:
    return {signer.sha256 for signer in signers().known}


def seal() -> Seal:
    return Seal(signers().current, datetime.now(UTC))


def signed(sample: samples.UpoSample | None = None) -> bytes:
    """The sample as the Ministry would sign it."""
    return sign(etree.fromstring((sample or samples.upo(count=2)).xml()), seal())


def forged(kind: str, content: bytes | None = None) -> bytes:
    """One of the sandbox's forgeries."""
    return FORGERIES[kind](content or signed(), seal(), signers())
