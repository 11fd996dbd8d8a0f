-- Opens the transaction of each migration. The lock is the transaction's, not the session's,
-- because PgBouncer may hand each transaction another session.
SET LOCAL lock_timeout = 0;
SET LOCAL statement_timeout = 0;
SELECT pg_advisory_xact_lock(hashtext('ksef-proxy'), hashtext('schema_migrations'));

CREATE TABLE IF NOT EXISTS schema_migrations (
    version    integer PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- /readyz asks as the service's role, which the first migration makes only after this.
GRANT SELECT ON schema_migrations TO PUBLIC;
