-- Whether what KSeF did not know may still come was guessed from how long it is remembered; now it is stored. Null: kept
-- by version 0.1.0.
ALTER TABLE kept_refusals ADD COLUMN may_come boolean;

-- A duplicate is found by the number of its original.
CREATE INDEX kept_invoices_originals
    ON kept_invoices (company_nip, environment, (status #>> '{extensions,originalKsefNumber}'))
    WHERE status #>> '{extensions,originalKsefNumber}' IS NOT NULL;

-- The view of 0011, with the key of each invoice.
CREATE OR REPLACE VIEW told_invoices AS
SELECT
    company_nip, environment, session_reference_number, ordinal_number, ksef_number, invoice_number, status,
    jsonb_build_object(
        'ordinalNumber', ordinal_number,
        'referenceNumber', reference_number,
        'invoiceNumber', invoice_number,
        'ksefNumber', ksef_number,
        'acquisitionDate', acquisition_date,
        'status', status
    ) || coalesce(more, '{}') AS told,
    reference_number
FROM kept_invoices;
