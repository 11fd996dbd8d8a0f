-- What all replicas know together of the KSeF of each environment. Nothing of any company.

CREATE TABLE outages (
    environment          ksef_environment PRIMARY KEY,
    -- Failed calls since the last one that KSeF answered, the first of them, and that last one.
    -- answered_at may lag: while nothing is wrong, not every answer is written down.
    consecutive_failures integer NOT NULL DEFAULT 0 CHECK (consecutive_failures >= 0),
    failing_since        timestamptz,
    answered_at          timestamptz,
    -- The breaker: open since, and when KSeF was last tried by a probe.
    opened_at            timestamptz,
    probed_at            timestamptz,
    -- The firewall before KSeF blocks us: nobody calls until then.
    paused_until         timestamptz,
    -- Latarnia's own JSON; null where it is unknown.
    latarnia             jsonb,
    latarnia_asked_at    timestamptz,
    latarnia_read_at     timestamptz,
    CHECK ((consecutive_failures > 0) = (failing_since IS NOT NULL)),
    CHECK (opened_at IS NULL OR consecutive_failures > 0)
);

GRANT SELECT, INSERT, UPDATE, DELETE ON outages TO ksef_proxy;
