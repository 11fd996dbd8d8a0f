"""What is answered of the state of the service: /status, /livez, /readyz."""

from typing import Annotated

from msgspec import Meta

from app.api.answers import Answer, choice

EnvironmentState = Annotated[
    str, choice("EnvironmentState", "available", "outage", "simulation", "unknown")
]
HealthStatus = Annotated[str, choice("HealthStatus", "ok")]


class EnvironmentStates(Answer, kw_only=True):
    test: Annotated[EnvironmentState, Meta(description="KSeF's test environment")]
    demo: Annotated[EnvironmentState, Meta(description="KSeF's demo environment")]
    prod: Annotated[EnvironmentState, Meta(description="KSeF's production")]


class SchemaState(Answer, kw_only=True):
    applied: Annotated[
        str | None, Meta(description="Last migration of the database; null before the first")
    ]
    known: Annotated[
        str,
        Meta(description="Last migration of this version; the database may be ahead for a while"),
    ]


class ServiceStatus(Answer, kw_only=True):
    version: Annotated[str, Meta(description="Version of the service")]
    commit: Annotated[
        str | None,
        Meta(description="Git's commit of which this build was made; null if it is not known"),
    ]
    schema: SchemaState
    environments: EnvironmentStates


class Health(Answer, kw_only=True):
    status: Annotated[HealthStatus, Meta(description="Always ok; else there is a problem")]


ALL = (ServiceStatus, Health)
