"""A verdict on each kind of document, and nothing but `valid` for what a trusted signer signed."""

import base64
import copy
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from app.errors import KsefInvalidResponse
from app.upo import signature
from app.upo.signature import verify_signature
from app.upo.verdict import Verdict
from app.upo.xml import parse_upo
from sandbox.forgeries import FORGERIES
from sandbox.keys import Signer
from sandbox.signing import Seal, sign, template
from tests.hypothesis_profile import tries
from tests.upo import samples
from tests.upo.signed import forged, seal, signed, signers, trusted

PROJECT = Path(__file__).parents[2]
VERDICTS = {
    "tampered-value": "broken",
    "tampered-signature": "broken",
    "wrapped": "broken",
    "two-signatures": "broken",
    "pretty-printed": "broken",
    "extra-transform": "unverifiable",
    "sha1": "unverifiable",
    "other-signer": "unknown_signer",
    "expired-signer": "unknown_signer",
    "unsigned": "unsigned",
    "ecdsa": "valid",
}


def verdict(content: bytes) -> Verdict:
    return verify_signature(content, trusted())


def test_what_a_trusted_signer_signed_is_valid() -> None:
    found = verdict(signed())
    assert found.state == "valid", found.reason
    assert found.signer == "Ministerstwo Finansów (SANDBOX), VATPL-5260250274"
    assert found.certificate_sha256 == signers().current.sha256
    assert found.signed_at is not None
    assert abs(found.signed_at - datetime.now(UTC)) < timedelta(minutes=1)


def test_each_forgery_has_its_verdict() -> None:
    assert set(VERDICTS) == set(FORGERIES)
    for kind, state in VERDICTS.items():
        found = verdict(forged(kind))
        assert found.state == state, (kind, found.reason)
        assert found.reason
        told = (found.signer, found.signed_at, found.certificate_sha256)
        assert all(told) if state in ("valid", "unknown_signer") else not any(told), kind


def test_signer_is_trusted_by_its_fingerprint_alone() -> None:
    content = signed()
    found = verify_signature(content, ())
    assert found.state == "unknown_signer"
    assert verify_signature(content, [str(found.certificate_sha256)]).state == "valid"


def test_certificate_is_judged_at_the_time_of_signing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in 2028, when the Ministry's certificate of today has ended."""

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(days=3650)

    content = signed()
    for module in ("app.upo.signature", "signxml.verifier", "signxml.xades.xades"):
        monkeypatch.setattr(f"{module}.datetime", Later)
    assert verdict(content).state == "valid"


@pytest.mark.parametrize("edge", ["not_valid_before_utc", "not_valid_after_utc"])
def test_certificate_is_valid_up_to_its_edges(edge: str) -> None:
    moment = getattr(signers().current.certificate, edge)
    outside = timedelta(seconds=-1 if "before" in edge else 1)
    root = etree.fromstring(samples.upo().xml())
    assert verdict(sign(root, replace(seal(), signed_at=moment))).state == "valid"
    root = etree.fromstring(samples.upo().xml())
    found = verdict(sign(root, replace(seal(), signed_at=moment + outside)))
    assert (found.state, "when it signed" in found.reason) == ("unknown_signer", True)


# -- The Ministry's own, with a value changed to hide whose it was.


@pytest.fixture
def real() -> bytes:
    beside = Path(os.environ.get("KSEF_OPENAPI", "nowhere"))
    path = beside.parent / "samples/upo-v4-3-signed-structure.xml"
    if not path.exists():
        pytest.skip("the sample does not stand beside the OpenAPI document of KSEF_OPENAPI")
    return path.read_bytes()


def test_signature_of_a_real_upo_is_understood(real: bytes, monkeypatch: Any) -> None:
    """Its value fits what is signed, so that all of it is read as the Ministry wrote it; only the
    digest of the document, which was changed, does not."""
    mismatches = []
    verifier = signature._Verifier

    class Noting(verifier):  # type: ignore[misc, valid-type]
        def verify(self, *arguments: Any, **options: Any) -> Any:
            try:
                return super().verify(*arguments, **options)
            except Exception as error:
                mismatches.append(str(error))
                raise

    monkeypatch.setattr(signature, "_Verifier", Noting)
    assert verify_signature(real, ()).state == "broken"
    assert mismatches == ["Digest mismatch for reference 0 ()"]


def test_signed_again_a_real_upo_is_valid(real: bytes) -> None:
    root = etree.fromstring(real)
    root.remove(root[-1])
    assert verdict(sign(root, seal())).state == "valid"


# -- Other profiles, and tricks.


def changed(change: Callable[[etree._Element, etree._Element], None]) -> bytes:
    """A document after `change(root, signature)`, without being signed again."""
    root = etree.fromstring(signed())
    change(root, root[-1])
    return etree.tostring(root, xml_declaration=True, encoding="utf-8")


def test_signature_that_covers_a_part_only_is_broken() -> None:
    def part(_root: Any, found: Any) -> None:
        found.find("{*}SignedInfo/{*}Reference").set("URI", "#Signature")

    assert verdict(changed(part)).state == "broken"


def test_signature_within_another_element_is_broken() -> None:
    def deeper(root: Any, found: Any) -> None:
        root[-2].append(found)

    assert verdict(changed(deeper)).reason == (
        "The signature does not stand directly in the document's root."
    )


def test_signature_that_covers_another_one_is_broken() -> None:
    """Two of them, of which the first covers the whole document and fits."""
    root = etree.fromstring(samples.upo(signature=samples.SIGNATURE).xml())
    sign(root, seal())
    other, own = root[-2:]
    own.addnext(other)
    assert verdict(etree.tostring(root)).reason == "The document has more than one signature."


def _algorithm(path: str, value: str) -> Callable[[Any, Any], None]:
    return lambda _root, found: found.find(path).set("Algorithm", value)


def _third_reference(_root: Any, found: Any) -> None:
    found[0].append(copy.deepcopy(found[0][-1]))


def _tail(_root: Any, found: Any) -> None:
    found.tail = "text"


EXCLUSIVE = "http://www.w3.org/2001/10/xml-exc-c14n#"
SHA512 = "http://www.w3.org/2001/04/xmlenc#sha512"
OTHER_PROFILES = {
    "exclusive": _algorithm("{*}SignedInfo/{*}CanonicalizationMethod", EXCLUSIVE),
    "SHA-512": _algorithm("{*}SignedInfo/{*}Reference/{*}DigestMethod", SHA512),
    "a third reference": _third_reference,
    "text after it": _tail,
    "no certificate": lambda _root, found: found.remove(found.find("{*}KeyInfo")),
    "no properties": lambda _root, found: found.remove(found.find("{*}Object")),
}


@pytest.mark.parametrize("change", OTHER_PROFILES.values(), ids=OTHER_PROFILES)
def test_other_profiles_are_not_judged(change: Callable[[Any, Any], None]) -> None:
    assert verdict(changed(change)).state == "unverifiable"


@pytest.mark.parametrize("kept", [[], [0], [1], [1, 1]])
def test_what_was_covered_is_looked_at(kept: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the library says: the document and the properties must be among its results."""
    really = signature._Verifier.verify

    def verify(*arguments: Any, **options: Any) -> Any:
        results = really(*arguments, **options)
        return [results[number] for number in kept]

    content = signed()
    monkeypatch.setattr(signature._Verifier, "verify", verify)
    assert verdict(content).reason == "The signature does not cover the whole document."


def test_part_of_the_document_is_not_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    really = signature._Verifier.verify

    def verify(*arguments: Any, **options: Any) -> Any:
        results = really(*arguments, **options)
        results[0].signed_xml.remove(results[0].signed_xml[-1])
        return results

    content = signed()
    monkeypatch.setattr(signature._Verifier, "verify", verify)
    assert verdict(content).reason == "The signature does not cover the whole document."


@pytest.mark.parametrize("place", ["before", "after"])
def test_instruction_outside_of_the_root_is_not_taken_for_signed(place: str) -> None:
    instruction, content = b"<?xml-stylesheet href='x'?>", signed()
    if place == "before":
        content = content.replace(b"<Potwierdzenie", instruction + b"<Potwierdzenie", 1)
    else:
        content += instruction
    assert verdict(content).state == "unverifiable"


def test_added_document_or_empty_namespace_breaks_it() -> None:
    content = signed()
    number = re.compile(rb"<NumerFaktury>")
    assert verdict(number.sub(b'<NumerFaktury xmlns="">', content, count=1)).state == "broken"
    start, end = content.index(b"<Dokument>"), content.index(b"</Dokument>") + len(b"</Dokument>")
    assert verdict(content[:end] + content[start:end] + content[end:]).state == "broken"


def test_comments_are_not_signed_and_change_no_value() -> None:
    content = signed()
    commented = content.replace(b"<NumerFaktury>F", b"<NumerFaktury><!-- x -->F")
    assert commented != content
    assert verdict(commented).state == "valid"
    assert parse_upo(commented) == parse_upo(content)


def test_another_certificate_of_the_same_key_is_broken() -> None:
    """KeyInfo is not signed; the certificate's digest is."""
    current = signers().current
    other = signers()._make(False)
    theirs = base64.b64encode(other.certificate.public_bytes(serialization.Encoding.DER))
    ours = base64.b64encode(current.certificate.public_bytes(serialization.Encoding.DER))
    assert verdict(signed().replace(ours, theirs)).state == "broken"


@pytest.mark.parametrize(
    ("subject", "shown"),
    [
        ([("COMMON_NAME", "A"), ("COMMON_NAME", "B")], "A"),
        ([("ORGANIZATION_IDENTIFIER", "VATPL-1"), ("COUNTRY_NAME", "PL")], "VATPL-1"),
        ([("COUNTRY_NAME", "PL"), ("ORGANIZATION_NAME", "Żuk")], "O=Żuk,C=PL"),
        ([("GIVEN_NAME", "Jan"), ("SURNAME", "Żuk")], "2.5.4.4=Żuk,2.5.4.42=Jan"),
        ([("COMMON_NAME", " "), ("ORGANIZATION_NAME", "Żuk")], "O=Żuk,CN=\\ "),
        ([("COMMON_NAME", "A\u202eB\u0085"), ("TITLE", "x")], "A?B?"),
        ([("COMMON_NAME", "x" * 64), ("ORGANIZATION_IDENTIFIER", "V" * 90)], f"{'x' * 64}, V"),
        ([], "?"),
    ],
)
def test_each_signer_has_a_name(subject: list[tuple[str, str]], shown: str) -> None:
    """Whatever its certificate has for one: who signed, and when, is told together."""
    key = signers().current.private_key
    name = x509.Name(
        [
            x509.NameAttribute(getattr(x509.NameOID, kind), value, _validate=False)
            for kind, value in subject
        ]
    )
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    root = etree.fromstring(samples.upo().xml())
    found = verdict(sign(root, Seal(Signer(key, certificate), now)))
    assert found.state == "unknown_signer"
    assert found.signer == shown or (found.signer or "").startswith(shown + "V")
    assert found.signed_at


def test_certificate_that_cannot_be_read_is_broken() -> None:
    """Its parts are read late, and libraries raise what they like: an unknown version, a name."""
    der = signers().current.certificate.public_bytes(serialization.Encoding.DER)
    version = der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x0a", 1)
    name = der.replace("Ministerstwo Finansów".encode(), b"\xff" * 22)
    assert der not in (version, name)
    for other in (version, name, der[:-1], b"", b"\x30\x00"):
        content = signed().replace(base64.b64encode(der), base64.b64encode(other))
        assert verdict(content).state == "broken"


def test_attribute_of_xml_itself_is_not_judged() -> None:
    def lang(root: Any, _found: Any) -> None:
        root.set("{http://www.w3.org/XML/1998/namespace}lang", "pl")

    assert verdict(changed(lang)).state == "unverifiable"


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("2026-11-27T14:00:00", "unverifiable"),
        ("2026-11-27T24:00:00Z", "unverifiable"),
        ("0001-01-01T00:00:00+14:00", "unverifiable"),
        ("9999-12-31T23:59:59-14:00", "unverifiable"),
        ("tomorrow", "broken"),
    ],
)
def test_time_of_signing_must_be_a_time_with_an_offset(
    text: str, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = template

    def another_time(*arguments: Any) -> Any:
        element = made(*arguments)
        next(element.iter("{*}SigningTime")).text = text
        return element

    monkeypatch.setattr("sandbox.signing.template", another_time)
    assert verdict(signed()).state == state


HOSTILE = {
    "DOCTYPE": b'<!DOCTYPE p SYSTEM "file:///etc/passwd"><p/>',
    "entity": b'<!DOCTYPE p [<!ENTITY e SYSTEM "http://127.0.0.1:1/">]><p>&e;</p>',
    "laughs": b'<!DOCTYPE p [<!ENTITY a "a"><!ENTITY b "&a;&a;">]><p>&b;</p>',
    "not XML": b"<p",
    "tags": b"<p>" + b"<a/>" * 500_000 + b"</p>",
    "comments": b"<p>" + b"<!---->" * 500_000 + b"</p>",
    "attributes": b"<p " + b" ".join(b"a%d=''" % n for n in range(300_000)) + b"/>",
    "large": b"<p>" + b" " * (33 * 2**20) + b"</p>",
    "deep": b"<p>" * 100_000 + b"</p>" * 100_000,
}
ENCODINGS = {
    "UTF-16": '<?xml version="1.0" encoding="UTF-16"?><p/>'.encode("utf-16"),
    "Latin-2": b'<?xml version="1.0" encoding="iso-8859-2"?><p/>',
    "EBCDIC": '<?xml version="1.0" encoding="cp037"?><p/>'.encode("cp037"),
    "nothing": b"",
    "XML 1.1": b'<?xml version="1.1"?><p/>',
}


@pytest.mark.fault(14)
@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_xml_is_broken(content: bytes) -> None:
    assert verdict(content).state == "broken"


@pytest.mark.fault(14)
@pytest.mark.parametrize("content", ENCODINGS.values(), ids=ENCODINGS)
def test_other_encodings_are_not_read(content: bytes) -> None:
    assert verdict(content).state == "unverifiable"


@pytest.mark.fault(14)
def test_hostile_xml_is_judged_in_bounded_memory() -> None:
    """In a process of its own, whose peak of memory is only what this needs."""
    code = """
from app.upo.signature import MAX_EQUALS, MAX_TAGS, verify_signature
from tests.upo import memory
from tests.upo.signed import signed
content = signed()
verify_signature(content, ())
before = memory.peak()
head, tail = content.split(b"<Signature", 1)
for filling in (
    b"<a/>" * (MAX_TAGS - 1000),
    b"<!---->" * (MAX_TAGS - 1000),
    b"".join(b"<a b%d='' c%d='' d%d=''/>" % (n, n, n) for n in range(33_000)),
    b"<a/>" * 10_000_000,
    b"<!---->" * 4_000_000,
):
    state = verify_signature(head + filling + b"<Signature" + tail, ()).state
    # Comments are not signed: as many as may be are read, and change nothing.
    assert state == "broken" or b"--" in filling
print(memory.peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 300 * 2**20


# -- What is read is what was signed.


@tries(few=150, many=5000)
@given(place=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_no_flipped_byte_changes_what_is_valid(place: float, mask: int) -> None:
    content = bytearray(_GOOD)
    content[int(place * len(content))] ^= mask
    found = verdict(bytes(content))
    if found.state == "valid":
        assert found == verdict(_GOOD)
        assert parse_upo(bytes(content)) == parse_upo(_GOOD)
    elif found.state == "unknown_signer":
        raise AssertionError("a certificate that is not the signer's")


@tries(few=50, many=2000)
@given(st.binary(max_size=200))
def test_any_bytes_have_a_verdict(content: bytes) -> None:
    assert verdict(content).state in ("broken", "unverifiable", "unsigned")
    damaged = _GOOD[: len(content) * 30] + content + _GOOD[len(content) * 31 :]
    found = verdict(damaged)
    if found.state == "valid":
        try:
            assert parse_upo(damaged) == parse_upo(_GOOD)
        except KsefInvalidResponse:
            pytest.fail("a valid document is not readable")


_GOOD = signed(samples.upo(count=1))


def test_threads_do_not_mix_up_their_documents() -> None:
    documents = [(signed(), "valid"), *((forged(kind), state) for kind, state in VERDICTS.items())]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda each: verdict(each[0]).state, documents * 20)
        assert list(found) == [state for _, state in documents * 20]


# -- Another program agrees, in both directions.

needs_xmlsec1 = pytest.mark.skipif(shutil.which("xmlsec1") is None, reason="needs xmlsec1")
IDS = ("--id-attr:Id", "http://uri.etsi.org/01903/v1.3.2#:SignedProperties")


def xmlsec1_accepts(content: bytes, signer: Signer, folder: Path) -> bool:
    pem, document = folder / "signer.pem", folder / "upo.xml"
    pem.write_bytes(signer.certificate.public_bytes(serialization.Encoding.PEM))
    document.write_bytes(content)
    keys = ("--pubkey-cert-pem", pem, "--enabled-key-data", "rsa,ecdsa")
    command = ("xmlsec1", "--verify", *keys, *IDS, document)
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@needs_xmlsec1
def test_xmlsec1_agrees(tmp_path: Path) -> None:
    current = signers().current
    documents = {
        "good": signed(),
        "another prefix in scope": sign(_with_prefix(), seal()),
        **{kind: forged(kind) for kind in FORGERIES},
    }
    for kind, content in documents.items():
        found = verdict(content)
        if found.state in ("unverifiable", "unknown_signer"):
            continue
        signer = signers().elliptic if kind == "ecdsa" else current
        accepted = xmlsec1_accepts(content, signer, tmp_path)
        assert accepted is (found.state == "valid"), kind
    assert verdict(documents["another prefix in scope"]).state == "valid"


@needs_xmlsec1
def test_what_xmlsec1_signed_is_valid_here(tmp_path: Path) -> None:
    current = signers().current
    root = _with_prefix()
    root.append(template(seal()))
    for name, algorithm in (("in", etree.tostring(root)), ("key.pem", _pem(current))):
        (tmp_path / name).write_bytes(algorithm)
    command = (
        *("xmlsec1", "--sign", "--privkey-pem", tmp_path / "key.pem", *IDS),
        *("--output", tmp_path / "out", tmp_path / "in"),
    )
    subprocess.run(command, capture_output=True, check=True)
    content = (tmp_path / "out").read_bytes()
    found = verdict(content)
    assert found.state == "valid", found.reason
    assert verdict(content.replace(b"FV/1/", b"FV/7/")).state == "broken"


def _with_prefix() -> etree._Element:
    return etree.fromstring(
        samples.upo(count=2).xml().replace(b"<Potwierdzenie ", b'<Potwierdzenie xmlns:x="urn:x" ')
    )


def _pem(signer: Signer) -> bytes:
    return signer.private_key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


# -- What it costs.


def test_it_is_quick_and_its_memory_is_bounded(tmp_path: Path) -> None:
    """CPU time, in a process of its own: one UPO at most 3 ms, a page of 10,000 at most 1 s and
    150 MB in all."""
    code = """
import sys
from pathlib import Path
from time import process_time
from app.upo.signature import verify_signature
from tests.upo import memory
one, page = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2]).read_bytes()
assert verify_signature(one, ()).state == "unknown_signer"
times = []
for _ in range(30):
    began = process_time()
    verify_signature(one, ())
    times.append(process_time() - began)
began = process_time()
assert verify_signature(page, ()).state == "unknown_signer"
print(sorted(times)[len(times) // 2], process_time() - began, memory.peak())
"""
    files = [tmp_path / "one", tmp_path / "page"]
    for file, count in zip(files, (1, 10_000), strict=True):
        file.write_bytes(signed(samples.upo(count=count)))
    done = subprocess.run(
        [sys.executable, "-c", code, *files],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    one, page, peak = map(float, done.stdout.split())
    assert one <= 0.003
    assert page <= 1.0
    assert peak <= 150 * 10**6
