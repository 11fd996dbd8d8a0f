-- name: active_simulation(company_nip, environment)^
SELECT message, starts_at, ends_at
FROM active_simulations
WHERE company_nip = :company_nip AND environment = :environment;

-- name: simulated_environments()
-- Environments with a simulation for all companies.
SELECT DISTINCT environment
FROM outage_simulations
WHERE environment <> 'prod'
  AND company_nip IS NULL
  AND starts_at <= now()
  AND (ends_at IS NULL OR ends_at > now());

-- name: forbidden_simulations()$
SELECT count(*) FROM outage_simulations WHERE environment = 'prod';

-- name: simulate(company_nip, environment, message, ends_at)^
INSERT INTO outage_simulations (environment, company_nip, message, ends_at)
VALUES (:environment, :company_nip, :message, :ends_at)
ON CONFLICT (environment, company_nip) DO UPDATE
SET message = excluded.message, starts_at = now(), ends_at = excluded.ends_at
RETURNING message, starts_at, ends_at;

-- name: clear_simulation(company_nip, environment)!
DELETE FROM outage_simulations
WHERE environment = :environment
  AND company_nip IS NOT DISTINCT FROM :company_nip;

-- name: clear_simulations(environment)!
DELETE FROM outage_simulations WHERE environment = :environment;

-- name: known(environment)^
-- What all replicas know about an environment, and the present time.
SELECT *, clock_timestamp() AS now FROM outages WHERE environment = :environment;

-- name: all_known()
SELECT *, clock_timestamp() AS now FROM outages;

-- name: count_failure(environment)!
INSERT INTO outages (environment, consecutive_failures, failing_since)
VALUES (:environment, 1, clock_timestamp())
ON CONFLICT (environment) DO UPDATE SET
    consecutive_failures = outages.consecutive_failures + 1,
    failing_since = coalesce(outages.failing_since, excluded.failing_since);

-- name: note_answer(environment)!
-- KSeF answered a call: resets the count of failures, and closes the breaker.
INSERT INTO outages (environment, answered_at)
VALUES (:environment, clock_timestamp())
ON CONFLICT (environment) DO UPDATE SET
    consecutive_failures = 0,
    failing_since = NULL,
    answered_at = excluded.answered_at,
    opened_at = NULL,
    probed_at = NULL;

-- name: pause(environment, seconds)!
INSERT INTO outages (environment, paused_until)
VALUES (:environment, clock_timestamp() + make_interval(secs => :seconds))
ON CONFLICT (environment) DO UPDATE
SET paused_until = greatest(outages.paused_until, excluded.paused_until);

-- name: take_probe(environment, failures, after, every)$
-- Whether the caller, alone among all replicas, is to probe KSeF now: if enough calls have failed for
-- `after` seconds, and the last probe was `every` seconds ago. The probe counts as a call from our address.
WITH taken AS (
    UPDATE outages SET probed_at = clock_timestamp()
    WHERE environment = :environment
      AND consecutive_failures >= :failures
      AND failing_since <= clock_timestamp() - make_interval(secs => :after)
      AND (probed_at IS NULL OR probed_at <= clock_timestamp() - make_interval(secs => :every))
    RETURNING environment
), counted AS (
    INSERT INTO address_calls (environment, reserved_at) SELECT environment, clock_timestamp() FROM taken
)
SELECT true FROM taken;

-- name: open_breaker(environment, failures)!
-- Does nothing if KSeF has answered meanwhile.
UPDATE outages SET opened_at = clock_timestamp()
WHERE environment = :environment AND opened_at IS NULL AND consecutive_failures >= :failures;

-- name: take_latarnia(environment, every)$
-- Whether the caller, alone among all replicas, is to ask Latarnia now.
UPDATE outages SET latarnia_asked_at = clock_timestamp()
WHERE environment = :environment
  AND (
      latarnia_asked_at IS NULL
      OR latarnia_asked_at <= clock_timestamp() - make_interval(secs => :every)
  )
RETURNING true;

-- name: keep_latarnia(environment, latarnia)!
UPDATE outages SET latarnia = :latarnia::jsonb, latarnia_read_at = clock_timestamp()
WHERE environment = :environment;
