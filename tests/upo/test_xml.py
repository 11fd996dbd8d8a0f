"""Reading a UPO: what is taken from it, and everything that must not be taken."""

import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from app.errors import KsefInvalidResponse
from app.upo.xml import MAX_BYTES, UpoPage, parse_upo
from tests.upo import samples

WARSAW = ZoneInfo("Europe/Warsaw")
XSD_NAMESPACE = "http://upo.schematy.mf.gov.pl/KSeF/v4-3"
V4_2 = "http://upo.schematy.mf.gov.pl/KSeF/v4-2"


def refused(content: bytes) -> str:
    """The message of the only error that a UPO may end in."""
    with pytest.raises(KsefInvalidResponse) as caught:
        parse_upo(content)
    return caught.value.detail


def changed(old: str, new: str) -> bytes:
    """A good UPO with a part of its XML replaced."""
    xml = samples.upo(page=(1, 1, 1, 2, 1)).xml().decode()
    assert xml.count(old) == 1, old
    return xml.replace(old, new).encode()


def test_all_fields_of_a_session_are_read() -> None:
    sample = samples.upo(count=2, page=(1, 3, 1, 3, 5), issuer=samples.TEST_ISSUER)

    upo = parse_upo(sample.xml())

    assert upo.version == "v4-3"
    assert upo.issuer == sample.issuer
    assert upo.session_reference_number == sample.session
    assert (upo.context_type, upo.context_id) == sample.context
    assert upo.authentication_hash == sample.authentication_hash
    assert upo.token_reference_number is None
    assert upo.page == UpoPage(1, 3, 1, 3, 5)
    assert (upo.schema_name, upo.form_code) == (sample.schema, sample.form)
    second, expected = upo.documents[1], sample.documents[1]
    assert second.seller_nip == expected.seller_nip
    assert second.ksef_number == expected.ksef_number
    assert second.invoice_number == expected.invoice_number
    assert second.issue_date == date(2026, 4, 2)
    assert second.sent_at == datetime.fromisoformat(expected.sent_at)
    assert second.ksef_number_assigned_at == datetime(2026, 4, 2, 8, 0, 1, 999999, UTC)
    assert second.document_hash == expected.document_hash
    assert second.sending_mode == "Online"


def test_v4_2_has_no_sending_mode_and_an_unknown_v4_is_read_like_the_newest() -> None:
    old = parse_upo(samples.kinds()["v4-2"].xml())
    new = parse_upo(samples.kinds()["future v4"].xml())

    assert (old.version, old.documents[0].sending_mode) == ("v4-2", None)
    assert (new.version, new.documents[0].sending_mode) == ("v4-9", "Online")


def test_a_signature_and_unknown_elements_are_passed_over() -> None:
    unknown = (
        '<Nowe><Dokument><NumerFaktury>x</NumerFaktury></Dokument></Nowe><x:a xmlns:x="urn:x"/>'
        '<x:Dokument xmlns:x="urn:x"><NumerFaktury>x</NumerFaktury></x:Dokument>'
    )
    signed = samples.upo(signature=samples.SIGNATURE + unknown)

    assert parse_upo(signed.xml()) == parse_upo(replace(signed, signature="").xml())


def test_elements_of_another_version_are_passed_over() -> None:
    other = samples.documents(1)[0].xml().replace("<Dokument>", f"<Dokument xmlns='{V4_2}'>")
    sample = samples.upo()

    assert parse_upo(replace(sample, signature=other).xml()) == parse_upo(sample.xml())


def test_attributes_comments_and_instructions_do_not_matter() -> None:
    xml = samples.upo().xml().decode()
    noisy = xml.replace("<KodFormularza>FA (3)", "<KodFormularza a='1'>FA<!-- no --> <?no no?>(3)")
    noisy = noisy.replace("<Potwierdzenie ", "<Potwierdzenie wersjaSchemy='7' ")

    assert noisy.count("<!--") == noisy.count("wersjaSchemy") == 1
    assert parse_upo(noisy.encode()) == parse_upo(xml.encode())


def test_white_space_is_collapsed_as_in_a_token() -> None:
    content = changed("<KodFormularza>FA (3)", "<KodFormularza>\n\t FA \r\n <![CDATA[ (3)]]> ")

    assert parse_upo(content).form_code == "FA (3)"


@pytest.mark.parametrize("encoding", ["utf-16", "iso-8859-2", "utf-8-sig"])
def test_encodings_that_are_declared_are_read(encoding: str) -> None:
    xml = samples.upo().xml().decode()
    content = xml.replace('encoding="utf-8"', f'encoding="{encoding.removesuffix("-sig")}"')

    assert parse_upo(content.encode(encoding)).issuer == samples.PRODUCTION_ISSUER


@pytest.mark.parametrize(
    ("kind", "identifier", "nip"),
    [
        ("Nip", "7191234562", "7191234562"),
        ("IdWewnetrzny", "7191234562-00417", "7191234562"),
        ("IdZlozonyVatUE", "7191234562-DE308412076", "7191234562"),
        ("IdDostawcyUslugPeppol", "PPL004217", None),
        ("IdDostawcyUslugPeppol", "7191234562", None),
        ("Nip", "719123456", None),
        ("Nip", "٧١٩١٢٣٤٥٦٢", None),
        ("IdWewnetrzny", "71912345620-0041", None),
    ],
)
def test_the_nip_of_a_context(kind: str, identifier: str, nip: str | None) -> None:
    upo = parse_upo(samples.upo(context=(kind, identifier)).xml())

    assert (upo.context_type, upo.context_id, upo.context_nip) == (kind, identifier, nip)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-07-01T12:00:00Z", datetime(2026, 7, 1, 12, tzinfo=UTC)),
        ("2026-07-01T12:00:00.1234567-05:30", datetime(2026, 7, 1, 17, 30, 0, 123456, UTC)),
        ("2026-07-01T12:00:00+14:00", datetime(2026, 6, 30, 22, tzinfo=UTC)),
        ("2026-12-31T24:00:00Z", datetime(2027, 1, 1, tzinfo=UTC)),
        ("2026-12-31T24:00:00.000Z", datetime(2027, 1, 1, tzinfo=UTC)),
        # Without an offset: Polish time, in summer and in winter.
        ("2026-07-01T12:00:00", datetime(2026, 7, 1, 10, tzinfo=UTC)),
        ("2026-01-01T12:00:00.5", datetime(2026, 1, 1, 11, 0, 0, 500000, UTC)),
    ],
)
def test_times(text: str, moment: datetime) -> None:
    upo = parse_upo(samples.UpoSample((samples.document(sent_at=text),)).xml())

    # Compared as UTC: zones with two readings of one hour are never equal.
    assert upo.documents[0].sent_at.astimezone(UTC) == moment
    assert isinstance(upo.documents[0].sent_at.utcoffset(), timedelta)


@pytest.mark.parametrize(
    "text",
    [
        "2026-07-01",
        "2026-07-01T12:00",
        "2026-07-01 12:00:00Z",
        "2026-02-30T12:00:00Z",
        "2026-07-01T24:00:01Z",
        "2026-07-01T24:00:00.1Z",
        "2026-07-01T12:60:00Z",
        "2026-07-01T12:00:60Z",
        "2026-07-01T12:00:00+14:01",
        "2026-07-01T12:00:00+01:60",
        "2026-07-01T12:00:00+0200",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T24:00:00Z",
        "9999-12-31T23:59:59-14:00",
        "9999-12-31T23:59:59Z",
        "12026-07-01T12:00:00Z",
        "-2026-07-01T12:00:00Z",
        "٢٠٢٦-07-01T12:00:00Z",
    ],
)
def test_what_is_not_a_time_is_named(text: str) -> None:
    content = samples.UpoSample((samples.documents(1)[0], samples.document(sent_at=text))).xml()

    assert "Dokument[2]/DataPrzeslaniaDokumentu" in refused(content)


@pytest.mark.parametrize("text", ["2026-04-05", "2026-04-05Z", "2026-04-05+02:00"])
def test_dates(text: str) -> None:
    upo = parse_upo(samples.UpoSample((samples.document(issue_date=text),)).xml())

    assert upo.documents[0].issue_date == date(2026, 4, 5)


@pytest.mark.parametrize("text", ["2026-4-5", "2026-02-30", "0000-01-01", "2026-04-05T00:00:00"])
def test_what_is_not_a_date_is_named(text: str) -> None:
    content = samples.UpoSample((samples.document(issue_date=text),)).xml()

    assert "Dokument[1]/DataWystawieniaFaktury" in refused(content)


@pytest.mark.parametrize("text", ["0", "-1", "1.0", "x", "1234567890", "٣", "9" * 100])
def test_what_is_not_a_count_is_named(text: str) -> None:
    assert "Strona" in refused(changed("<Strona>1<", f"<Strona>{text}<"))


def test_counts_may_have_a_sign_and_zeros() -> None:
    page = parse_upo(changed("<Strona>1<", "<Strona> +0012 <")).page

    assert page is not None
    assert page.page == 12


@pytest.mark.parametrize(
    "name",
    [
        "NazwaPodmiotuPrzyjmujacego",
        "NumerReferencyjnySesji",
        "LiczbaStron",
        "NazwaStrukturyLogicznej",
        "KodFormularza",
        "NipSprzedawcy",
        "NumerKSeFDokumentu",
        "NumerFaktury",
        "DataWystawieniaFaktury",
        "DataPrzeslaniaDokumentu",
        "DataNadaniaNumeruKSeF",
        "SkrotDokumentu",
    ],
)
def test_a_missing_empty_repeated_or_nested_field_is_named(name: str) -> None:
    assert name in refused(changed(f"<{name}>", f"<x><{name}>").replace(*_closed(name, "</x>")))
    assert name in refused(changed(f"<{name}>", f"<{name}/><y>").replace(*_closed(name, "")))
    assert name in refused(changed(f"<{name}>", f"<{name}>2</{name}><{name}>"))
    assert f"{name} holds an element" in refused(changed(f"<{name}>", f"<{name}>1<x/>"))


def _closed(name: str, after: str) -> tuple[bytes, bytes]:
    end = f"</{name}>"
    return end.encode(), (end + after if after else "</y>").encode()


def test_documents_and_a_context_are_needed() -> None:
    assert "Dokument" in refused(samples.UpoSample(()).xml())
    assert "IdKontekstu" in refused(samples.upo(context=("Pesel", "1")).xml())
    both = changed("</Nip>", "</Nip><IdWewnetrzny>7191234562-00001</IdWewnetrzny>")
    assert "IdKontekstu" in refused(both)


def test_values_far_longer_than_the_schema_allows_are_refused() -> None:
    assert parse_upo(samples.upo(form="F" * 512).xml()).form_code == "F" * 512
    assert "KodFormularza" in refused(samples.upo(form="F" * 513).xml())
    assert "SkrotDokumentu" in refused(samples.upo(authentication_hash="a" * 129).xml())
    assert "NumerFaktury" in refused(
        samples.UpoSample((samples.document(invoice_number="1" * 100_000),)).xml()
    )


@pytest.mark.parametrize(
    "root",
    [
        f'<Faktura xmlns="{XSD_NAMESPACE}"/>',
        "<Potwierdzenie/>",
        '<Potwierdzenie xmlns="http://upo.schematy.mf.gov.pl/KSeF/v3-0"/>',
        '<Potwierdzenie xmlns="http://upo.schematy.mf.gov.pl/KSeF/v4-"/>',
        f'<Potwierdzenie xmlns="{XSD_NAMESPACE}/x"/>',
        '<Potwierdzenie xmlns="http://upoXschematy.mf.gov.pl/KSeF/v4-3"/>',
        "<html><body>Request rejected</body></html>",
    ],
)
def test_other_roots_are_refused(root: str) -> None:
    assert "root" in refused(root.encode())


HOSTILE_DOCTYPES = {
    "plain": "<!DOCTYPE Potwierdzenie>",
    "html": "<!DOCTYPE html>",
    "external": '<!DOCTYPE a SYSTEM "http://127.0.0.1:9/a.dtd">',
    "file": '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]>',
    "parameter": '<!DOCTYPE a [<!ENTITY % x SYSTEM "file:///etc/hostname"> %x;]>',
    "laughs": "<!DOCTYPE a [<!ENTITY a0 'ha'>"
    + "".join(f"<!ENTITY a{i} '{f'&a{i - 1};' * 10}'>" for i in range(1, 12))
    + "]>",
    "quadratic": f"<!DOCTYPE a [<!ENTITY a0 '{'x' * 100_000}'>]>",
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("doctype", HOSTILE_DOCTYPES.values(), ids=HOSTILE_DOCTYPES)
def test_any_doctype_is_refused_before_the_root_is_read(doctype: str, encoding: str) -> None:
    declaration = f'<?xml version="1.0" encoding="{encoding}"?>'
    xml = samples.upo(form="&entity;").xml().decode().partition("?>")[2]
    body = xml.replace("&amp;entity;", "&a11;" * 100)

    assert "DOCTYPE" in refused((declaration + doctype + body).encode(encoding))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b" ",
        b"not xml",
        b"\0" * 64,
        b"\xff\xfe",
        b"\x1f\x8b\x08\x00gzip",
        b"%PDF-1.4",
        b'{"exception": {}}',
        b'<?xml version="1.0" encoding="nonsense"?><a/>',
        b'<?xml version="1.0" encoding="utf-7"?><a/>',
        b'<?xml version="3.0"?><a/>',
        b"<a>" * 10,
        b"<a b='1' b='2'/>",
    ],
)
def test_what_is_not_xml_is_refused(content: bytes) -> None:
    refused(content)


@pytest.mark.parametrize("character", [b"\0", b"\x0b", b"\xff", b"\xed\xa0\x80", b"&#0;", b"&x;"])
def test_characters_that_xml_forbids_are_refused(character: bytes) -> None:
    refused(samples.upo(form="HERE").xml().replace(b"HERE", character))


def test_a_truncated_upo_is_refused_wherever_it_ends() -> None:
    content = samples.upo(count=2).xml()
    for length in range(0, len(content), 7):
        refused(content[:length])


def test_a_second_root_or_text_after_the_end_is_refused() -> None:
    content = samples.upo().xml()
    refused(content + content.partition(b"\n")[2])
    refused(content + b"text")


def test_more_than_32_mib_are_refused_and_exactly_so_many_are_not() -> None:
    content = samples.upo().xml()
    padding = b" " * (MAX_BYTES - len(content))

    assert parse_upo(content.replace(b"<Dokument>", padding + b"<Dokument>")).documents
    assert "32 MiB" in refused(content.replace(b"<Dokument>", padding + b" <Dokument>"))


BOMBS = {
    "many elements": lambda: b"<x/>" * 8_000_000,
    "deep": lambda: b"<x>" * 10_000_000,
    "one text": lambda: b"<KodFormularza>" + b"x" * 31_000_000,
    "space": lambda: b"<KodFormularza>" + b" " * 31_000_000,
    "many attributes": lambda: b"<x " + b"".join(b"a%d='' " % i for i in range(2_000_000)),
    "one attribute": lambda: b"<x a='" + b"x" * 31_000_000,
    "comment": lambda: b"<!--" + b"x" * 31_000_000,
    "instruction": lambda: b"<?x " + b"x" * 31_000_000,
    "unknown text": lambda: b"<x>" + b"x " * 15_000_000 + b"</x>",
    "many namespaces": lambda: b"".join(b"<x xmlns='%d'/>" % i for i in range(1_000_000)),
}


def exploding(bomb: str) -> bytes:
    return f"<Potwierdzenie xmlns='{XSD_NAMESPACE}'>".encode() + BOMBS[bomb]()


@pytest.mark.parametrize(
    ("bomb", "reason"),
    [
        ("many elements", "too many elements"),
        ("many namespaces", "too many elements"),
        ("deep", "too many elements"),
        ("one text", "KodFormularza is too long"),
        ("space", "KodFormularza is too long"),
        ("many attributes", "a tag or comment that is too long"),
        ("one attribute", "a tag or comment that is too long"),
        ("comment", "a tag or comment that is too long"),
        ("instruction", "a tag or comment that is too long"),
        ("unknown text", "not well-formed"),
    ],
)
def test_a_bomb_is_refused(bomb: str, reason: str) -> None:
    assert reason in refused(exploding(bomb))


def test_unknown_elements_may_be_nested_64_deep() -> None:
    def nested(depth: int) -> bytes:
        return samples.upo(signature="<x>" * depth + "</x>" * depth).xml()

    assert parse_upo(nested(64)) == parse_upo(nested(0))
    assert "too many elements" in refused(nested(65))


@pytest.mark.parametrize("bomb", ["many elements", "space", "many attributes", "comment"])
def test_a_bomb_is_refused_in_bounded_memory(bomb: str) -> None:
    """In a process of its own, whose peak of memory is only what this needs."""
    program = """
import sys
from app.errors import KsefInvalidResponse
from app.upo.xml import parse_upo
from tests.upo import memory

content = sys.stdin.buffer.read()
before = memory.peak()
try:
    parse_upo(content)
except KsefInvalidResponse:
    print(memory.peak() - before)
"""
    run = subprocess.run(
        [sys.executable, "-c", program],
        input=exploding(bomb),
        capture_output=True,
        check=True,
        timeout=60,
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
    )

    assert int(run.stdout) < 16 * 1024 * 1024
