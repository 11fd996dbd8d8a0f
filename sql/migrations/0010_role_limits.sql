-- The service's role limits its own statements, also behind PgBouncer, which passes the settings of a role on.
-- Transactions set their own (SET LOCAL). A transaction that stands idle belongs to a replica that is gone: none waits for
-- anything but PostgreSQL. What an operator has set already stays. Roles belong to the whole server, so a migration of
-- another of its databases may be doing the same.
DO $$
DECLARE
    setting text;
    value   text;
BEGIN
    FOR setting, value IN VALUES
        ('lock_timeout', '1500ms'), ('statement_timeout', '3s'), ('idle_in_transaction_session_timeout', '30s')
    LOOP
        CONTINUE WHEN EXISTS (
            SELECT FROM pg_roles, unnest(rolconfig) AS configured
            WHERE rolname = 'ksef_proxy' AND starts_with(configured, setting || '=')
        );
        BEGIN
            EXECUTE format('ALTER ROLE ksef_proxy SET %I = %L', setting, value);
        EXCEPTION
            WHEN insufficient_privilege THEN
                RAISE WARNING 'ALTER ROLE ksef_proxy SET % = ''%'' is left to an administrator', setting, value;
            WHEN internal_error OR unique_violation THEN
                NULL;
        END;
    END LOOP;
END
$$;
