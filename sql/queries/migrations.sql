-- name: is_prepared()$
-- Whether any migration was ever begun here.
SELECT to_regclass('schema_migrations') IS NOT NULL;

-- name: applied()
-- The migrations applied so far.
SELECT version, name, checksum FROM schema_migrations ORDER BY version;

-- name: record(version, name, checksum)!
INSERT INTO schema_migrations (version, name, checksum) VALUES (:version, :name, :checksum);
