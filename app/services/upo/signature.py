"""The verdict on the Ministry's signature of a UPO: counted, logged, and stored with the document.

Only `broken` keeps a document from the caller. The Ministry may change its certificate at any time,
and nobody must be stopped by that: what a trusted signer did not sign is given, and marked.
"""

from collections.abc import Collection
from dataclasses import replace
from itertools import chain

from app import errors, meters, telemetry
from app.account import Account
from app.services.operators.progress import Progress, Summary
from app.services.upo import archive
from app.services.upo.archive import UpoName
from app.signers import DEFAULT_SIGNERS
from app.upo.signature import verify_signature
from app.upo.verdict import Verdict
from app.upo.xml import parse_upo


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


def verify_archive(account: Account, progress: Progress) -> Summary:
    """Judge every archived UPO that is not known to be valid; those that are valid now are done.

    Safe to interrupt and run again: what was found valid is not looked at a second time.
    """
    total = sum(1 for _ in archive.walk(account, unproven=True))
    summary = Summary()
    for name, _ in archive.walk(account, unproven=True):
        with summary.one(f"{name.reference_number} {name.key}"):
            found = archive.get(account, name)
            if found is not None:  # None: deleted in the meantime
                verdict = of_archived(account, name, found.content)
                if verdict.state != "valid":
                    raise errors.UpoIntegrity(f"{verdict.state}. {verdict.reason}")
        progress(summary.seen, total)
    return summary


def verify_file(content: bytes, signers: Collection[str]) -> Verdict:
    """The verdict on a file, which nobody counts; without signers, by those known for any KSeF.

    The reason tells of a signer that is known for another environment than that of `signers`.
    `unverifiable` is also what a trusted signer signed that is no UPO.
    """
    signers = signers or {*chain(*DEFAULT_SIGNERS.values())}
    verdict = verify_signature(content, signers)
    if verdict.state == "valid":
        try:
            parse_upo(content)
        except errors.KsefInvalidResponse as error:
            return Verdict("unverifiable", reason=f"It is no UPO that can be read. {error.detail}")
    others = environments_of(verdict)
    if others and verdict.certificate_sha256 not in signers:
        reason = "The signature fits, and is that of another environment of KSeF: "
        return replace(verdict, reason=f"{reason}{', '.join(others)}.")
    return verdict


def environments_of(verdict: Verdict) -> list[str]:
    """The environments of KSeF that the signer is known for without settings."""
    signer = verdict.certificate_sha256
    return [environment for environment, known in DEFAULT_SIGNERS.items() if signer in known]


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
