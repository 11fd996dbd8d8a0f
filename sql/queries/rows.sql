-- name: import_synced(company_nip, environment, invoice_numbers, ksef_numbers, invoice_hashes)!
-- Rows that exist already are left unchanged, so that a file may be imported again.
INSERT INTO synced_invoices (company_nip, environment, invoice_number, ksef_number, invoice_hash)
SELECT :company_nip, :environment, invoice_number, ksef_number, invoice_hash
FROM unnest(:invoice_numbers::text[], :ksef_numbers::text[], :invoice_hashes::text[])
    AS file (invoice_number, ksef_number, invoice_hash)
ON CONFLICT (company_nip, environment, ksef_number) DO NOTHING;

-- name: import_offline(company_nip, environment, invoice_numbers, reference_numbers, ksef_numbers, invoice_hashes)!
INSERT INTO offline_invoices
    (company_nip, environment, invoice_number, ksef_reference_number, ksef_number, invoice_hash)
SELECT :company_nip, :environment, invoice_number, reference_number, ksef_number, invoice_hash
FROM unnest(:invoice_numbers::text[], :reference_numbers::text[], :ksef_numbers::text[], :invoice_hashes::text[])
    AS file (invoice_number, reference_number, ksef_number, invoice_hash)
ON CONFLICT (company_nip, environment, ksef_reference_number, invoice_number) DO NOTHING;

-- name: list_rows(company_nip, environment, unlinked)
-- unlinked: only the rows without a session.
SELECT 'synced' AS kind, invoice_number, ksef_number, NULL AS ksef_reference_number,
    session_reference_number, created_at, linked_at
FROM synced_invoices
WHERE company_nip = :company_nip AND environment = :environment
  AND (session_reference_number IS NULL OR NOT :unlinked)
UNION ALL
SELECT 'offline', invoice_number, ksef_number, ksef_reference_number,
    session_reference_number, created_at, linked_at
FROM offline_invoices
WHERE company_nip = :company_nip AND environment = :environment
  AND (session_reference_number IS NULL OR NOT :unlinked)
ORDER BY kind DESC, created_at, invoice_number;
