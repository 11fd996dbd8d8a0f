-- Whether what KSeF did not know may still come was guessed from how long it is remembered; now it is stored. Null: kept
-- by version 0.1.0.
ALTER TABLE kept_refusals ADD COLUMN may_come boolean;

-- A duplicate is found by the number of its original.
CREATE INDEX kept_invoices_originals
    ON kept_invoices (company_nip, environment, (status #>> '{extensions,originalKsefNumber}'))
    WHERE status #>> '{extensions,originalKsefNumber}' IS NOT NULL;
