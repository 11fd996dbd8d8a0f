-- name: is_prepared()$
-- Whether any migration was ever begun here.
SELECT to_regclass('schema_migrations') IS NOT NULL;

-- name: out_of_sight()^
-- A schema in which migrations were applied but this role does not see them.
SELECT nspname AS name, has_schema_privilege(relnamespace, 'USAGE') AS is_usable
FROM pg_class
JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relname = 'schema_migrations' AND relkind = 'r' AND NOT pg_table_is_visible(pg_class.oid)
LIMIT 1;

-- name: applied()
-- The migrations applied so far.
SELECT version, name, checksum FROM schema_migrations ORDER BY version;

-- name: limit_waiting(milliseconds)$
-- From here on this transaction waits no longer for a lock (0: without end).
SELECT set_config('lock_timeout', :milliseconds::text, true);

-- name: tables_in_use()
-- Which tables other sessions have locked just now, and who they are; that needs no right.
SELECT format(
    '%%s by process %%s (%%s)',
    string_agg(DISTINCT relation::regclass::text, ', '),
    pid,
    concat_ws(', ', usename, nullif(application_name, ''))
)
FROM pg_locks
JOIN pg_stat_activity USING (pid)
JOIN pg_class ON pg_class.oid = relation AND relkind IN ('r', 'p')
WHERE database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND relnamespace <> 'pg_catalog'::regnamespace
  AND pid <> pg_backend_pid()
  AND granted
GROUP BY pid, usename, application_name
ORDER BY pid;

-- name: record(version, name, checksum)!
INSERT INTO schema_migrations (version, name, checksum) VALUES (:version, :name, :checksum);
