-- Old rows are found by statement_timestamp(): with clock_timestamp(), which may change from row to row, no index
-- would be used.

-- name: open_group(company_nip, environment, quota_group)!
INSERT INTO quota_groups (company_nip, environment, quota_group)
VALUES (:company_nip, :environment, :quota_group)
ON CONFLICT DO NOTHING;

-- name: enter_group(company_nip, environment, quota_group)^
-- Locks the group until the transaction ends: reservations of a group are made one after another.
SELECT
    per_second,
    per_minute,
    per_hour,
    extract(epoch FROM blocked_until - clock_timestamp())::float8 AS blocked_for
FROM quota_groups
WHERE company_nip = :company_nip AND environment = :environment AND quota_group = :quota_group
FOR UPDATE;

-- name: recent_calls(company_nip, environment, quota_group, most)$
-- The moments of the newest calls, in seconds from now, earliest first; above 0: not sent yet.
SELECT array_agg(moment ORDER BY moment)
FROM (
    SELECT extract(epoch FROM reserved_at - statement_timestamp())::float8 AS moment
    FROM quota_calls
    WHERE company_nip = :company_nip
      AND environment = :environment
      AND quota_group = :quota_group
    ORDER BY reserved_at DESC
    LIMIT :most
) AS newest;

-- name: enter_address(environment)$
-- Like enter_group, for all companies. It is locked after the group, so that nobody holds it while
-- waiting for a group.
SELECT environment FROM address_gates WHERE environment = :environment FOR UPDATE;

-- name: recent_address_calls(environment, most)$
-- Like recent_calls, for all companies.
SELECT array_agg(moment ORDER BY moment)
FROM (
    SELECT extract(epoch FROM reserved_at - statement_timestamp())::float8 AS moment
    FROM address_calls
    WHERE environment = :environment
    ORDER BY reserved_at DESC
    LIMIT :most
) AS newest;

-- name: blocked_for(company_nip, environment, quota_group)$
-- For how many more seconds the group is blocked; no row if it is not.
SELECT extract(epoch FROM blocked_until - clock_timestamp())::float8
FROM quota_groups
WHERE company_nip = :company_nip
  AND environment = :environment
  AND quota_group = :quota_group
  AND blocked_until > clock_timestamp();

-- name: give_back(ids)!
-- Deletes reserved calls that were not sent, or not in time.
DELETE FROM quota_calls WHERE id = ANY (:ids);

-- name: give_back_address(ids)!
DELETE FROM address_calls WHERE id = ANY (:ids);

-- name: record_address_calls(environment, delays)
-- Like record_calls, for all companies.
WITH forgotten AS (
    DELETE FROM address_calls
    WHERE ctid = ANY (ARRAY(
        SELECT ctid
        FROM address_calls
        WHERE environment = :environment
          AND reserved_at < statement_timestamp() - interval '1 minute'
        ORDER BY reserved_at
        LIMIT 100
    ))
)
INSERT INTO address_calls (environment, reserved_at)
SELECT :environment, clock_timestamp() + make_interval(secs => asked.delay)
FROM unnest(:delays::float8[]) WITH ORDINALITY AS asked (delay, number)
ORDER BY asked.number
RETURNING id;

-- name: record_calls(company_nip, environment, quota_group, delays)
-- Reserves calls. delays: in how many seconds each of them may go. Returns their ids in that order.
-- Calls older than every window are deleted, a few at a time.
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
)
INSERT INTO quota_calls (company_nip, environment, quota_group, reserved_at)
SELECT
    :company_nip, :environment, :quota_group,
    clock_timestamp() + make_interval(secs => asked.delay)
FROM unnest(:delays::float8[]) WITH ORDINALITY AS asked (delay, number)
ORDER BY asked.number
RETURNING id;

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
