-- The journal of what happened to a company, and the webhooks that tell it.

-- The number of a company's last event in an environment. Whoever writes an event holds this row until its transaction
-- ends, so a higher number is never to be seen before a lower one.
CREATE TABLE event_numbers (
    company_nip text NOT NULL REFERENCES companies (nip),
    environment ksef_environment NOT NULL,
    last        bigint NOT NULL,
    PRIMARY KEY (company_nip, environment)
);

-- key: what makes it this event and no other, so that it is told once: a session's reference number, for example.
CREATE TABLE events (
    company_nip text NOT NULL REFERENCES companies (nip),
    environment ksef_environment NOT NULL,
    number      bigint NOT NULL,
    id          uuid NOT NULL DEFAULT gen_random_uuid(),
    type        text NOT NULL,
    key         text NOT NULL,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    data        jsonb NOT NULL,
    PRIMARY KEY (company_nip, environment, number),
    UNIQUE (company_nip, environment, type, key)
);

-- secret is sealed by app.crypto. position: the number of the last event that was delivered or parked; all later ones are
-- waiting. attempts: those made in vain for the next one, which is tried again at next_at. holder delivers until
-- busy_until. answer: what the last attempt brought. ended_at: the receiver said that it is gone for ever (410).
CREATE TABLE webhooks (
    company_nip text NOT NULL REFERENCES companies (nip),
    environment ksef_environment NOT NULL,
    url         text NOT NULL,
    secret      bytea NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    position    bigint NOT NULL,
    attempts    integer NOT NULL DEFAULT 0,
    next_at     timestamptz NOT NULL DEFAULT now(),
    holder      uuid,
    busy_until  timestamptz,
    answer      text,
    answered_at timestamptz,
    ended_at    timestamptz,
    PRIMARY KEY (company_nip, environment, url)
);

-- Events that a webhook gave up, or its receiver refused: it went on with the next one.
CREATE TABLE parked_events (
    company_nip text NOT NULL,
    environment ksef_environment NOT NULL,
    url         text NOT NULL,
    number      bigint NOT NULL,
    attempts    integer NOT NULL,
    answer      text NOT NULL,
    parked_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (company_nip, environment, url, number),
    FOREIGN KEY (company_nip, environment, url) REFERENCES webhooks ON DELETE CASCADE
);

-- When the begin of the present outage was told; null: none was, or its end was told too.
ALTER TABLE outages ADD COLUMN established_at timestamptz;

GRANT SELECT, INSERT, UPDATE, DELETE ON event_numbers, events, webhooks, parked_events TO ksef_proxy;
