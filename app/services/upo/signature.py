"""The verdict on the Ministry's signature of a UPO: counted, logged, and stored with the document.

Only `broken` keeps a document from the caller. The Ministry may change its certificate at any time,
and nobody must be stopped by that: what a trusted signer did not sign is given, and marked.
"""

from app import errors, meters, telemetry
from app.account import Account
from app.services.upo import archive
from app.services.upo.archive import UpoName
from app.upo.signature import Verdict, verify_signature


def judge(account: Account, content: bytes) -> Verdict:
    """The verdict on a document; UpoIntegrity if its signature is broken."""
    verdict = _judged(account, content)
    refuse_if_broken(verdict)
    return verdict


def of_archived(account: Account, name: UpoName, content: bytes) -> Verdict:
    """The verdict on a document that was archived before signatures were judged; it is stored."""
    verdict = _judged(account, content)
    archive.set_signature(account, name, verdict)
    return verdict


def refuse_if_broken(verdict: Verdict) -> None:
    """Raises UpoIntegrity if the signature does not fit the document."""
    if verdict.state == "broken":
        raise errors.UpoIntegrity(f"The UPO's signature is broken. {verdict.reason}".strip())


def _judged(account: Account, content: bytes) -> Verdict:
    verdict = verify_signature(content, account.upo_signers)
    meters.upo_signatures.labels(account.environment, verdict.state).inc()
    if verdict.state != "valid":
        telemetry.warning(
            "the signature of a UPO is not a trusted one",
            verdict=verdict.state,
            certificate=verdict.certificate_sha256,
            reason=verdict.reason,
            **account.log_fields,
        )
    return verdict
