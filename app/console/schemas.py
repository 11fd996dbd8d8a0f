"""The schemas that validate the console's query parameters and forms."""

from marshmallow import fields, validate

from app.api.fields import Digits, refusing
from app.api.schemas import Strict
from app.console.texts import TEXTS
from app.identifiers import wrong_invoice_number
from app.services.operators.overview import FILTERS, NEWEST
from app.services.outages import wrong_message

NOTICES = ("checked", "simulation_on", "simulation_off")
MINUTES = (15, 60, 240, 0)
"""The choices for how long an outage is simulated; 0: until somebody ends it."""


def _may_be_looked_for(number: str) -> None:
    if number:
        refusing(wrong_invoice_number)(number)


class Looking(Strict):
    lang = fields.String(validate=validate.OneOf(TEXTS))
    done = fields.String(load_default=None, validate=validate.OneOf(NOTICES))


class Paging(Looking):
    page = Digits(load_default=1, validate=validate.Range(1, NEWEST // 50))


class InvoicesPaging(Paging):
    show = fields.String(load_default="all", validate=validate.OneOf(FILTERS))


class Searching(Looking):
    number = fields.String(load_default="", validate=_may_be_looked_for)


class Form(Strict):
    token = fields.String()


class SimulationForm(Form):
    message = fields.String(required=True, validate=refusing(wrong_message))
    minutes = Digits(required=True, validate=validate.OneOf(MINUTES))
