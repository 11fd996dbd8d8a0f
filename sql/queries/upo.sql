-- name: hand_out(company_nip, environment, session_reference_number, ksef_number, page_reference_number, who, what, detail, request_id, address)^
-- The archived document, and its verdict; no row if there is none, or while `active_simulations` has a simulation for the
-- company. The download is audited in the same statement. The commit does not wait for the disk: a crash of PostgreSQL
-- may lose the audit of the last half second.
WITH found AS MATERIALIZED (
    SELECT content, signature, signer, signed_at, certificate_sha256
    FROM upos
    WHERE company_nip = :company_nip
      AND environment = :environment
      AND session_reference_number = :session_reference_number
      AND ksef_number = :ksef_number
      AND page_reference_number = :page_reference_number
      AND NOT EXISTS (
          SELECT FROM outage_simulations
          WHERE environment = :environment
            AND environment <> 'prod'
            AND (company_nip = :company_nip OR company_nip IS NULL)
            AND starts_at <= now()
            AND (ends_at IS NULL OR ends_at > now())
      )
), audited AS (
    INSERT INTO audit (who, what, company_nip, environment, detail, request_id, address)
    SELECT :who, :what, :company_nip, :environment, :detail, :request_id, :address
    FROM found
)
SELECT found.*, set_config('synchronous_commit', 'off', true) FROM found;

-- name: get_upo(company_nip, environment, session_reference_number, ksef_number, page_reference_number)^
SELECT content, signature, signer, signed_at, certificate_sha256
FROM upos
WHERE company_nip = :company_nip
  AND environment = :environment
  AND session_reference_number = :session_reference_number
  AND ksef_number = :ksef_number
  AND page_reference_number = :page_reference_number;

-- name: get_pages(company_nip, environment, session_reference_number)
-- The archived pages of a session's collective UPO.
SELECT page_reference_number, content, signature, signer, signed_at, certificate_sha256
FROM upos
WHERE company_nip = :company_nip
  AND environment = :environment
  AND session_reference_number = :session_reference_number
  AND ksef_number = '';

-- name: put_upo(company_nip, environment, session_reference_number, ksef_number, page_reference_number, question, content, sha256, ksef_host, signature, signer, signed_at, certificate_sha256)!
-- A document that is archived already is never replaced. A 404 that is remembered for the question is forgotten.
WITH forgotten AS (
    DELETE FROM kept_refusals
    WHERE company_nip = :company_nip AND environment = :environment AND question = :question
)
INSERT INTO upos (
    company_nip, environment, session_reference_number, ksef_number, page_reference_number,
    content, sha256, ksef_host, signature, signer, signed_at, certificate_sha256
)
VALUES (
    :company_nip, :environment, :session_reference_number, :ksef_number, :page_reference_number,
    :content, :sha256, :ksef_host, :signature, :signer, :signed_at, :certificate_sha256
)
ON CONFLICT DO NOTHING;

-- name: set_signature(company_nip, environment, session_reference_number, ksef_number, page_reference_number, signature, signer, signed_at, certificate_sha256)!
UPDATE upos
SET signature = :signature, signer = :signer, signed_at = :signed_at, certificate_sha256 = :certificate_sha256
WHERE company_nip = :company_nip
  AND environment = :environment
  AND session_reference_number = :session_reference_number
  AND ksef_number = :ksef_number
  AND page_reference_number = :page_reference_number;

-- name: missing_upos(company_nip, environment, after, batch)^
-- Of the next `batch` rows after the KSeF number `after`, in order: those that are linked and have no archived UPO.
-- One row always; last: the last number looked at, null at the end. Each number is looked up in the archive by its
-- key: without statistics the planner would rather join, and read the whole archive for each batch. Nor does it know that
-- `=` finds many rows, which it would then sort by another index; of a range it does.
WITH looked_at AS MATERIALIZED (
    SELECT ksef_number, session_reference_number
    FROM synced_invoices
    WHERE (company_nip, environment, ksef_number) > (:company_nip, :environment, :after)
      AND (company_nip, environment) <= (:company_nip, :environment)
    ORDER BY company_nip, environment, ksef_number
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

-- name: missing_of_session(company_nip, environment, session_reference_number, most)
-- The accepted invoices of a kept session that have no archived UPO of their own (both by their keys).
SELECT ksef_number
FROM kept_invoices AS invoice
WHERE company_nip = :company_nip
  AND environment = :environment
  AND session_reference_number = :session_reference_number
  AND status @> '{"code": 200}'
  AND ksef_number IS NOT NULL
  AND NOT EXISTS (
      SELECT FROM upos
      WHERE upos.company_nip = :company_nip
        AND upos.environment = :environment
        AND upos.session_reference_number = :session_reference_number
        AND upos.ksef_number = invoice.ksef_number
  )
ORDER BY ordinal_number
LIMIT :most;

-- name: archived_upos(company_nip, environment, first_day, last_day, unproven, reference_number, ksef_number, page, batch)
-- The next `batch` archived documents after a key, in order. wanted: of these days (YYYYMMDD), which are those of the KSeF
-- number, or of the session for a page of its collective UPO; and where only unproven ones are: not found valid yet.
SELECT
    session_reference_number AS reference_number,
    ksef_number,
    page_reference_number AS page,
    sha256, fetched_at, ksef_host, signature,
    CASE ksef_number WHEN '' THEN left(session_reference_number, 8) ELSE split_part(ksef_number, '-', 2) END
        BETWEEN :first_day AND :last_day
        AND NOT (:unproven AND signature IS NOT DISTINCT FROM 'valid') AS wanted
FROM upos
WHERE company_nip = :company_nip
  AND environment = :environment
  AND (session_reference_number, ksef_number, page_reference_number) > (:reference_number, :ksef_number, :page)
ORDER BY session_reference_number, ksef_number, page_reference_number
LIMIT :batch;

-- name: unknown_signers(company_nip, environment)
-- The certificates of signers that were not trusted, with how many documents each has signed (by upos_unknown_signers).
SELECT certificate_sha256, min(signer) AS signer, count(*) AS documents
FROM upos
WHERE company_nip = :company_nip AND environment = :environment AND signature = 'unknown_signer'
GROUP BY certificate_sha256
ORDER BY certificate_sha256;

-- name: signatures(company_nip, environment, session_reference_number, ksef_numbers)
-- The verdicts on a session's archived UPOs of these invoices.
SELECT ksef_number, signature
FROM upos
WHERE company_nip = :company_nip
  AND environment = :environment
  AND session_reference_number = :session_reference_number
  AND ksef_number = ANY (:ksef_numbers::text[]);

-- name: invoice_hashes(company_nip, environment, session_reference_number, ksef_number)
-- The hashes of the files that a session holds as accepted, as KSeF listed them, where they are kept; or of one invoice.
SELECT ksef_number, more ->> 'invoiceHash' AS invoice_hash
FROM kept_invoices
WHERE company_nip = :company_nip
  AND environment = :environment
  AND session_reference_number = :session_reference_number
  AND (:ksef_number::text IS NULL OR ksef_number = :ksef_number)
  AND more ->> 'invoiceHash' IS NOT NULL
  AND status @> '{"code": 200}';
