-- name: database_now()$
SELECT clock_timestamp();
