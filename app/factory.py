"""Builds the application: the only module that knows all of its parts."""

from flask import Flask

from app import api, cli, console, meters, settings, telemetry
from app.api.context import EXTENSION
from app.crypto import Vault, derived_key
from app.db.pool import Database, PoolTiming
from app.ksef.gateway import Gateway
from app.ksef.latarnia import Latarnia
from app.ksef.retry import Retry
from app.ksef.transport import Transport
from app.ksef.watch import WatchedTransport
from app.services import outages
from app.services.breaker import Breaker
from app.services.parts import Parts
from app.services.passwords import Passwords
from app.services.places import Places
from app.settings import Settings


def create_app(given: Settings | None = None) -> Flask:
    """The Flask application, with settings from the environment unless given.

    Does not connect to the database. Raises SettingsError if settings are missing or invalid; while
    a command runs, the error is kept and raised only if the command needs settings.
    """
    app = Flask("app", static_folder=None)
    cli.register(app)
    try:
        chosen = given or settings.from_environment()
    except settings.SettingsError as error:
        if not cli.is_running():
            raise
        app.extensions[EXTENSION] = error
        return app
    telemetry.configure(chosen.log_level)
    parts = make_parts(chosen)
    app.extensions[EXTENSION] = (chosen, parts)
    api.register(app)
    cli.remove_library_commands(app)
    meters.http_threads.set(chosen.web_threads)
    console.register(app, [derived_key(key, "console forms") for key in chosen.secret_keys])
    if not cli.is_running():
        outages.report_forbidden(parts)
    return app


def make_parts(chosen: Settings) -> Parts:
    """Everything that the services work with, made for these settings."""
    timing = chosen.timing
    db = Database(
        chosen.database_url,
        size=chosen.web_threads,
        timing=PoolTiming(
            connect=timing.database_connect,
            wait=timing.pool_wait,
            lock=timing.lock_timeout,
            statement=timing.statement_timeout,
        ),
    )
    watches = {name: _breaker(chosen, db, name) for name in chosen.ksef_urls}
    return Parts(
        db=db,
        ksef={
            environment: Gateway(
                WatchedTransport(
                    environment,
                    url,
                    connect=timing.ksef_connect,
                    call=timing.ksef_call,
                    download=timing.ksef_download,
                    retry=Retry(timing.retry_left, timing.retry_least, timing.retry_most),
                    threads=chosen.web_threads,
                    proxy_url=chosen.ksef_proxy_url,
                    ca_bundle=chosen.ksef_ca_bundle,
                    watch=watches[environment],
                )
            )
            for environment, url in chosen.ksef_urls.items()
        },
        vault=Vault(chosen.secret_keys),
        passwords=Passwords(remember=timing.password_cache, wait=timing.password_wait),
        timing=timing,
        quota_share=chosen.quota_share,
        places=Places(chosen.web_threads, wait=timing.place_wait, retry_after=timing.retry_after),
        watches=watches,
    )


def _breaker(chosen: Settings, db: Database, environment: str) -> Breaker:
    timing = chosen.timing
    latarnia_url = chosen.latarnia_urls.get(environment)
    return Breaker(
        db,
        environment,
        timing,
        probe=Transport(
            environment,
            chosen.ksef_urls[environment],
            connect=timing.ksef_connect,
            call=timing.outage_probe,
            threads=1,
            proxy_url=chosen.ksef_proxy_url,
            ca_bundle=chosen.ksef_ca_bundle,
        ),
        lighthouse=Latarnia(
            latarnia_url,
            seconds=timing.latarnia,
            proxy_url=chosen.ksef_proxy_url,
            ca_bundle=chosen.ksef_ca_bundle,
        )
        if latarnia_url
        else None,
    )
