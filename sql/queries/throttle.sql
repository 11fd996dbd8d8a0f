-- name: count_attempt(pair, name, address, by_pair, by_name, by_address, seconds, remembered)^
-- Count an attempt as a failure (undo_attempt takes that back), unless there are too many.
-- counted_at: null if it is refused; wait: for so many seconds. fills: it was the last one for this
-- name, or for this name from this address.
-- A name that logged in from this address within `remembered` seconds is counted for the two alone.
WITH keys (who, name, allowed) AS (
    SELECT who, name, allowed
    FROM (VALUES
        (:pair::bytea, :name::bytea, :by_pair::int),
        (:name, :name, :by_name),
        (:address, NULL, :by_address)
    ) AS key (who, name, allowed)
    WHERE who = :pair
       OR who IS NOT NULL AND NOT EXISTS (
           SELECT
           FROM login_attempts
           WHERE who = :pair
             AND succeeded_at > statement_timestamp() - make_interval(secs => :remembered)
       )
),
too_many AS (
    SELECT
        max(extract(epoch FROM failed_at[keys.allowed] - statement_timestamp())) + :seconds AS wait
    FROM keys
    JOIN login_attempts USING (who)
    WHERE failed_at[keys.allowed] > statement_timestamp() - make_interval(secs => :seconds)
),
counted AS (
    INSERT INTO login_attempts AS attempts (who, name, allowed, failed_at, needed_until)
    SELECT
        who, name, allowed, ARRAY[statement_timestamp()],
        statement_timestamp() + make_interval(secs => :seconds)
    FROM keys
    WHERE (SELECT wait FROM too_many) IS NULL
    ORDER BY who
    ON CONFLICT (who) DO UPDATE SET
        allowed = excluded.allowed,
        failed_at = (excluded.failed_at || attempts.failed_at)[: excluded.allowed],
        needed_until = greatest(attempts.needed_until, excluded.needed_until)
    -- Others may have been counted since this statement began.
    WHERE coalesce(attempts.failed_at[excluded.allowed], '-infinity')
        <= statement_timestamp() - make_interval(secs => :seconds)
    RETURNING
        name IS NOT NULL
        AND failed_at[allowed] > statement_timestamp() - make_interval(secs => :seconds) AS fills
)
SELECT
    CASE WHEN count(*) = (SELECT count(*) FROM keys) THEN statement_timestamp() END AS counted_at,
    coalesce((SELECT wait FROM too_many), :seconds)::float8 AS wait,
    coalesce(bool_or(fills), false) AS fills
FROM counted;

-- name: is_counted(who)$
SELECT EXISTS (SELECT FROM login_attempts WHERE who = :who);

-- name: undo_attempt(pair, name, address, counted_at, remembered)!
-- The password was right: the attempt is none, and its name is known at its address from now on.
WITH mine AS (
    SELECT who FROM login_attempts WHERE who IN (:pair, :name, :address) ORDER BY who FOR UPDATE
)
UPDATE login_attempts SET
    failed_at = array_remove(failed_at, :counted_at),
    succeeded_at = CASE WHEN who = :pair THEN statement_timestamp() ELSE succeeded_at END,
    needed_until = CASE
        WHEN who = :pair THEN statement_timestamp() + make_interval(secs => :remembered)
        ELSE needed_until
    END
WHERE who IN (SELECT who FROM mine);

-- name: forget_name(name)!
WITH mine AS (
    SELECT who FROM login_attempts WHERE name = :name ORDER BY who FOR UPDATE
)
UPDATE login_attempts SET failed_at = '{}' WHERE who IN (SELECT who FROM mine);

-- name: forget_attempts()!
-- A few rows that tell nothing any more; each attempt adds three at most.
DELETE FROM login_attempts
WHERE who IN (
    SELECT who
    FROM login_attempts
    WHERE needed_until < statement_timestamp()
    ORDER BY needed_until
    LIMIT 100
    FOR UPDATE SKIP LOCKED
);
