"""KSeF's JSON as typed Structs; its camelCase ends here.

Unknown fields are ignored, as KSeF asks of its clients. A missing or wrong field is a
KsefInvalidResponse that names it, except where it decides nothing: `_mended` says what is put
right. What is stored was written by `to_json` in the same shape, so that `decode` reads it too.
"""

import functools
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, field, inspect, structs

from app.errors import KsefInvalidResponse

T = TypeVar("T")
Linked = TypeVar("Linked", bound="Session | Invoice")

SUCCESS = 200
DUPLICATE = 440
DETAILS_LIMIT = 16 * 2**10  # bytes, in UTF-8, of an invoice's or a session's details
_decoder: Callable[[Any], msgspec.json.Decoder[Any]] = functools.cache(msgspec.json.Decoder)
_shape: Callable[[Any], inspect.Type] = functools.cache(inspect.type_info)
BOM = b"\xef\xbb\xbf"  # UTF-8's byte order mark, with which KSeF may begin a body
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding raises for a body that is not the JSON that was expected."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MOMENT = (datetime(9999, 1, 1, tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)
YEARS = range(1000, 9999)  # .NET's unset times are outside; shifted by an offset they overflow
# A body with one of these is looked at more closely: a year outside, a NUL.
_ODD_YEAR = re.compile(rb'"(?:0\d{3}|9999)-\d\d-\d\dT')
_ODD_ESCAPE = re.compile(rb"\\u00[03]")  # a digit may be escaped too
_LONG_FRACTION = re.compile(rb"(:\d\d\.\d{6})\d+")

Integer = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]  # as PostgreSQL's
Identifier = Annotated[str, Meta(pattern=r"\A[0-9A-Za-z-]{1,64}\Z")]  # for SQL, paths, file names
Secret = Annotated[str, Meta(pattern=r"\A[!-~]+\Z")]  # for a header
Text = Annotated[str, Meta(min_length=1)]
Time = Annotated[datetime, Meta(tz=True)]
if TYPE_CHECKING:
    Details = Sequence[str]
else:
    Details = tuple[Text, ...] | None  # null becomes ()


class Wire(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, gc=False):
    """What all shapes have in common."""


class Extensions(Wire, frozen=True):
    """What KSeF adds to the status of a duplicate."""

    original_ksef_number: Identifier | None = None
    original_session_reference_number: Identifier | None = None


class Status(Wire, frozen=True):
    """A status of a session, an invoice or a login. Codes below 200 mean it is in progress."""

    code: Integer
    description: Text = ""
    details: Details = ()
    extensions: Extensions | None = None

    def __post_init__(self) -> None:
        if self.details != ():
            structs.force_setattr(self, "details", _bounded(self.details) if self.details else ())

    @property
    def is_final(self) -> bool:
        return self.code >= SUCCESS


class UpoPage(Wire, frozen=True):
    """A page of a session's collective UPO.

    `download_url` fetches it without a token and without quota, as long as it is valid: a secret.
    """

    reference_number: Identifier
    download_url: Text | None = None
    download_url_expiration_date: Time | None = None

    def __repr__(self) -> str:
        return f"UpoPage({self.reference_number!r})"


class Upo(Wire, frozen=True):
    """The collective UPO of a session."""

    pages: tuple[UpoPage, ...] = ()


class Session(Wire, frozen=True):
    """What became of a session.

    `total` is the number of its invoices, None where KSeF does not give it (yet); `invoice_count`
    is 0 then, as are the other counts.
    """

    status: Status
    date_created: Time
    date_updated: Time
    valid_until: Time | None = None
    total: Integer | None = field(name="invoiceCount", default=None)
    successful_invoice_count: Integer = 0
    failed_invoice_count: Integer = 0
    upo: Upo | None = None

    @property
    def invoice_count(self) -> int:
        return self.total or 0

    @property
    def upo_pages(self) -> Sequence[UpoPage]:
        return self.upo.pages if self.upo else ()


class Original(msgspec.Struct, frozen=True):
    """The invoice that a duplicate (440) repeats: its KSeF number and its session."""

    ksef_number: str
    session_reference_number: str | None


class Invoice(Wire, frozen=True):
    """An invoice of a session, under KSeF's own reference number for it.

    `upo_download_url` is a secret, as that of a UpoPage. `invoice_hash` and `invoicing_date` are
    missing only in what version 0.1.0 stored.
    """

    ordinal_number: Integer
    reference_number: Identifier
    status: Status
    invoice_number: Text | None = None
    ksef_number: Identifier | None = None
    acquisition_date: Time | None = None
    invoicing_date: Time | None = None
    invoice_hash: Text | None = None
    invoice_file_name: Text | None = None
    invoicing_mode: Text | None = None
    upo_download_url: Text | None = None
    upo_download_url_expiration_date: Time | None = None

    def __repr__(self) -> str:
        return f"Invoice({self.ordinal_number!r}, {self.reference_number!r}, {self.status!r})"

    @property
    def is_accepted(self) -> bool:
        return self.status.code == SUCCESS and self.ksef_number is not None

    @property
    def duplicate_of(self) -> Original | None:
        """The original of a duplicate, as KSeF names it: its session may be missing or wrong."""
        extensions = self.status.extensions
        if self.status.code != DUPLICATE or extensions is None:
            return None
        number = extensions.original_ksef_number
        return Original(number, extensions.original_session_reference_number) if number else None


class InvoicePage(Wire, frozen=True):
    """One page of a session's invoices. An empty page may carry a token; the last has none."""

    invoices: tuple[Invoice, ...]
    continuation_token: str | None = None


class ListedSession(Session, frozen=True, kw_only=True):
    """A session in the list of a company's sessions, which has no UPO pages."""

    reference_number: Identifier
    total: Integer | None = field(name="totalInvoiceCount", default=None)

    @property
    def session(self) -> Session:
        """The same as its own status would say it, but for the UPO."""
        return Session(*(getattr(self, name) for name in Session.__struct_fields__))


class SessionPage(Wire, frozen=True):
    """One page of the company's sessions."""

    sessions: tuple[ListedSession, ...]
    continuation_token: str | None = None


class PublicKey(Wire, frozen=True):
    """A public key of KSeF and what it may be used for; `certificate` is DER in Base64.

    Of a key that we need not use anything may be missing.
    """

    certificate: Text = ""
    public_key_id: Text | None = None
    usage: tuple[Text, ...] = ()
    valid_from: Time | None = None
    valid_to: Time | None = None


class Challenge(Wire, frozen=True):
    """A challenge to be answered; `timestamp_ms` is KSeF's time, in Unix milliseconds."""

    challenge: Identifier
    timestamp_ms: Annotated[int, Meta(ge=0, lt=_LAST_MOMENT)]

    @property
    def made_at(self) -> datetime:
        """What time it was by KSeF's clock, in UTC."""
        return _EPOCH + timedelta(milliseconds=self.timestamp_ms)


class Token(Wire, frozen=True):
    """A bearer token and when it expires. Its repr does not show the value."""

    value: Secret = field(name="token")
    valid_until: Time

    def __repr__(self) -> str:
        return f"Token(valid_until={self.valid_until!r})"


class StartedLogin(Wire, frozen=True):
    """A login in progress: its reference and the token to ask after it."""

    reference_number: Identifier
    operation_token: Token = field(name="authenticationToken")


class LoginStatus(Wire, frozen=True):
    """How far a login is."""

    status: Status


class Refreshed(Wire, frozen=True):
    """A new access token."""

    access: Token = field(name="accessToken")


class Tokens(Refreshed, frozen=True):
    """The two tokens that KSeF hands out at the end of a login."""

    refresh: Token = field(name="refreshToken")


def decode(kind: type[T], body: bytes | str) -> T:
    """A body of KSeF's, or what `to_json` wrote, as one of the shapes above or a list of them.

    Raises KsefInvalidResponse, which names the field that is wrong.
    """
    body = (body.encode() if isinstance(body, str) else body).removeprefix(BOM)
    if b".999999" in body:  # msgspec would round KSeF's seven digits up, to the next second
        body = _LONG_FRACTION.sub(rb"\1", body)
    try:
        if not (_ODD_YEAR.search(body) or _ODD_ESCAPE.search(body)):
            with suppress(msgspec.ValidationError):
                decoded: T = _decoder(kind).decode(body)
                return decoded
        return msgspec.convert(_mended(msgspec.json.decode(body), _shape(kind)), kind)
    except msgspec.ValidationError as error:
        raise KsefInvalidResponse(
            f"KSeF's answer breaks its contract: {_breach(str(error))}."
        ) from None
    except UNREADABLE:
        raise KsefInvalidResponse("KSeF's answer is not JSON.") from None


def without_links(shape: Linked) -> Linked:
    """The same without download links, as it is stored and compared."""
    if isinstance(shape, Invoice):
        return structs.replace(shape, upo_download_url=None, upo_download_url_expiration_date=None)
    pages = tuple(UpoPage(page.reference_number) for page in shape.upo_pages)
    return structs.replace(shape, upo=Upo(pages) if pages else None)


def to_json(said: Session | Sequence[Invoice]) -> str:
    """A session or invoices as KSeF's JSON, without download links; `decode` reads it back."""
    if isinstance(said, Session):
        return msgspec.json.encode(without_links(said)).decode()
    return msgspec.json.encode([without_links(invoice) for invoice in said]).decode()


def _mended(value: Any, shape: inspect.Type) -> Any:
    """The value with what decides nothing put right; None if nothing is left of it.

    An empty text and a time that cannot be are as good as none, null in a list or in place of a
    default is left out, and texts lose the NULs that PostgreSQL cannot store. Identifiers and
    required fields stay as they are.
    """
    match shape, value:
        case inspect.UnionType(), _:
            return _mended(
                value, next(one for one in shape.types if not isinstance(one, inspect.NoneType))
            )
        case inspect.StructType(), dict():
            known = {one.encode_name: one for one in shape.fields if one.encode_name in value}
            mended = {name: _mended(value[name], one.type) for name, one in known.items()}
            return {k: v for k, v in mended.items() if v is not None or known[k].required}
        case ((inspect.ListType() | inspect.VarTupleType()), list()):
            items = (_mended(item, shape.item_type) for item in value)
            return [item for item in items if item is not None]
        case inspect.StrType(), str():
            return (value if shape.pattern else value.replace("\0", "")) or None
        case inspect.DateTimeType(), str():
            return value if _can_be(value) else None
    return value


def _can_be(text: str) -> bool:
    try:
        return msgspec.convert(text, Time).year in YEARS
    except msgspec.ValidationError:
        return False


def _bounded(details: Sequence[str]) -> Sequence[str]:
    """The details up to DETAILS_LIMIT; the last entry says how many more there were."""
    ends = list(accumulate(len(text.encode()) for text in details))
    if ends[-1] <= DETAILS_LIMIT:
        return details
    left = DETAILS_LIMIT - 64  # for the last entry
    whole = bisect_right(ends, left)
    kept = details[:whole] or (details[0].encode()[:left].decode(errors="ignore"),)
    return (*kept, f"… ({len(details) - whole} more)")


def _breach(message: str) -> str:
    """msgspec's message, the path first: `invoices[3].status.code: expected …`."""
    what, _, path = message.removesuffix("`").partition(" - at `$")
    if what.startswith("Object missing required field `"):
        path += "." + what.split("`")[1]
        what = "is not there"
    else:
        what = what[0].lower() + what[1:]
    return f"{path.removeprefix('.') or 'the body'}: {what}"
