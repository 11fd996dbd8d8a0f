-- A final answer is kept as the bytes that were sent, and download links stand beside their invoices.

-- body: the answer's JSON, compressed (zstd); body_form: how it was written (version and time zone); null until it is
-- sent for the first time. looked_at: when rows to be linked were last looked for, and none were left.
ALTER TABLE kept_sessions
    ADD COLUMN body bytea,
    ADD COLUMN body_form text,
    ADD COLUMN body_tag text,
    ADD COLUMN looked_at timestamptz;
ALTER TABLE kept_sessions ALTER COLUMN body SET STORAGE EXTERNAL;

-- more: what KSeF told of an invoice and has no column of its own. link: its UPO's download link, sealed.
-- kept_sessions.links holds those of the pages only (and of everything, where version 0.1.0 wrote it).
ALTER TABLE kept_invoices
    ADD COLUMN more jsonb,
    ADD COLUMN link bytea;

-- Kept invoices as KSeF told them: the one place that says which column holds what.
CREATE VIEW told_invoices AS
SELECT
    company_nip, environment, session_reference_number, ordinal_number, ksef_number, invoice_number, status,
    jsonb_build_object(
        'ordinalNumber', ordinal_number,
        'referenceNumber', reference_number,
        'invoiceNumber', invoice_number,
        'ksefNumber', ksef_number,
        'acquisitionDate', acquisition_date,
        'status', status
    ) || coalesce(more, '{}') AS told
FROM kept_invoices;

GRANT SELECT ON told_invoices TO ksef_proxy;

-- The simulation that holds for a company: its own, else one for all companies. Production is never simulated, whatever
-- the table says.
CREATE VIEW active_simulations AS
SELECT DISTINCT ON (company.nip, simulation.environment)
    company.nip AS company_nip, simulation.environment, message, starts_at, ends_at
FROM outage_simulations AS simulation
JOIN companies AS company ON simulation.company_nip = company.nip OR simulation.company_nip IS NULL
WHERE simulation.environment <> 'prod'
  AND starts_at <= now()
  AND (ends_at IS NULL OR ends_at > now())
ORDER BY company.nip, simulation.environment, simulation.company_nip NULLS LAST;

GRANT SELECT ON active_simulations TO ksef_proxy;
