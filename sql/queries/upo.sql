-- name: get_upo(company_nip, environment, session_reference_number, ksef_number, page_reference_number)^
SELECT content, sha256
FROM upos
WHERE company_nip = :company_nip
  AND environment = :environment
  AND session_reference_number = :session_reference_number
  AND ksef_number = :ksef_number
  AND page_reference_number = :page_reference_number;

-- name: hand_out_upo(company_nip, environment, session_reference_number, ksef_number, page_reference_number, who, what, detail, request_id, address)^
-- The document, with the audit of its download in the same statement. The commit does not wait for
-- the disk: a crash of PostgreSQL may lose the audit of the last half second.
WITH found AS (
    SELECT content
    FROM upos
    WHERE company_nip = :company_nip
      AND environment = :environment
      AND session_reference_number = :session_reference_number
      AND ksef_number = :ksef_number
      AND page_reference_number = :page_reference_number
), audited AS (
    INSERT INTO audit (who, what, company_nip, environment, detail, request_id, address)
    SELECT :who, :what, :company_nip, :environment, :detail, :request_id, :address
    FROM found
)
SELECT content, set_config('synchronous_commit', 'off', true) FROM found;

-- name: get_pages(company_nip, environment, session_reference_number)
-- The archived pages of a session's collective UPO.
SELECT page_reference_number, content
FROM upos
WHERE company_nip = :company_nip
  AND environment = :environment
  AND session_reference_number = :session_reference_number
  AND ksef_number = '';

-- name: put_upo(company_nip, environment, session_reference_number, ksef_number, page_reference_number, content, sha256)!
-- A document that is archived already is never replaced.
INSERT INTO upos (
    company_nip, environment, session_reference_number, ksef_number, page_reference_number,
    content, sha256
)
VALUES (
    :company_nip, :environment, :session_reference_number, :ksef_number, :page_reference_number,
    :content, :sha256
)
ON CONFLICT DO NOTHING;

-- name: missing_upos(company_nip, environment, after, batch)^
-- Of the next `batch` rows after the KSeF number `after`, in order: those that are linked and have no archived UPO.
-- One row always; last: the last number looked at, null at the end. Each number is looked up in the archive by its
-- key: without statistics the planner would rather join, and read the whole archive for each batch.
WITH looked_at AS MATERIALIZED (
    SELECT ksef_number, session_reference_number
    FROM synced_invoices
    WHERE company_nip = :company_nip AND environment = :environment AND ksef_number > :after
    ORDER BY ksef_number
    LIMIT :batch
), missing AS (
    SELECT ksef_number, session_reference_number
    FROM looked_at
    WHERE session_reference_number IS NOT NULL
      AND (
          SELECT true
          FROM upos
          WHERE upos.company_nip = :company_nip
            AND upos.environment = :environment
            AND upos.session_reference_number = looked_at.session_reference_number
            AND upos.ksef_number = looked_at.ksef_number
          LIMIT 1
      ) IS NULL
)
SELECT
    (SELECT max(ksef_number) FROM looked_at) AS last,
    coalesce(array_agg(ksef_number ORDER BY ksef_number), '{}') AS ksef_numbers,
    coalesce(array_agg(session_reference_number ORDER BY ksef_number), '{}') AS session_reference_numbers
FROM missing;
