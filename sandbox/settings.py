"""What the control plane can change about the sandbox's behaviour."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

NO_LIMIT: Final = -1


class Limit(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """How many calls a group may get in a second, a minute and an hour."""

    per_second: int = NO_LIMIT
    per_minute: int = NO_LIMIT
    per_hour: int = NO_LIMIT


_WINDOWS: Final = ("perSecond", "perMinute", "perHour")


class Settings(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    """What docs/sandbox.md describes under the camelCase names.

    All durations are seconds of sandbox time, but latency and jitter, which are real time.
    """

    access_token_seconds: float = 900.0
    refresh_token_seconds: float = 7 * 86400.0
    operation_token_seconds: float = 45 * 60.0
    challenge_seconds: float = 600.0
    auth_polls: int = 1
    auth_seconds: float = 0.0
    invoice_seconds: float = 1.0
    session_seconds: float = 1.0
    permanent_storage_seconds: float = 2.0
    link_seconds: float = 72 * 3600.0
    upo_page_size: Annotated[int, msgspec.Meta(ge=1)] = 10_000
    latency_seconds: float = 0.0
    jitter_seconds: float = 0.0
    clock_rate: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    quota: bool = False
    quota_scale: float = 1.0
    limits: dict[str, Limit] = {}

    def as_json(self) -> dict[str, Any]:
        """All settings under camelCase names; limits in the shape of GET /rate-limits."""
        content: dict[str, Any] = msgspec.to_builtins(self)
        return content

    def changed(self, changes: dict[str, Any]) -> Settings:
        """The settings with camelCase `changes`; a limit may be a list of three numbers.

        msgspec.ValidationError for an unknown name or a wrong type.
        """
        content = self.as_json() | changes
        names = Limit.__struct_encode_fields__
        limits = content["limits"] if isinstance(content["limits"], dict) else {}
        for group, limit in limits.items():
            if isinstance(limit, list):
                if len(limit) != len(names):
                    raise ValueError(f"limits: {group} needs three numbers")
                limits[group] = dict(zip(names, limit, strict=True))
        return msgspec.convert(content, Settings)
