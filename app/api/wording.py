"""The `detail` of every problem in Polish, and of every 409 and 502 in English too.

They are in the language of `MESSAGE_LANGUAGE`: sentences that tell an accountant what to do. What
to do in an outage follows KSeF's documentation of the offline modes (`tryby-offline`).
"""

from collections.abc import Callable, Mapping
from datetime import datetime

from app import errors
from app.services.login.credentials import LoginRefused
from app.services.outages import Evidence

Time = Callable[[datetime], str]
_DUTIES = {
    "en": {
        "next_working_day_after_end": (
            "Issue invoices offline and send them to KSeF by the next working day after the"
            " maintenance ends."
        ),
        "seven_working_days_after_end": (
            "Issue invoices offline and send them to KSeF within seven working days after the"
            " failure ends."
        ),
        "none": (
            "The Ministry has announced a total failure: issue invoices outside of KSeF; they need"
            " not be sent to it."
        ),
        None: (
            "The Ministry has not announced it, as far as is known: issue invoices in the mode"
            " offline24 and send them to KSeF by the next working day after the day of issue."
        ),
    },
    "pl": {
        "next_working_day_after_end": (
            "Wystawiaj faktury offline i prześlij je do KSeF najpóźniej w następnym dniu roboczym"
            " po zakończeniu prac serwisowych."
        ),
        "seven_working_days_after_end": (
            "Wystawiaj faktury offline i prześlij je do KSeF w ciągu siedmiu dni roboczych po"
            " zakończeniu awarii."
        ),
        "none": (
            "Ministerstwo ogłosiło awarię całkowitą: wystawiaj faktury poza KSeF; nie trzeba ich"
            " do niego przesyłać."
        ),
        None: (
            "Ministerstwo, o ile wiadomo, jej nie ogłosiło: wystawiaj faktury w trybie offline24 i"
            " prześlij je do KSeF najpóźniej w następnym dniu roboczym po dniu wystawienia."
        ),
    },
}
_SINCE = {
    ("en", "latarnia"): "KSeF has been down since {since}, as the Ministry has announced.",
    ("en", "breaker"): "KSeF has not answered any calls since {since}.",
    ("pl", "latarnia"): "KSeF nie działa od {since}, co ogłosiło Ministerstwo.",
    ("pl", "breaker"): "KSeF nie odpowiada na żadne wywołania od {since}.",
}
_NO_OUTAGE = {
    "en": "An outage of KSeF is not established: wait, and ask again.",
    "pl": "Nie stwierdzono awarii KSeF: poczekaj i zapytaj ponownie.",
}
_NO_USE = {
    "en": "An outage of KSeF is not established, and asking again will not help.",
    "pl": "Nie stwierdzono awarii KSeF, a ponowienie zapytania nie pomoże.",
}
_BEFORE = {
    "en": "An outage of KSeF is not established; asking again will not help before that is done.",
    "pl": "Nie stwierdzono awarii KSeF; ponowienie zapytania przedtem nie pomoże.",
}
_AN_OUTAGE = {
    "en": "Apart from this, an outage of KSeF is established.",
    "pl": "Niezależnie od tego stwierdzono awarię KSeF.",
}
_REFUSED = "KSeF odrzucił poświadczenie firmy."
REMEDIES = {
    415: "Nadaj mu w KSeF uprawnienia dla tej firmy.",
    425: "Zaloguj firmę na nowo.",
    450: "Zapisz ważny token.",
    460: "Zapisz ważny certyfikat.",
    470: "Zapisz poświadczenie innej osoby.",
    480: "Musi zadziałać operator: zapisać poświadczenie na nowo albo wykonać polecenie `login`.",
}
_POLISH = {
    errors.KsefError.code: "KSeF odmówił albo zawiódł.",
    errors.KsefRateLimited.code: "Limit zapytań tej firmy do KSeF jest wyczerpany.",
    errors.KsefUnreachable.code: "Nie ma połączenia z KSeF albo nie odpowiedział na czas.",
    errors.KsefInvalidResponse.code: "Odpowiedź KSeF jest niezgodna z jego dokumentacją.",
    errors.UpoIntegrity.code: "Otrzymane UPO nie jest tym, o które pytano, albo jest uszkodzone.",
    errors.InvalidParameter.code: "Parametr albo treść żądania są błędne.",
    errors.Unauthorized.code: (
        "Brak nazwy użytkownika lub hasła albo są błędne (HTTP Basic); albo, gdy podano retryAfter,"
        " zbyt wiele logowań się nie udało i przez ten czas nawet dobre hasło nie jest sprawdzane."
    ),
    errors.Forbidden.code: "Rola użytkownika nie wystarcza albo żądanie pochodzi z obcej strony.",
    errors.SimulationForbidden.code: "Awarii środowiska prod nie można symulować.",
    errors.NoActiveKsefSession.code: (
        "Firma nie jest zalogowana do KSeF w tym środowisku: zaloguj ją (POST /auth/{environment})."
    ),
    errors.NoKsefCredential.code: "Operator nie zapisał certyfikatu ani tokenu KSeF tej firmy.",
    errors.SessionNotFound.code: "KSeF nie zna sesji tej firmy o tym numerze.",
    errors.UpoNotAvailable.code: "KSeF nie ma UPO o tych numerach; gdy podano retryAfter, jeszcze.",
    errors.InvoiceNotFound.code: (
        "Sesja jest zakończona i nie zawiera przyjętej faktury o tym numerze KSeF."
    ),
    errors.Unavailable.code: "Usługa nie może teraz odpowiedzieć.",
    errors.ProxyError.code: "Błąd usługi. Jej dziennik ma szczegóły pod numerem żądania.",
    "not_found": "Nie ma takiego adresu.",
    "method_not_allowed": "Ten adres nie przyjmuje tej metody.",
}


def told(
    error: errors.ProxyError,
    kind: type[errors.ProxyError],
    outage: Evidence,
    environment: str,
    language: str,
    time: Time,
) -> str:
    """The `detail` of a 409 or 502: of this error, answered as one of this kind.

    `outage` is the evidence; `language` is en or pl; `time` writes times for the reader.
    """
    if kind is errors.OutageSimulation:
        return simulation(outage, environment, language, time)
    if kind is errors.KsefOutage:
        return established(outage, time(outage.since) if outage.since else "", language)
    happened = in_polish(error) if language == "pl" else error.detail
    return f"{happened} {_then(error, outage)[language]}"


def _then(error: errors.ProxyError, outage: Evidence) -> Mapping[str, str]:
    if outage.established:
        return _AN_OUTAGE
    if not isinstance(error, errors.KsefFailure) or error.may_pass:
        return _NO_OUTAGE
    remedied = isinstance(error, LoginRefused) and error.ksef and error.ksef.code in REMEDIES
    return _BEFORE if remedied else _NO_USE


def polish(code: str, detail: str) -> str:
    """What happened, by the code of a problem; the English `detail` for a code without a text."""
    return _POLISH.get(code, detail)


def in_polish(error: errors.ProxyError) -> str:
    """What happened, with KSeF's own words, which are Polish."""
    refused = isinstance(error, LoginRefused | errors.NoActiveKsefSession)
    sentences = [_REFUSED if isinstance(error, LoginRefused) else _POLISH[error.code]]
    if error.errors:
        sentences.append(f"Błędne: {', '.join(sorted(error.errors))}.")
    if isinstance(error, errors.Unavailable):
        sentences.append(error.detail)  # operators have to know it whole
    if error.ksef and error.ksef.description:
        sentences.append(f"KSeF: {error.ksef.description.rstrip('.')}.")
    if error.ksef and error.ksef.rights:
        sentences.append(f"Potrzebne jest jedno z uprawnień: {', '.join(error.ksef.rights)}.")
    if refused and error.ksef and error.ksef.code in REMEDIES:
        sentences.append(REMEDIES[error.ksef.code])
    return " ".join(sentences)


def established(outage: Evidence, since: str, language: str) -> str:
    """Since when KSeF is down (`since`, in words), who says so, and what the company must do."""
    begun = _SINCE[language, outage.source or "breaker"].format(since=since)
    return f"{begun} {_DUTIES[language][outage.duty]}"


def simulation(outage: Evidence, environment: str, language: str, time: Time) -> str:
    """Since when, until when and why an outage is being simulated."""
    [event] = outage.messages
    since, end, text = time(event.start), time(event.end) if event.end else "", event.text
    if language == "pl":
        until = f" do {end}" if end else ""
        return f"Symulacja awarii KSeF w środowisku {environment} od {since}{until}: {text}"
    until = f" until {end}" if end else ""
    return f"An outage of KSeF has been simulated in {environment} since {since}{until}: {text}"
