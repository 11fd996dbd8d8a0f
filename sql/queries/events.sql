-- name: note(company_nip, environment, type, key, data)!
-- Writes an event, unless it was told before; for every company if company_nip is null. The row of event_numbers stays
-- locked until the transaction ends, the rows of several companies in the order of their NIPs.
WITH untold AS (
    SELECT nip
    FROM companies
    WHERE (nip = :company_nip OR (:company_nip::text IS NULL AND removed_at IS NULL))
      AND NOT EXISTS (
          SELECT FROM events
          WHERE company_nip = nip AND environment = :environment AND type = :type AND key = :key
      )
    ORDER BY nip
), numbered AS (
    INSERT INTO event_numbers AS known (company_nip, environment, last)
    SELECT nip, :environment, 1 FROM untold
    ON CONFLICT (company_nip, environment) DO UPDATE SET last = known.last + 1
    RETURNING company_nip, last
)
INSERT INTO events (company_nip, environment, number, type, key, data)
SELECT company_nip, :environment, last, :type, :key, :data::jsonb FROM numbered
ON CONFLICT (company_nip, environment, type, key) DO NOTHING;

-- name: read(company_nip, environment, after, most)
-- The company's next events after a number, in order. (BETWEEN-like bounds, so that the key gives the order; that is one by
-- the columns themselves, not by the text that is given.)
SELECT number, id::text AS id, type, at, company_nip, environment::text AS environment, data::text AS data
FROM events
WHERE (company_nip, environment, number) > (:company_nip, :environment, :after)
  AND (company_nip, environment) <= (:company_nip, :environment)
ORDER BY events.company_nip, events.environment, number
LIMIT :most;

-- name: newest(company_nip, environment, most)
-- The newest first.
SELECT number, id::text AS id, type, at, company_nip, environment::text AS environment, data::text AS data
FROM events
WHERE (company_nip, environment) BETWEEN (:company_nip, :environment) AND (:company_nip, :environment)
ORDER BY events.company_nip DESC, events.environment DESC, number DESC
LIMIT :most;

-- name: where(company_nip, environment, number)^
-- One row always. id: of the event with that number, null where there is none (any more); last: the newest number;
-- is_gone: neither this event nor the next one is there: who has read up to here has missed what was purged.
SELECT
    (
        SELECT id::text FROM events
        WHERE company_nip = :company_nip AND environment = :environment AND number = :number
    ) AS id,
    coalesce(
        (SELECT last FROM event_numbers WHERE company_nip = :company_nip AND environment = :environment), 0
    ) AS last,
    NOT EXISTS (
        SELECT FROM events
        WHERE company_nip = :company_nip
          AND environment = :environment
          AND number BETWEEN :number::bigint AND :number::bigint + 1
    ) AS is_gone;

-- name: lock_session(company_nip, environment, reference_number)$
-- Held until the transaction ends: the end of a session and the last of its UPOs are stored one after the other, so that
-- the later one sees both.
SELECT pg_advisory_xact_lock(hashtextextended(:company_nip || :environment || :reference_number, 0));

-- name: archived(company_nip, environment, reference_number)$
-- How many invoices of a final session were accepted, if the UPO of each is archived, or every page of the collective one;
-- else null.
SELECT (kept.session ->> 'successfulInvoiceCount')::bigint
FROM kept_sessions AS kept
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE ksef_number <> '') AS single, count(*) FILTER (WHERE ksef_number = '') AS pages
    FROM upos
    WHERE upos.company_nip = :company_nip
      AND upos.environment = :environment
      AND upos.session_reference_number = :reference_number
) AS archived
WHERE kept.company_nip = :company_nip
  AND kept.environment = :environment
  AND kept.reference_number = :reference_number
  AND kept.final
  AND (kept.session ->> 'successfulInvoiceCount')::bigint > 0
  AND (
      single >= (kept.session ->> 'successfulInvoiceCount')::bigint
      OR pages >= nullif(jsonb_array_length(kept.session #> '{upo,pages}'), 0)
  );

-- name: expiring(days)
-- Certificates that end within one of so many days (the fewest that apply), if that was not told yet.
SELECT company_nip, environment::text AS environment, certificate_valid_until AS valid_until, least_days AS days
FROM ksef_credentials AS credential
CROSS JOIN LATERAL (
    SELECT min(day) AS least_days
    FROM unnest(:days::integer[]) AS day
    WHERE certificate_valid_until <= statement_timestamp() + make_interval(days => day)
) AS due
WHERE least_days IS NOT NULL
  AND NOT EXISTS (
      SELECT FROM events
      WHERE events.company_nip = credential.company_nip
        AND events.environment = credential.environment
        AND type = 'certificate.expiring'
        AND key = extract(epoch FROM certificate_valid_until)::bigint || ' ' || least_days
  );

-- name: begin_outage(environment)$
-- Whether the begin of the present outage is to be told, and by this caller.
UPDATE outages SET established_at = clock_timestamp()
WHERE environment = :environment AND established_at IS NULL AND consecutive_failures > 0
RETURNING established_at;

-- name: end_outage(environment)$
-- When the begin was told of an outage whose end is to be told, by this caller.
WITH before AS (
    SELECT established_at
    FROM outages
    WHERE environment = :environment AND established_at IS NOT NULL AND consecutive_failures = 0
    FOR UPDATE
)
UPDATE outages SET established_at = NULL FROM before
WHERE environment = :environment
RETURNING before.established_at;

-- name: forget(nip, batch)!
-- Deletes a company's events, a few at a time. Their numbers go on where they ended, if the company is added again.
DELETE FROM events WHERE ctid = ANY (ARRAY(SELECT ctid FROM events WHERE company_nip = :nip LIMIT :batch));

-- name: purge(days, batch)!
-- Deletes old events, but not those that a webhook still has to deliver.
DELETE FROM events
WHERE ctid = ANY (ARRAY(
    SELECT event.ctid
    FROM events AS event
    WHERE at < now() - make_interval(days => :days)
      AND NOT EXISTS (
          SELECT FROM webhooks
          WHERE webhooks.company_nip = event.company_nip
            AND webhooks.environment = event.environment
            AND ended_at IS NULL
            AND position < event.number
      )
    LIMIT :batch
));
