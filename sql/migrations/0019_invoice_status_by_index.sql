-- The view invoice_status as before (0016), but each invoice is looked up by one index: PostgreSQL took what was no condition
-- of it for a condition of another, which begins with the company, and read all of the company's invoices for each row. So
-- BETWEEN and ORDER BY name the index, whatever is known of the table (see queries/sessions.sql), and coalesce and casts are
-- conditions for none. Where a session holds the same file twice, the accepted one is shown.
CREATE OR REPLACE VIEW invoice_status WITH (security_barrier) AS
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
LEFT JOIN LATERAL (
    SELECT session, final, checked_at
    FROM kept_sessions AS one
    WHERE (one.company_nip, one.environment, one.reference_number)
          BETWEEN (rows.company_nip, rows.environment, rows.session_reference_number)
          AND (rows.company_nip, rows.environment, rows.session_reference_number)
    ORDER BY one.company_nip, one.environment, one.reference_number
    LIMIT 1
) AS kept ON true
LEFT JOIN LATERAL (
    SELECT *
    FROM (
        (
            SELECT 1 AS preference, reference_number, ksef_number, status, more
            FROM kept_invoices AS one
            WHERE (one.company_nip, one.environment, one.session_reference_number, one.reference_number)
                  BETWEEN (rows.company_nip, rows.environment, rows.session_reference_number, rows.ksef_reference_number)
                  AND (rows.company_nip, rows.environment, rows.session_reference_number, rows.ksef_reference_number)
            ORDER BY one.company_nip, one.environment, one.session_reference_number, one.reference_number
            LIMIT 1
        )
        UNION ALL
        (
            SELECT 2, reference_number, ksef_number, status, more
            FROM kept_invoices AS one
            WHERE (one.company_nip, one.environment, one.ksef_number)
                  BETWEEN (rows.company_nip, rows.environment, rows.ksef_number)
                  AND (rows.company_nip, rows.environment, rows.ksef_number)
              AND coalesce(one.session_reference_number, '') = rows.session_reference_number
            ORDER BY one.company_nip, one.environment, one.ksef_number
            LIMIT 1
        )
        UNION ALL
        (
            SELECT 3, reference_number, ksef_number, status, more
            FROM kept_invoices AS one
            WHERE one.more ->> 'invoiceHash' = rows.invoice_hash
              AND coalesce(one.company_nip, '') = rows.company_nip
              AND one.environment::text = rows.environment::text
              AND coalesce(one.session_reference_number, '') = rows.session_reference_number
            ORDER BY one.status @> '{"code": 200}' DESC
            LIMIT 1
        )
    ) AS found
    ORDER BY preference
    LIMIT 1
) AS invoice ON true
LEFT JOIN LATERAL (
    SELECT fetched_at, signature
    FROM upos AS one
    WHERE (one.company_nip, one.environment, one.session_reference_number, one.ksef_number, one.page_reference_number)
          BETWEEN (rows.company_nip, rows.environment, rows.session_reference_number,
                   coalesce(rows.ksef_number, invoice.ksef_number), '')
          AND (rows.company_nip, rows.environment, rows.session_reference_number,
               coalesce(rows.ksef_number, invoice.ksef_number), '')
    ORDER BY
        one.company_nip, one.environment, one.session_reference_number, one.ksef_number, one.page_reference_number
    LIMIT 1
) AS upos ON true;
