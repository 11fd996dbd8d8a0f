-- name: is_prepared()$
-- Whether any migration was ever begun here.
SELECT to_regclass('schema_migrations') IS NOT NULL;

-- name: applied()
-- The migrations applied so far.
SELECT version, name, checksum FROM schema_migrations ORDER BY version;

-- name: limit_waiting(milliseconds)$
-- From here on this transaction waits no longer for a lock (0: without end); its session's pid,
-- which PgBouncer may have changed since the last one.
SELECT pg_backend_pid() FROM set_config('lock_timeout', :milliseconds::text, true);

-- name: waited_for(pid)
-- What a session waits for, and who has it or comes before: none of that needs a right.
SELECT
    format(
        '%%s, which process %%s has (%%s)',
        coalesce(waiting.relation::regclass::text, 'a row'),
        holder.pid,
        concat_ws(', ', holder.usename, nullif(holder.application_name, ''))
    )
FROM pg_locks AS waiting
CROSS JOIN LATERAL unnest(pg_blocking_pids(waiting.pid)) AS blocking (pid)
JOIN pg_stat_activity AS holder ON holder.pid = blocking.pid
WHERE waiting.pid = :pid AND NOT waiting.granted
ORDER BY holder.pid;

-- name: record(version, name, checksum)!
INSERT INTO schema_migrations (version, name, checksum) VALUES (:version, :name, :checksum);
