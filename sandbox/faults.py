"""Which faults are waiting, and for which calls. What they do stands in `fault_answers`."""

import re
import threading
from itertools import count
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from sandbox.orders import Order
from sandbox.settings import Seconds

Line = Annotated[str, Meta(pattern=r"\A[ -~\xa0-\xff]*\Z")]
"""What a header's value may be: Latin-1 without control characters."""
Name = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9-]+\Z")]
Size = Annotated[int, Meta(ge=0, le=2**30)]


class Options(Order):
    """A fault's name, and the options that the kinds have between them."""

    kind: str = "status"
    status: Annotated[int, Meta(ge=100, le=599)] | UnsetType = UNSET
    body: Any = None
    headers: dict[Name, Line | int] | UnsetType = UNSET
    reason_code: str | UnsetType = UNSET
    security: dict[str, Any] | UnsetType | None = UNSET
    code: int | UnsetType = UNSET
    details: list[Any] | UnsetType = UNSET
    retry_after: Line | float | UnsetType | None = UNSET
    bytes: Size | UnsetType = UNSET
    content_type: Line | UnsetType = UNSET
    seconds: Seconds | UnsetType = UNSET
    part: Literal["body", "header"] | UnsetType = UNSET
    seconds_per_byte: Seconds | UnsetType = UNSET
    name: Name | UnsetType = UNSET
    field: str | UnsetType = UNSET
    value: Any = None
    doctype: str | UnsetType = UNSET


class Fault(Order, omit_defaults=False):
    """A fault (`kind` and its own options) and the calls it waits for.

    `times` is how many calls get it, None for all until it is cleared; `skip` how many pass first.
    """

    fault: dict[str, Any]
    environment: Literal["test", "demo", "prod"] | None = None
    service: Literal["api", "storage", "latarnia", "any"] = "api"
    method: str | None = None
    path: str | None = None
    """A regular expression, searched in the path of the call."""
    times: Annotated[int, Meta(ge=1)] | None = 1
    skip: Annotated[int, Meta(ge=0)] = 0
    id: int = 0

    @property
    def kind(self) -> str:
        """Its name; a fault that has none but a status is a free answer."""
        return str(self.fault.get("kind", "status"))

    def matches(self, service: str, environment: str | None, method: str, path: str) -> bool:
        """Whether the call is one that this fault waits for."""
        return (
            self.service in ("any", service)
            and self.environment in (None, environment)
            and (self.method is None or self.method.upper() == method)
            and (self.path is None or re.search(self.path, path) is not None)
        )


class Faults:
    """The waiting faults, oldest first; each call meets at most one of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids = count(1)
        self._waiting: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Lets the fault wait, under a new id."""
        with self._lock:
            fault.id = next(self._ids)
            self._waiting.append(fault)

    def take(self, service: str, environment: str | None, method: str, path: str) -> Fault | None:
        """The fault that this call meets, used up by one."""
        with self._lock:
            for fault in self._waiting:
                if not fault.matches(service, environment, method, path):
                    continue
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times <= 0:
                        self._waiting.remove(fault)
                return fault
        return None

    def waiting(self) -> list[Fault]:
        """What still waits."""
        with self._lock:
            return list(self._waiting)

    def clear(self, fault_id: int | None = None) -> None:
        """Removes one fault, or all."""
        with self._lock:
            self._waiting = [
                fault for fault in self._waiting if fault_id is not None and fault.id != fault_id
            ]
