-- Numbers by which rows are linked must look like KSeF's: one with blanks around it, in small letters or with a line break
-- would be taken and never linked, without a word. Rows that exist already are left as they are, and named; whoever
-- changes one must mend it too. The ksef_number of offline_invoices links nothing, and may be anything.

DO $$
DECLARE
    found record;
BEGIN
    FOR found IN
        SELECT 'synced_invoices' AS kind, company_nip, environment, ksef_number AS number, count(*) OVER () AS total
        FROM synced_invoices
        WHERE ksef_number !~ '^[1-9][0-9]{9}-[0-9]{8}(-[0-9A-Z]{1,12}){2,3}$'
        LIMIT 20
    LOOP
        RAISE WARNING '% of % % will never be linked: % is no KSeF number (one of % such rows)',
            found.kind, found.company_nip, found.environment, quote_literal(regexp_replace(found.number, '[^[:print:]]', '?', 'g')), found.total;
    END LOOP;
    FOR found IN
        SELECT 'offline_invoices' AS kind, company_nip, environment, ksef_reference_number AS number, count(*) OVER () AS total
        FROM offline_invoices
        WHERE ksef_reference_number !~ '^[0-9]{8}(-[0-9A-Z]{1,12}){2,5}$'
        LIMIT 20
    LOOP
        RAISE WARNING '% of % % will never be linked: % is no reference number (one of % such rows)',
            found.kind, found.company_nip, found.environment, quote_literal(regexp_replace(found.number, '[^[:print:]]', '?', 'g')), found.total;
    END LOOP;
END
$$;

ALTER TABLE synced_invoices ADD CONSTRAINT ksef_number_has_its_shape
    CHECK (ksef_number ~ '^[1-9][0-9]{9}-[0-9]{8}(-[0-9A-Z]{1,12}){2,3}$') NOT VALID;
ALTER TABLE offline_invoices ADD CONSTRAINT ksef_reference_number_has_its_shape
    CHECK (ksef_reference_number ~ '^[0-9]{8}(-[0-9A-Z]{1,12}){2,5}$') NOT VALID;
