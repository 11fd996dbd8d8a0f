-- name: database_now()$
SELECT clock_timestamp();

-- name: missing_rights(tables, rights, columns)
-- The rights to our own tables that this role lacks; of: a column, or '' for the whole table.
SELECT name, needed, of
FROM unnest(:tables::text[], :rights::text[], :columns::text[]) AS wanted (name, needed, of)
WHERE to_regclass(name) IS NOT NULL
  AND NOT CASE
      WHEN of = '' THEN has_table_privilege(to_regclass(name), needed)
      ELSE has_column_privilege(to_regclass(name), of, needed)
  END
ORDER BY name, needed, of;

-- name: owns_audit()$
SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = 'audit'::regclass;

-- name: missing_limits()
-- Which limits this role has not got for single statements: see 0010_role_limits.sql.
SELECT name FROM pg_settings
WHERE name IN ('lock_timeout', 'statement_timeout') AND reset_val = '0'
ORDER BY name;
