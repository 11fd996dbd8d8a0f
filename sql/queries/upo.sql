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

-- name: missing_upos(company_nip, environment, after)
-- Linked invoices without an archived UPO, in the order of their numbers, after the number `after`.
SELECT ksef_number, session_reference_number
FROM synced_invoices
WHERE company_nip = :company_nip
  AND environment = :environment
  AND session_reference_number IS NOT NULL
  AND ksef_number > :after
  AND NOT EXISTS (
      SELECT FROM upos
      WHERE upos.company_nip = synced_invoices.company_nip
        AND upos.environment = synced_invoices.environment
        AND upos.session_reference_number = synced_invoices.session_reference_number
        AND upos.ksef_number = synced_invoices.ksef_number
  )
ORDER BY ksef_number
LIMIT 100;

-- name: count_missing_upos(company_nip, environment)$
SELECT count(*)
FROM synced_invoices
WHERE company_nip = :company_nip
  AND environment = :environment
  AND session_reference_number IS NOT NULL
  AND NOT EXISTS (
      SELECT FROM upos
      WHERE upos.company_nip = synced_invoices.company_nip
        AND upos.environment = synced_invoices.environment
        AND upos.session_reference_number = synced_invoices.session_reference_number
        AND upos.ksef_number = synced_invoices.ksef_number
  );
