"""What one process works with: made once from the settings, connected to nothing."""

from dataclasses import dataclass
from functools import cached_property
from urllib.parse import urlsplit

from app import meters
from app.account import Account
from app.crypto import Vault
from app.db.pool import Database, PoolTiming
from app.ksef.client import Client
from app.ksef.failures import Retry
from app.ksef.http import Http
from app.ksef.latarnia import Latarnia
from app.ksef.metered import Metered
from app.ksef.webhook import Receivers
from app.services.login.tokens import AccessToken
from app.services.operators.passwords import Passwords
from app.services.replicas.breaker import Breaker
from app.services.replicas.places import Places
from app.services.replicas.quota import Calls
from app.settings import Settings

MOST_RECEIVERS = 32
"""Webhooks that one process delivers at the same time."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """The KSeF of one environment: for calls, for the probe of an outage, and its Latarnia."""

    calls: Http
    probe: Http
    latarnia: Latarnia | None


class Service:
    """The shared objects of one process. `db` connects when it is first asked."""

    def __init__(self, settings: Settings) -> None:
        timing = settings.timing
        self.settings = settings
        self.timing = timing
        self.db = Database(
            settings.database_url,
            size=settings.web_threads,
            timing=PoolTiming(
                connect=timing.database_connect,
                wait=timing.pool_wait,
                lock=timing.lock_timeout,
                statement=timing.statement_timeout,
            ),
        )
        self.vault = Vault(settings.secret_keys)
        self.passwords = Passwords(remember=timing.password_cache, wait=timing.password_wait)
        self._places = Places(
            settings.web_threads, wait=timing.place_wait, retry_after=timing.retry_after
        )
        self._retry = Retry(timing.retry_left, timing.retry_least, timing.retry_most)
        meters.signatures_counted(settings.ksef_urls)
        self.upstreams = {name: _upstream(settings, name) for name in settings.ksef_urls}

    def account(
        self,
        company_nip: str,
        environment: str,
        *,
        live: bool = True,
        share: float = 1.0,
        patience: float | None = None,
    ) -> Account:
        """A company in an environment, for one request or command.

        Its calls use at most `share` of our part of KSeF's quota, and wait for it for at most
        `patience` seconds (`timing.quota_patience` unless given). `live`: see Account.
        """
        timing, upstream = self.timing, self.upstreams[environment]
        breaker = Breaker(
            self.db, environment, timing, probe=upstream.probe, latarnia=upstream.latarnia
        )
        account = Account(
            company_nip,
            environment,
            db=self.db,
            vault=self.vault,
            timing=timing,
            places=self._places,
            quota_share=self.settings.quota_share * share,
            patience=timing.quota_patience if patience is None else patience,
            ksef_host=urlsplit(self.settings.ksef_urls[environment]).hostname or "",
            upo_signers=self.settings.upo_signers[environment],
            live=live,
        )
        account.calls = Calls(account)
        account.http = Metered(upstream.calls, breaker, account.calls, self._retry)
        account.ksef = Client(account.http, AccessToken(account), account.calls)
        return account

    @cached_property
    def receivers(self) -> Receivers:
        """HTTP to the receivers of webhooks; most processes never need it."""
        return Receivers(
            threads=MOST_RECEIVERS,
            proxy_url=self.settings.ksef_proxy_url,
            ca_bundle=self.settings.ksef_ca_bundle,
        )


def _upstream(settings: Settings, environment: str) -> Upstream:
    timing, url = settings.timing, settings.ksef_urls[environment]
    proxy_url, ca_bundle = settings.ksef_proxy_url, settings.ksef_ca_bundle
    latarnia_url = settings.latarnia_urls.get(environment)
    return Upstream(
        calls=Http(
            environment,
            url,
            connect=timing.ksef_connect,
            call=timing.ksef_call,
            download=timing.ksef_download,
            threads=settings.web_threads,
            proxy_url=proxy_url,
            ca_bundle=ca_bundle,
        ),
        probe=Http(
            environment,
            url,
            connect=timing.ksef_connect,
            call=timing.outage_probe,
            download=timing.ksef_download,
            threads=1,
            proxy_url=proxy_url,
            ca_bundle=ca_bundle,
        ),
        latarnia=Latarnia(
            latarnia_url, seconds=timing.latarnia, proxy_url=proxy_url, ca_bundle=ca_bundle
        )
        if latarnia_url
        else None,
    )
