-- The columns are the metrics of app/services/operators/figures.py, and their labels: environment, group, state.

-- name: by_environment()
SELECT
    environment,
    (
        SELECT extract(epoch FROM min(certificate_valid_until))::float8
        FROM ksef_credentials
        WHERE ksef_credentials.environment = known.environment
    ) AS certificate_end_timestamp_seconds,
    (
        SELECT count(*) FROM ksef_credentials
        WHERE ksef_credentials.environment = known.environment AND refused_code IS NOT NULL
    ) AS refused_credentials,
    (
        SELECT count(*) FROM ksef_sessions WHERE ksef_sessions.environment = known.environment
    ) AS active_sessions,
    EXISTS (
        SELECT FROM outages WHERE outages.environment = known.environment AND opened_at IS NOT NULL
    ) AS breaker_open,
    EXISTS (
        SELECT FROM outages
        WHERE outages.environment = known.environment AND paused_until > clock_timestamp()
    ) AS firewall_blocks,
    (
        SELECT extract(epoch FROM clock_timestamp() - min(coalesce(known_until, known_since)))::float8
        FROM followed
        JOIN ksef_sessions USING (company_nip, environment)
        WHERE followed.environment = known.environment
    ) AS follow_lag_seconds
FROM unnest(enum_range(NULL::ksef_environment)) AS known (environment);

-- name: followed()
SELECT environment, state, count(reference_number) AS followed_sessions
FROM unnest(enum_range(NULL::ksef_environment)) AS known (environment)
CROSS JOIN unnest(ARRAY['moving', 'stuck', 'archiving']) AS possible (state)
LEFT JOIN (
    SELECT
        environment, reference_number,
        CASE WHEN final_at IS NOT NULL THEN 'archiving' WHEN stuck_at IS NULL THEN 'moving' ELSE 'stuck' END AS state
    FROM followed_sessions
    WHERE due_at IS NOT NULL
) AS session USING (environment, state)
GROUP BY environment, state;

-- name: webhooks()
-- An event counts once for each webhook that waits with it.
SELECT
    known.environment,
    coalesce(sum(waiting.events) FILTER (WHERE ended_at IS NULL), 0) AS events_undelivered,
    coalesce(max(waiting.age) FILTER (WHERE ended_at IS NULL), 0)::float8 AS events_oldest_undelivered_seconds,
    count(webhooks.url) FILTER (WHERE ended_at IS NOT NULL) AS webhooks_ended,
    (SELECT count(*) FROM parked_events WHERE parked_events.environment = known.environment)
        AS events_parked
FROM unnest(enum_range(NULL::ksef_environment)) AS known (environment)
LEFT JOIN webhooks ON webhooks.environment = known.environment
LEFT JOIN LATERAL (
    SELECT count(*) AS events, extract(epoch FROM clock_timestamp() - min(at)) AS age
    FROM events
    WHERE events.company_nip = webhooks.company_nip
      AND events.environment = webhooks.environment
      AND number > position
) AS waiting ON true
GROUP BY known.environment;

-- name: quota_by_group(quota_groups, per_hour, share, seconds)
-- For each group: how much of our hourly share the company with the least has left (0 to 1), and how
-- many companies are blocked after a 429. per_hour: the groups' published limits, -1 for no limit.
-- Calls are counted group by group, in the index of a group's calls: old ones, which stay where a company does not ask
-- any more, are not read.
WITH allowed AS (
    SELECT
        company_nip, environment, quota_group, blocked_until,
        coalesce(quota_groups.per_hour, published.per_hour) AS per_hour,
        (
            SELECT count(*)
            FROM quota_calls
            WHERE quota_calls.company_nip = quota_groups.company_nip
              AND quota_calls.environment = quota_groups.environment
              AND quota_calls.quota_group = quota_groups.quota_group
              AND reserved_at > statement_timestamp() - make_interval(secs => :seconds)
        ) AS calls
    FROM quota_groups
    JOIN unnest(:quota_groups::text[], :per_hour::integer[]) AS published (quota_group, per_hour)
        USING (quota_group)
)
SELECT
    environment,
    quota_group AS "group",
    min(
        CASE WHEN per_hour < 0 THEN 1 ELSE
            greatest(0, 1 - calls / greatest(1, floor(per_hour * :share)))
        END
    )::float8 AS quota_left_ratio,
    count(*) FILTER (WHERE blocked_until > clock_timestamp()) AS quota_blocked_companies
FROM allowed
GROUP BY environment, quota_group;

-- name: archive()^
-- Bytes on disk, indexes included. Documents are counted if they are few; else the number is the
-- planner's estimate.
SELECT
    CASE WHEN reltuples < 100000 THEN (SELECT count(*) FROM upos) ELSE reltuples END::float8
        AS upo_archive_documents,
    pg_total_relation_size(oid) AS upo_archive_bytes
FROM pg_class
WHERE oid = 'upos'::regclass;
