"""Damaged UPOs end in a PDF or in the one error, never in anything else."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import KsefInvalidResponse
from app.upo.pdf import render_upo
from app.upo.xml import parse_upo
from tests.upo import samples

SEEDS = [
    samples.upo(count=2, page=(1, 1, 1, 3, 2), signature=samples.SIGNATURE).xml(),
    samples.kinds()["v4-2"].xml(),
    samples.kinds()["long invoice number"].xml(),
    samples.kinds()["token"].xml(),
]
PIECES = [
    b"<!DOCTYPE a [<!ENTITY x 'y'>]>",
    b"<Dokument>",
    b"</Dokument>",
    b"<![CDATA[",
    b"]]>",
    b"<!--",
    b"&#0;",
    b"&#x10FFFF;",
    b"&x;",
    b"<?xml version='1.0'?>",
    b" xmlns='urn:x'",
    b"\xff\xfe",
    b"\xf0\x9f\x98\x80",
    b"9999-12-31T23:59:59",
    b"24:00:00",
    b"-00:00",
    b"Europe",
    b"0" * 300,
]
no_deadline = settings(
    deadline=None, max_examples=250, suppress_health_check=[HealthCheck.too_slow]
)


def outcome(content: bytes) -> bytes | None:
    """The PDF, or None where the content was refused."""
    try:
        upo = parse_upo(content)
    except KsefInvalidResponse:
        return None
    pdf = render_upo(upo, xml_sha256="0" * 64)
    assert pdf.startswith(b"%PDF-1.7")
    assert pdf.rstrip().endswith(b"%%EOF")
    return pdf


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A sample with pieces cut out, doubled, overwritten or put in."""
    content = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(0, 40)))
        piece = draw(st.sampled_from(PIECES) | st.binary(max_size=12) | st.just(content[start:end]))
        kept = draw(st.booleans())
        content[start : start if kept else end] = piece
    return bytes(content)


@no_deadline
@given(damaged())
def test_damaged_bytes(content: bytes) -> None:
    outcome(content)


@no_deadline
@given(st.binary(max_size=200))
def test_any_bytes(content: bytes) -> None:
    assert outcome(content) is None


# What XML 1.0 can carry at all.
xml_text = st.text(
    st.characters(exclude_categories=["Cs"]).filter(
        lambda char: char in "\t\n\r" or (ord(char) >= 0x20 and char not in "\ufffe\uffff")
    ),
    max_size=300,
)


@no_deadline
@given(xml_text, xml_text, xml_text, xml_text)
def test_any_text_in_the_fields(invoice: str, number: str, issuer: str, form: str) -> None:
    document = samples.document(invoice_number=invoice, ksef_number=number)
    sample = samples.UpoSample((document,), issuer=issuer, form=form, session=number)
    pdf = outcome(sample.xml())

    lengths = [len(" ".join(text.split(None))) for text in (invoice, issuer, form)]
    if all(lengths) and 0 < len(" ".join(number.split(None))) <= 100 and len(number) <= 128:
        assert pdf is not None
