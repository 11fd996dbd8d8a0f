-- name: find_invoices(company_nip, environment, ksef_number, invoice_number)
-- Kept answers that hold an invoice, by one of its numbers; the other one is null. By its KSeF number its duplicates too.
-- is_held: the session of a duplicate holds its original as well.
-- Each number is looked up by its own index; with OR, tables without statistics would be read whole.
WITH found AS MATERIALIZED (
    SELECT session_reference_number, reference_number
    FROM kept_invoices
    WHERE company_nip = :company_nip AND environment = :environment AND ksef_number = :ksef_number
    UNION
    SELECT session_reference_number, reference_number
    FROM kept_invoices
    WHERE company_nip = :company_nip AND environment = :environment AND invoice_number = :invoice_number
    UNION
    SELECT session_reference_number, reference_number
    FROM kept_invoices
    WHERE company_nip = :company_nip
      AND environment = :environment
      AND status #>> '{extensions,originalKsefNumber}' = :ksef_number
)
SELECT
    invoice.told::text AS told,
    invoice.session_reference_number,
    kept.final,
    kept.checked_at,
    EXISTS (
        SELECT FROM upos
        WHERE upos.company_nip = invoice.company_nip
          AND upos.environment = invoice.environment
          AND upos.session_reference_number = invoice.session_reference_number
          AND upos.ksef_number = invoice.ksef_number
    ) AS upo_archived,
    EXISTS (
        SELECT FROM kept_invoices AS original
        WHERE original.company_nip = invoice.company_nip
          AND original.environment = invoice.environment
          AND original.session_reference_number = invoice.session_reference_number
          AND original.ksef_number = invoice.status #>> '{extensions,originalKsefNumber}'
          AND original.status @> '{"code": 200}'
    ) AS is_held
FROM found
JOIN told_invoices AS invoice
    ON invoice.company_nip = :company_nip
    AND invoice.environment = :environment
    AND invoice.session_reference_number = found.session_reference_number
    AND invoice.reference_number = found.reference_number
JOIN kept_sessions AS kept
    ON kept.company_nip = invoice.company_nip
    AND kept.environment = invoice.environment
    AND kept.reference_number = invoice.session_reference_number
ORDER BY kept.checked_at DESC, invoice.ordinal_number
LIMIT 100;

-- name: session_of(company_nip, environment, ksef_number)$
-- The session that holds an accepted invoice: in a kept answer, or in the company's row.
SELECT session_reference_number
FROM (
    SELECT session_reference_number, 1 AS preference
    FROM kept_invoices
    WHERE company_nip = :company_nip
      AND environment = :environment
      AND ksef_number = :ksef_number
      AND status @> '{"code": 200}'
    UNION ALL
    SELECT session_reference_number, 2
    FROM synced_invoices
    WHERE company_nip = :company_nip
      AND environment = :environment
      AND ksef_number = :ksef_number
      AND session_reference_number IS NOT NULL
) AS known
ORDER BY preference
LIMIT 1;

-- name: find_rows(company_nip, environment, ksef_number, invoice_number)
-- The company's own rows for an invoice, by one of its numbers.
SELECT 'synced' AS kind, invoice_number, ksef_number, NULL AS ksef_reference_number,
    session_reference_number, linked_at
FROM synced_invoices
WHERE company_nip = :company_nip AND environment = :environment
  AND (ksef_number = :ksef_number OR invoice_number = :invoice_number)
UNION ALL
SELECT 'offline', invoice_number, ksef_number, ksef_reference_number,
    session_reference_number, linked_at
FROM offline_invoices
WHERE company_nip = :company_nip AND environment = :environment
  AND (ksef_number = :ksef_number OR invoice_number = :invoice_number)
LIMIT 100;
