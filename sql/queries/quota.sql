-- Old rows are found by statement_timestamp(): with clock_timestamp(), which may change from row to row, no index
-- would be used.

-- name: open_group(company_nip, environment, quota_group)!
-- Makes the rows that `enter` locks; that of the gate is there, unless somebody emptied its table.
WITH gate AS (
    INSERT INTO address_gates (environment) VALUES (:environment) ON CONFLICT DO NOTHING
)
INSERT INTO quota_groups (company_nip, environment, quota_group)
VALUES (:company_nip, :environment, :quota_group)
ON CONFLICT DO NOTHING;

-- name: enter(company_nip, environment, quota_group)^
-- Locks the group and then the address's gate until the transaction ends: reservations are made one after another, and
-- nobody holds the gate while waiting for a group. No row where the group was not opened yet.
SELECT quota_groups.quota_group
FROM quota_groups
JOIN address_gates AS gate ON gate.environment = :environment
WHERE company_nip = :company_nip AND quota_groups.environment = :environment AND quota_group = :quota_group
FOR UPDATE OF quota_groups, gate;

-- name: outlook(company_nip, environment, quota_group, seconds, address_seconds)^
-- What decides when the next call may go: the group's own limits (null: the published ones), for how long it is blocked,
-- and the moments of the calls in both ledgers that are not older than so many seconds: in seconds from now, earliest
-- first; above 0: not sent yet. One row always.
SELECT
    per_second,
    per_minute,
    per_hour,
    extract(epoch FROM blocked_until - clock_timestamp())::float8 AS blocked_for,
    ARRAY(
        SELECT extract(epoch FROM reserved_at - statement_timestamp())::float8
        FROM quota_calls
        WHERE company_nip = :company_nip
          AND environment = :environment
          AND quota_group = :quota_group
          AND reserved_at > statement_timestamp() - make_interval(secs => :seconds)
        ORDER BY reserved_at
    ) AS own,
    ARRAY(
        SELECT extract(epoch FROM reserved_at - statement_timestamp())::float8
        FROM address_calls
        WHERE environment = :environment
          AND reserved_at > statement_timestamp() - make_interval(secs => :address_seconds)
        ORDER BY reserved_at
    ) AS address
FROM (SELECT) AS always
LEFT JOIN quota_groups
    ON company_nip = :company_nip AND environment = :environment AND quota_group = :quota_group;

-- name: blocked_for(company_nip, environment, quota_group)$
-- For how many more seconds the group is blocked; no row if it is not.
SELECT extract(epoch FROM blocked_until - clock_timestamp())::float8
FROM quota_groups
WHERE company_nip = :company_nip
  AND environment = :environment
  AND quota_group = :quota_group
  AND blocked_until > clock_timestamp();

-- name: give_back(ids, address_ids)!
-- Deletes reserved calls that were not sent, or not in time.
WITH own AS (
    DELETE FROM quota_calls WHERE id = ANY (:ids)
)
DELETE FROM address_calls WHERE id = ANY (:address_ids);

-- name: record_calls(company_nip, environment, quota_group, delays)^
-- Reserves calls in both ledgers. delays: in how many seconds each of them may go. Returns their ids in that order, and
-- the present moment. Calls older than every window are deleted, a few at a time.
WITH forgotten AS (
    DELETE FROM quota_calls
    WHERE ctid = ANY (ARRAY(
        SELECT ctid
        FROM quota_calls
        WHERE company_nip = :company_nip
          AND environment = :environment
          AND quota_group = :quota_group
          AND reserved_at < statement_timestamp() - interval '2 hours'
        ORDER BY reserved_at
        LIMIT 100
    ))
), forgotten_of_address AS (
    DELETE FROM address_calls
    WHERE ctid = ANY (ARRAY(
        SELECT ctid
        FROM address_calls
        WHERE environment = :environment
          AND reserved_at < statement_timestamp() - interval '1 minute'
        ORDER BY reserved_at
        LIMIT 100
    ))
), asked AS MATERIALIZED (
    SELECT delay, number, statement_timestamp() + make_interval(secs => delay) AS moment
    FROM unnest(:delays::float8[]) WITH ORDINALITY AS given (delay, number)
), own AS (
    INSERT INTO quota_calls (company_nip, environment, quota_group, reserved_at)
    SELECT :company_nip, :environment, :quota_group, moment FROM asked ORDER BY number
    RETURNING id
), address AS (
    INSERT INTO address_calls (environment, reserved_at)
    SELECT :environment, moment FROM asked ORDER BY number
    RETURNING id
)
SELECT
    ARRAY(SELECT id FROM own ORDER BY id) AS ids,
    ARRAY(SELECT id FROM address ORDER BY id) AS address_ids,
    statement_timestamp() AS now;

-- name: block_group(company_nip, environment, quota_group, seconds)!
INSERT INTO quota_groups (company_nip, environment, quota_group, blocked_until)
VALUES (
    :company_nip, :environment, :quota_group,
    clock_timestamp() + make_interval(secs => :seconds)
)
ON CONFLICT (company_nip, environment, quota_group) DO UPDATE
SET blocked_until = greatest(quota_groups.blocked_until, excluded.blocked_until);

-- name: unblock_groups(company_nip, environment)!
UPDATE quota_groups SET blocked_until = NULL
WHERE company_nip = :company_nip AND environment = :environment AND blocked_until IS NOT NULL;

-- name: put_limits(company_nip, environment, quota_group, per_second, per_minute, per_hour)!
INSERT INTO quota_groups (
    company_nip, environment, quota_group, per_second, per_minute, per_hour, limits_read_at
)
VALUES (
    :company_nip, :environment, :quota_group, :per_second, :per_minute, :per_hour, now()
)
ON CONFLICT (company_nip, environment, quota_group) DO UPDATE SET
    per_second = excluded.per_second,
    per_minute = excluded.per_minute,
    per_hour = excluded.per_hour,
    limits_read_at = excluded.limits_read_at;

-- name: limits_are_fresh(company_nip, environment)$
SELECT coalesce(max(limits_read_at) > now() - interval '1 day', false)
FROM quota_groups
WHERE company_nip = :company_nip AND environment = :environment;

-- name: used(company_nip, environment, quota_groups, seconds)
-- The number of calls of some groups in the last seconds, with their limits. Takes no row locks.
SELECT
    asked.quota_group,
    quota_groups.per_second,
    quota_groups.per_minute,
    quota_groups.per_hour,
    (
        SELECT count(*)
        FROM quota_calls
        WHERE quota_calls.company_nip = :company_nip
          AND quota_calls.environment = :environment
          AND quota_calls.quota_group = asked.quota_group
          AND quota_calls.reserved_at > statement_timestamp() - make_interval(secs => :seconds)
    ) AS used
FROM unnest(:quota_groups::text[]) AS asked (quota_group)
LEFT JOIN quota_groups
    ON quota_groups.company_nip = :company_nip
    AND quota_groups.environment = :environment
    AND quota_groups.quota_group = asked.quota_group;

-- name: show_groups(company_nip, environment)
SELECT
    quota_groups.quota_group, blocked_until, per_second, per_minute, per_hour, limits_read_at,
    count(*) FILTER (WHERE reserved_at > clock_timestamp() - interval '1 minute') AS used_minute,
    count(*) FILTER (WHERE reserved_at > clock_timestamp() - interval '1 hour') AS used_hour
FROM quota_groups
LEFT JOIN quota_calls USING (company_nip, environment, quota_group)
WHERE company_nip = :company_nip AND environment = :environment
GROUP BY quota_groups.company_nip, quota_groups.environment, quota_groups.quota_group
ORDER BY quota_groups.quota_group;

-- name: last_hour(company_nip, environment)
-- Each group with its limits and the ages, in seconds, of its calls of the last hour (by
-- quota_calls_windows). Takes no row locks.
SELECT
    quota_group,
    per_second,
    per_minute,
    per_hour,
    CASE WHEN blocked_until > clock_timestamp() THEN blocked_until END AS blocked_until,
    ARRAY(
        SELECT extract(epoch FROM clock_timestamp() - reserved_at)::float8
        FROM quota_calls
        WHERE quota_calls.company_nip = quota_groups.company_nip
          AND quota_calls.environment = quota_groups.environment
          AND quota_calls.quota_group = quota_groups.quota_group
          AND reserved_at > statement_timestamp() - interval '1 hour'
    ) AS ages
FROM quota_groups
WHERE company_nip = :company_nip AND environment = :environment;
