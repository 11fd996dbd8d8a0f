-- What was written down by watch.sql, and what there is in the end, as evidence.sql wants it.
INSERT INTO links
SELECT at, act, tab, old ->> 'company_nip', old ->> 'environment',
    coalesce(old ->> CASE tab WHEN 'synced_invoices' THEN 'ksef_number' ELSE 'ksef_reference_number' END,
        old ->> 'invoice_hash'),
    old ->> 'session_reference_number', new ->> 'session_reference_number'
FROM watch.changes WHERE tab IN ('synced_invoices', 'offline_invoices') AND act <> 'INSERT';

INSERT INTO stored
SELECT at, CASE WHEN act = 'DELETE' THEN act WHEN is_put THEN 'put'
        WHEN old ->> 'checked_at' = new ->> 'checked_at' THEN 'marked' ELSE 'confirmed' END,
    present ->> 'reference_number', watch.moment(present, 'asked_at'),
    watch.moment(present, 'checked_at'), watch.moment(old, 'checked_at'),
    (old ->> 'final')::boolean, (present ->> 'final')::boolean
FROM watch.changes, LATERAL (SELECT coalesce(new, old) AS present) AS one WHERE tab = 'kept_sessions';

INSERT INTO reservations
SELECT at, watch.moment(present, 'reserved_at'), present ->> 'company_nip',
    present ->> 'quota_group', CASE act WHEN 'INSERT' THEN 1 ELSE -1 END
FROM watch.changes, LATERAL (SELECT coalesce(new, old) AS present) AS one
WHERE tab = 'quota_calls' AND act <> 'UPDATE';

INSERT INTO blocks
SELECT at, watch.moment(new, 'blocked_until'), new ->> 'company_nip', new ->> 'quota_group'
FROM watch.changes WHERE tab = 'quota_groups' AND new ->> 'blocked_until' IS NOT NULL
  AND new ->> 'blocked_until' IS DISTINCT FROM old ->> 'blocked_until';

INSERT INTO renewals
SELECT at, new ->> 'company_nip' FROM watch.changes
WHERE tab = 'ksef_sessions' AND new ->> 'version' IS DISTINCT FROM old ->> 'version'
  AND act <> 'DELETE';

INSERT INTO breaker
SELECT at, new ->> 'opened_at' IS NOT NULL, watch.moment(new, 'probed_at'),
    watch.moment(new, 'latarnia_asked_at')
FROM watch.changes WHERE tab = 'outages' AND act <> 'DELETE';

INSERT INTO rows
SELECT 'synced_invoices', company_nip, environment, ksef_number, session_reference_number
FROM synced_invoices
UNION ALL
SELECT 'offline_invoices', company_nip, environment, coalesce(ksef_reference_number, invoice_hash),
    session_reference_number
FROM offline_invoices;

INSERT INTO answers
SELECT reference_number, final, ARRAY(
    SELECT ksef_number FROM kept_invoices AS invoice
    WHERE (company_nip, environment, session_reference_number)
        = (kept.company_nip, kept.environment, kept.reference_number)
      AND status @> '{"code": 200}' ORDER BY ksef_number)
FROM kept_sessions AS kept;

INSERT INTO archived
SELECT ksef_number, session_reference_number, extract(epoch FROM fetched_at) FROM upos;

INSERT INTO events
SELECT company_nip, number, id, type, extract(epoch FROM at), data ->> 'referenceNumber',
    (data ->> 'totalInvoiceCount')::integer, (data ->> 'successfulInvoiceCount')::integer,
    (data ->> 'failedInvoiceCount')::integer, (data ->> 'upoCount')::integer
FROM public.events;

INSERT INTO versions TABLE watch.versions;

UPDATE run SET
    deadlocks = greatest(run.deadlocks, counted.deadlocks), transactions = counted.transactions
FROM (SELECT sum(deadlocks) AS deadlocks, sum(xact_commit) AS transactions
      FROM pg_stat_database) AS counted;

ANALYZE;
