-- name: find_invoices(company_nip, environment, ksef_number, invoice_number)
-- Kept answers that hold an invoice, by one of its numbers; the other one is null.
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
    ) AS upo_archived
FROM told_invoices AS invoice
JOIN kept_sessions AS kept
    ON kept.company_nip = invoice.company_nip
    AND kept.environment = invoice.environment
    AND kept.reference_number = invoice.session_reference_number
WHERE invoice.company_nip = :company_nip
  AND invoice.environment = :environment
  AND (invoice.ksef_number = :ksef_number OR invoice.invoice_number = :invoice_number)
ORDER BY kept.checked_at DESC, invoice.ordinal_number
LIMIT 100;

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
