-- KSeF names each invoice by the SHA-256 of its file (Base64): a refused one has no other name. The ERP may write it into
-- its rows; an offline row without a reference number is linked by it.
ALTER TABLE synced_invoices ADD COLUMN invoice_hash text
    CONSTRAINT invoice_hash_has_its_shape CHECK (invoice_hash ~ '^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$');
ALTER TABLE offline_invoices ADD COLUMN invoice_hash text
    CONSTRAINT invoice_hash_has_its_shape CHECK (invoice_hash ~ '^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$');

-- The hash comes first: without statistics PostgreSQL takes any index that begins with the company for as good as another,
-- also for what has nothing to do with the hash.
CREATE INDEX synced_invoices_hash ON synced_invoices (invoice_hash, company_nip, environment)
    WHERE invoice_hash IS NOT NULL;
CREATE INDEX offline_invoices_hash ON offline_invoices (invoice_hash, company_nip, environment)
    WHERE invoice_hash IS NOT NULL;
-- The key of the table holds rows without a reference, too, which a range of it would all read.
CREATE INDEX offline_invoices_reference ON offline_invoices (ksef_reference_number, company_nip, environment)
    WHERE ksef_reference_number IS NOT NULL;
CREATE INDEX kept_invoices_hash ON kept_invoices ((more ->> 'invoiceHash'), company_nip, environment);

GRANT INSERT (invoice_hash), UPDATE (invoice_hash) ON synced_invoices, offline_invoices TO erp;

-- What the ERP reads instead of asking over HTTP: each of its rows with what is known of the invoice in the session that the
-- row is linked to. The kept answers are read with the owner's rights. Where rows are hidden by policies (docs/operators.md,
-- a role for each company) they are hidden here, too: a view would else pass the owner's policies, which are none.
-- An invoice is found by its own reference, else by its KSeF number, else by its hash, each by its index: BETWEEN
-- leaves no other (see queries/sessions.sql).
CREATE VIEW invoice_status WITH (security_barrier) AS
WITH rows AS (
    SELECT 'synced_invoices' AS "table", company_nip, environment, invoice_number, NULL AS ksef_reference_number,
        ksef_number, invoice_hash, session_reference_number, created_at, linked_at
    FROM synced_invoices
    WHERE NOT row_security_active('synced_invoices') OR current_user = 'erp_' || company_nip
    UNION ALL
    SELECT 'offline_invoices', company_nip, environment, invoice_number, ksef_reference_number,
        ksef_number, invoice_hash, session_reference_number, created_at, linked_at
    FROM offline_invoices
    WHERE NOT row_security_active('offline_invoices') OR current_user = 'erp_' || company_nip
)
SELECT
    rows."table", rows.company_nip, rows.environment, rows.invoice_number, rows.ksef_reference_number,
    coalesce(rows.ksef_number, invoice.ksef_number) AS ksef_number,
    coalesce(rows.invoice_hash, invoice.more ->> 'invoiceHash') AS invoice_hash,
    rows.session_reference_number,
    (kept.session #>> '{status,code}')::integer AS session_code,
    kept.session #>> '{status,description}' AS session_description,
    invoice.reference_number AS invoice_reference_number,
    (invoice.status ->> 'code')::integer AS invoice_code,
    invoice.status ->> 'description' AS invoice_description,
    invoice.status -> 'details' AS invoice_details,
    kept.final, kept.checked_at,
    upos.fetched_at AS upo_archived_at, upos.signature AS upo_signature,
    rows.created_at, rows.linked_at
FROM rows
LEFT JOIN kept_sessions AS kept
    ON kept.company_nip = rows.company_nip
    AND kept.environment = rows.environment
    AND kept.reference_number = rows.session_reference_number
LEFT JOIN LATERAL (
    SELECT 1 AS preference, reference_number, ksef_number, status, more
    FROM kept_invoices AS one
    WHERE one.company_nip = rows.company_nip
      AND one.environment = rows.environment
      AND one.session_reference_number = rows.session_reference_number
      AND one.reference_number = rows.ksef_reference_number
    UNION ALL
    SELECT 2, reference_number, ksef_number, status, more
    FROM kept_invoices AS one
    WHERE (one.company_nip, one.environment, one.ksef_number)
          BETWEEN (rows.company_nip, rows.environment, rows.ksef_number)
          AND (rows.company_nip, rows.environment, rows.ksef_number)
      AND one.session_reference_number = rows.session_reference_number
    UNION ALL
    SELECT 3, reference_number, ksef_number, status, more
    FROM kept_invoices AS one
    WHERE (one.more ->> 'invoiceHash', one.company_nip, one.environment)
          BETWEEN (rows.invoice_hash, rows.company_nip, rows.environment)
          AND (rows.invoice_hash, rows.company_nip, rows.environment)
      AND one.session_reference_number = rows.session_reference_number
    ORDER BY preference
    LIMIT 1
) AS invoice ON true
LEFT JOIN upos
    ON upos.company_nip = rows.company_nip
    AND upos.environment = rows.environment
    AND upos.session_reference_number = rows.session_reference_number
    AND upos.ksef_number = coalesce(rows.ksef_number, invoice.ksef_number)
    AND upos.page_reference_number = '';

GRANT SELECT ON invoice_status TO erp;
