-- Deletes kept answers and archived UPOs, a few at a time, in the order of their keys.
-- only: one company, or null for all. before: delete only what is older, or null for all.
-- The other parameters are the key of the last one looked at. Each query returns the next such key,
-- and how many were deleted; no row at the end.
-- (With a coalesce for `only` the planner would not use the index on the key: ten times as slow.)

-- name: forget_known(before)!
-- What happened before is not known any more: an answer that is not older was given later.
UPDATE followed SET known_since = :before WHERE known_since < :before;

-- name: delete_answers(only, before, nip, environment, reference_number, batch)^
-- An answer that is being written at this moment is left for the next purge.
WITH looked_at AS (
    SELECT company_nip, environment, reference_number
    FROM kept_sessions
    WHERE (company_nip, environment, reference_number)
        > (:nip, :environment::ksef_environment, :reference_number)
      AND (:only::text IS NULL OR company_nip = :only)
    ORDER BY company_nip, environment, reference_number
    LIMIT :batch
), old AS (
    SELECT company_nip, environment, reference_number
    FROM kept_sessions AS kept
    JOIN looked_at USING (company_nip, environment, reference_number)
    WHERE checked_at < coalesce(:before::timestamptz, 'infinity')
    FOR UPDATE OF kept SKIP LOCKED
), invoices AS (
    DELETE FROM kept_invoices AS invoice USING old
    WHERE invoice.company_nip = old.company_nip
      AND invoice.environment = old.environment
      AND invoice.session_reference_number = old.reference_number
), deleted AS (
    DELETE FROM kept_sessions AS kept USING old
    WHERE kept.company_nip = old.company_nip
      AND kept.environment = old.environment
      AND kept.reference_number = old.reference_number
    RETURNING kept.reference_number
)
SELECT
    company_nip AS nip,
    environment::text AS environment,
    reference_number,
    (SELECT count(*) FROM deleted) AS deleted
FROM looked_at
ORDER BY looked_at.company_nip DESC, looked_at.environment DESC, looked_at.reference_number DESC
LIMIT 1;

-- name: forget_links(newest_key_id, nip, environment, reference_number, batch)^
-- Drops sealed download links that have expired: KSeF's are valid for three days; or, with newest_key_id, those that another
-- key sealed. `deleted`: of how many answers.
WITH looked_at AS (
    SELECT company_nip, environment, reference_number
    FROM kept_sessions
    WHERE (company_nip, environment, reference_number)
        > (:nip, :environment::ksef_environment, :reference_number)
    ORDER BY company_nip, environment, reference_number
    LIMIT :batch
), useless AS (
    SELECT company_nip, environment, reference_number
    FROM kept_sessions AS kept
    JOIN looked_at USING (company_nip, environment, reference_number)
    WHERE links IS NOT NULL
      AND CASE
          WHEN :newest_key_id::bytea IS NULL THEN checked_at < statement_timestamp() - interval '4 days'
          ELSE substring(links FROM 1 FOR 4) <> :newest_key_id
      END
    FOR UPDATE OF kept SKIP LOCKED
), of_invoices AS (
    UPDATE kept_invoices AS invoice SET link = NULL FROM useless
    WHERE invoice.company_nip = useless.company_nip
      AND invoice.environment = useless.environment
      AND invoice.session_reference_number = useless.reference_number
      AND invoice.link IS NOT NULL
), dropped AS (
    UPDATE kept_sessions AS kept SET links = NULL FROM useless
    WHERE kept.company_nip = useless.company_nip
      AND kept.environment = useless.environment
      AND kept.reference_number = useless.reference_number
    RETURNING kept.reference_number
)
SELECT
    company_nip AS nip,
    environment::text AS environment,
    reference_number,
    (SELECT count(*) FROM dropped) AS deleted
FROM looked_at
ORDER BY looked_at.company_nip DESC, looked_at.environment DESC, looked_at.reference_number DESC
LIMIT 1;

-- name: delete_upos(only, before, nip, environment, reference_number, ksef_number, page, batch)^
WITH looked_at AS (
    SELECT
        company_nip, environment, session_reference_number, ksef_number, page_reference_number,
        fetched_at < coalesce(:before::timestamptz, 'infinity') AS old
    FROM upos
    WHERE (company_nip, environment, session_reference_number, ksef_number, page_reference_number)
        > (:nip, :environment::ksef_environment, :reference_number, :ksef_number, :page)
      AND (:only::text IS NULL OR company_nip = :only)
    ORDER BY company_nip, environment, session_reference_number, ksef_number, page_reference_number
    LIMIT :batch
), deleted AS (
    DELETE FROM upos USING looked_at
    WHERE old
      AND upos.company_nip = looked_at.company_nip
      AND upos.environment = looked_at.environment
      AND upos.session_reference_number = looked_at.session_reference_number
      AND upos.ksef_number = looked_at.ksef_number
      AND upos.page_reference_number = looked_at.page_reference_number
    RETURNING upos.ksef_number
)
SELECT
    company_nip AS nip,
    environment::text AS environment,
    session_reference_number AS reference_number,
    ksef_number,
    page_reference_number AS page,
    (SELECT count(*) FROM deleted) AS deleted
FROM looked_at
ORDER BY
    looked_at.company_nip DESC, looked_at.environment DESC,
    looked_at.session_reference_number DESC, looked_at.ksef_number DESC,
    looked_at.page_reference_number DESC
LIMIT 1;
