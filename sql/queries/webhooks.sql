-- name: add(company_nip, environment, url, secret)$
-- Begins after the newest event. No row where there is such a webhook; one that has ended begins anew.
INSERT INTO webhooks (company_nip, environment, url, secret, position)
SELECT :company_nip, :environment, :url, :secret, coalesce(max(last), 0)
FROM event_numbers
WHERE company_nip = :company_nip AND environment = :environment
ON CONFLICT (company_nip, environment, url) DO UPDATE SET
    secret = excluded.secret,
    created_at = now(),
    position = excluded.position,
    attempts = 0,
    next_at = now(),
    holder = NULL,
    busy_until = NULL,
    answer = NULL,
    answered_at = NULL,
    ended_at = NULL
WHERE webhooks.ended_at IS NOT NULL
RETURNING url;

-- name: remove(company_nip, environment, url)!
DELETE FROM webhooks WHERE company_nip = :company_nip AND environment = :environment AND url = :url;

-- name: get(company_nip, environment, url)^
SELECT secret FROM webhooks
WHERE company_nip = :company_nip AND environment = :environment AND url = :url;

-- name: list(nip)
-- All webhooks, or those of one company.
SELECT
    company_nip, environment::text AS environment, url, created_at, attempts, next_at, answer, answered_at, ended_at,
    (
        SELECT count(*) FROM events
        WHERE events.company_nip = webhooks.company_nip
          AND events.environment = webhooks.environment
          AND number > position
    ) AS waiting,
    (
        SELECT count(*) FROM parked_events
        WHERE parked_events.company_nip = webhooks.company_nip
          AND parked_events.environment = webhooks.environment
          AND parked_events.url = webhooks.url
    ) AS parked
FROM webhooks
WHERE :nip::text IS NULL OR company_nip = :nip
ORDER BY company_nip, environment, url;

-- name: replay(company_nip, environment, url, since)^
-- Everything since a moment is to be delivered again, beginning at once. waiting: how many events that are.
WITH rewound AS (
    UPDATE webhooks SET
        position = least(position, coalesce((
            SELECT min(number) - 1 FROM events
            WHERE company_nip = :company_nip AND environment = :environment AND at >= :since
        ), position)),
        attempts = 0,
        next_at = now(),
        ended_at = NULL,
        holder = NULL,
        busy_until = NULL
    WHERE company_nip = :company_nip AND environment = :environment AND url = :url
    RETURNING position
), parked AS (
    DELETE FROM parked_events USING rewound
    WHERE company_nip = :company_nip AND environment = :environment AND url = :url AND number > rewound.position
)
SELECT (
    SELECT count(*) FROM events
    WHERE company_nip = :company_nip AND environment = :environment AND number > rewound.position
) AS waiting
FROM rewound;

-- name: claim(holder, seconds, most)
-- Webhooks with an event that is due, which nobody else delivers: they are the holder's for so many seconds. (Whether one
-- waits is looked up by the key, whatever the planner knows of the table.)
WITH due AS (
    SELECT company_nip, environment, url
    FROM webhooks
    WHERE ended_at IS NULL
      AND next_at <= clock_timestamp()
      AND (busy_until IS NULL OR busy_until <= clock_timestamp())
      AND (
          SELECT true FROM events
          WHERE (events.company_nip, events.environment, number)
                > (webhooks.company_nip, webhooks.environment, position)
            AND (events.company_nip, events.environment) <= (webhooks.company_nip, webhooks.environment)
          ORDER BY events.company_nip, events.environment, number
          LIMIT 1
      )
    ORDER BY next_at
    LIMIT :most
    FOR UPDATE SKIP LOCKED
)
UPDATE webhooks SET holder = :holder::uuid, busy_until = clock_timestamp() + make_interval(secs => :seconds)
FROM due
WHERE (webhooks.company_nip, webhooks.environment, webhooks.url) = (due.company_nip, due.environment, due.url)
RETURNING webhooks.company_nip, webhooks.environment::text AS environment, webhooks.url;

-- name: next_event(company_nip, environment, url, holder, seconds)^
-- The next event to deliver and the webhook's secret; the webhook stays the holder's for so many seconds more. No row
-- where there is none, or somebody else has taken the webhook over.
WITH mine AS (
    UPDATE webhooks SET busy_until = clock_timestamp() + make_interval(secs => :seconds)
    WHERE company_nip = :company_nip
      AND environment = :environment
      AND url = :url
      AND holder = :holder::uuid
      AND next_at <= clock_timestamp()
      AND ended_at IS NULL
    RETURNING secret, position, attempts
)
SELECT
    mine.secret, mine.attempts,
    number, id::text AS id, type, at, company_nip, environment::text AS environment, data::text AS data
FROM mine
JOIN LATERAL (
    SELECT * FROM events
    WHERE (company_nip, environment, number) > (:company_nip, :environment, mine.position)
      AND (company_nip, environment) <= (:company_nip, :environment)
    ORDER BY company_nip, environment, number
    LIMIT 1
) AS event ON true;

-- name: delivered(company_nip, environment, url, holder, number, answer)!
-- The next one is due from now on: of many webhooks those are claimed first that have waited the longest.
UPDATE webhooks SET
    position = :number, attempts = 0, next_at = clock_timestamp(), answer = :answer, answered_at = clock_timestamp()
WHERE company_nip = :company_nip AND environment = :environment AND url = :url AND holder = :holder::uuid;

-- name: park(company_nip, environment, url, holder, number, answer)!
-- The event is given up, and the next one is due.
WITH given_up AS (
    UPDATE webhooks SET
        position = :number, attempts = 0, next_at = now(), answer = :answer, answered_at = clock_timestamp()
    FROM (
        SELECT attempts AS made FROM webhooks
        WHERE company_nip = :company_nip AND environment = :environment AND url = :url
    ) AS before
    WHERE company_nip = :company_nip AND environment = :environment AND url = :url AND holder = :holder::uuid
    RETURNING made + 1 AS made
)
INSERT INTO parked_events (company_nip, environment, url, number, attempts, answer)
SELECT :company_nip, :environment, :url, :number, made, :answer FROM given_up
ON CONFLICT (company_nip, environment, url, number) DO UPDATE
SET attempts = excluded.attempts, answer = excluded.answer, parked_at = now();

-- name: retry_later(company_nip, environment, url, holder, answer, seconds)!
UPDATE webhooks SET
    attempts = attempts + 1,
    next_at = clock_timestamp() + make_interval(secs => :seconds),
    answer = :answer,
    answered_at = clock_timestamp()
WHERE company_nip = :company_nip AND environment = :environment AND url = :url AND holder = :holder::uuid;

-- name: end(company_nip, environment, url, holder, answer)!
UPDATE webhooks SET ended_at = clock_timestamp(), answer = :answer, answered_at = clock_timestamp()
WHERE company_nip = :company_nip AND environment = :environment AND url = :url AND holder = :holder::uuid;

-- name: release(company_nip, environment, url, holder)!
UPDATE webhooks SET holder = NULL, busy_until = NULL
WHERE company_nip = :company_nip AND environment = :environment AND url = :url AND holder = :holder::uuid;

-- name: seconds_to_next()$
-- Seconds until an event is due at a webhook that nobody is busy with; null where none waits.
SELECT extract(epoch FROM min(greatest(next_at, busy_until)) - clock_timestamp())::float8
FROM webhooks
WHERE ended_at IS NULL
  AND (
      SELECT true FROM events
      WHERE (events.company_nip, events.environment, number)
            > (webhooks.company_nip, webhooks.environment, position)
        AND (events.company_nip, events.environment) <= (webhooks.company_nip, webhooks.environment)
      ORDER BY events.company_nip, events.environment, number
      LIMIT 1
  );
