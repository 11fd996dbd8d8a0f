"""Whether a document of KSeF's is the UPO asked for, and whole."""

import hashlib
from collections.abc import Mapping
from typing import Final

from app import errors
from app.account import Account
from app.ksef.http import Document
from app.services.upo import archive, signature
from app.services.upo.archive import UpoName
from app.upo.verdict import Verdict
from app.upo.xml import Upo, parse_upo

PDF: Final = b"%PDF-"
"""What a PDF begins with: KSeF might send one in place of XML."""


def check(
    document: Document, account: Account, name: UpoName, listed: Mapping[str, str]
) -> Verdict:
    """The verdict on its signature; UpoIntegrity if it is damaged or not the one asked for.

    `listed`: the hashes of the files, by KSeF number, as KSeF listed them, as far as it did.
    Raises KsefInvalidResponse if it is not a readable UPO. A PDF can be checked by its hash only.
    """
    expected = document.sha256
    if expected is not None and expected != hashlib.sha256(document.content).digest():
        raise errors.UpoIntegrity("The UPO does not match the hash that KSeF sent with it.")
    if document.content.startswith(PDF):
        if expected is None:
            raise errors.KsefInvalidResponse("KSeF sent a PDF without a hash to check it against.")
        return Verdict("unverifiable")
    _check_belongs(parse_upo(document.content), account, name, listed)
    return signature.judge(account, document.content)


def _check_belongs(upo: Upo, account: Account, name: UpoName, listed: Mapping[str, str]) -> None:
    if upo.session_reference_number != name.reference_number:
        raise errors.UpoIntegrity("The UPO is of another session than the one asked for.")
    if upo.context_nip != account.company_nip:
        raise errors.UpoIntegrity("The UPO is of another company than the one that asks.")
    if name.page_reference_number and archive.is_known_page(account, name, upo):
        raise errors.UpoIntegrity("The UPO is another page than the one asked for.")
    if name.ksef_number and all(d.ksef_number != name.ksef_number for d in upo.documents):
        raise errors.UpoIntegrity("The UPO does not hold the KSeF number asked for.")
    if any(listed.get(d.ksef_number, d.document_hash) != d.document_hash for d in upo.documents):
        raise errors.UpoIntegrity("The UPO is of another file than KSeF's list of the session.")
