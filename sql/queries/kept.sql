-- name: get_session(company_nip, environment, reference_number)^
-- A session with its invoices, in one statement: between two statements a newer answer could be
-- stored. Ages are by the database's clock, which is the same for every replica.
-- linked: linking would write nothing. This check is cheaper than linking itself. Null for a session of more than a
-- hundred invoices: `is_linked` tells.
SELECT
    session,
    checked_at,
    listed_at,
    extract(epoch FROM clock_timestamp() - checked_at)::float8 AS age,
    extract(epoch FROM clock_timestamp() - asked_at)::float8 AS asked_ago,
    extract(epoch FROM clock_timestamp() - changed_at)::float8 AS unchanged_for,
    extract(epoch FROM clock_timestamp() - listed_at)::float8 AS listed_for,
    extract(epoch FROM clock_timestamp() - wanted_at)::float8 AS wanted_ago,
    told.invoices,
    CASE WHEN told.number_of_invoices <= 100 THEN
        NOT EXISTS (
            SELECT FROM synced_invoices AS synced
            WHERE synced.company_nip = kept.company_nip
              AND synced.environment = kept.environment
              AND synced.ksef_number = ANY (told.accepted || told.originals)
              AND synced.session_reference_number IS DISTINCT FROM kept.reference_number
              AND (
                  synced.session_reference_number IS NULL
                  OR synced.ksef_number = ANY (told.accepted)
              )
        ) AND NOT EXISTS (
            SELECT FROM offline_invoices AS offline
            WHERE offline.company_nip = kept.company_nip
              AND offline.environment = kept.environment
              AND offline.ksef_reference_number = ANY (kept.reference_number || told.reference_numbers)
              AND offline.session_reference_number IS DISTINCT FROM kept.reference_number
        )
    END AS linked
FROM kept_sessions AS kept
CROSS JOIN LATERAL (
    SELECT
        count(*) AS number_of_invoices,
        json_agg(
            json_build_array(
                invoice.ordinal_number,
                invoice.reference_number,
                invoice.invoice_number,
                invoice.ksef_number,
                invoice.acquisition_date,
                invoice.status
            )
            ORDER BY invoice.ordinal_number
        )::text AS invoices,
        array_agg(invoice.ksef_number) FILTER (WHERE invoice.status @> '{"code": 200}') AS accepted,
        array_agg(invoice.status #>> '{extensions,originalKsefNumber}')
            FILTER (WHERE invoice.status ? 'extensions') AS originals,
        array_agg(invoice.reference_number) AS reference_numbers
    FROM kept_invoices AS invoice
    WHERE invoice.company_nip = kept.company_nip
      AND invoice.environment = kept.environment
      AND invoice.session_reference_number = kept.reference_number
) AS told
WHERE company_nip = :company_nip
  AND environment = :environment
  AND reference_number = :reference_number;

-- name: is_linked(company_nip, environment, reference_number, accepted, originals, reference_numbers)$
-- `linked` of get_session, with the numbers as values. Before the tables have statistics the planner may read all rows
-- of the company: it then looks each of them up in a hash of the values, where it would compare it with every number
-- that a subquery gives (300,000 rows, 10,000 numbers: 0.1 s, and more than 20 s).
SELECT NOT EXISTS (
    SELECT FROM synced_invoices
    WHERE company_nip = :company_nip
      AND environment = :environment
      AND ksef_number = ANY (:accepted::text[])
      AND session_reference_number IS DISTINCT FROM :reference_number
) AND NOT EXISTS (
    SELECT FROM synced_invoices
    WHERE company_nip = :company_nip
      AND environment = :environment
      AND ksef_number = ANY (:originals::text[])
      AND session_reference_number IS NULL
) AND NOT EXISTS (
    SELECT FROM offline_invoices
    WHERE company_nip = :company_nip
      AND environment = :environment
      AND ksef_reference_number = ANY (:reference_number::text || :reference_numbers::text[])
      AND session_reference_number IS DISTINCT FROM :reference_number
);

-- name: mark_asked(company_nip, environment, reference_number, asked_at, listed)!
-- KSeF was asked without a new answer: the kept one counts as fresh again for a while.
UPDATE kept_sessions
SET asked_at = greatest(asked_at, :asked_at),
    listed_at = CASE WHEN :listed THEN greatest(listed_at, :asked_at) ELSE listed_at END
WHERE company_nip = :company_nip
  AND environment = :environment
  AND reference_number = :reference_number;

-- name: mark_wanted(company_nip, environment, reference_number)!
UPDATE kept_sessions SET wanted_at = now()
WHERE company_nip = :company_nip
  AND environment = :environment
  AND reference_number = :reference_number;

-- name: get_links(company_nip, environment, reference_number)$
SELECT links
FROM kept_sessions
WHERE company_nip = :company_nip
  AND environment = :environment
  AND reference_number = :reference_number;

-- name: database_now()$
SELECT clock_timestamp();

-- name: put_session(company_nip, environment, reference_number, session, links, final, checked_at, changed, listed)$
-- Stores an answer, unless a newer or final one is stored: then no row. Else whether it is the first.
-- Newer: its content is. An answer that was on its way while the older one was confirmed replaces it.
-- changed, listed: whether it differs from the stored one, and whether its invoices were listed.
INSERT INTO kept_sessions AS kept (
    company_nip, environment, reference_number,
    session, links, final, checked_at, asked_at, changed_at, listed_at
)
VALUES (
    :company_nip, :environment, :reference_number,
    :session::jsonb, :links, :final, :checked_at, :checked_at, :checked_at,
    CASE WHEN :listed THEN :checked_at::timestamptz END
)
ON CONFLICT (company_nip, environment, reference_number) DO UPDATE SET
    session = excluded.session,
    links = coalesce(excluded.links, kept.links),
    final = excluded.final,
    checked_at = greatest(kept.checked_at, excluded.checked_at),
    asked_at = greatest(kept.asked_at, excluded.asked_at),
    changed_at = CASE WHEN :changed THEN excluded.checked_at ELSE kept.changed_at END,
    listed_at = coalesce(excluded.listed_at, kept.listed_at)
WHERE kept.changed_at <= excluded.checked_at AND NOT kept.final
RETURNING kept.xmax = 0;

-- name: put_invoices(company_nip, environment, session_reference_number, reference_numbers, ordinal_numbers, invoice_numbers, ksef_numbers, acquisition_dates, statuses)!
INSERT INTO kept_invoices AS kept (
    company_nip, environment, session_reference_number,
    reference_number, ordinal_number, invoice_number, ksef_number, acquisition_date, status
)
SELECT
    :company_nip, :environment, :session_reference_number,
    reference_number, ordinal_number, invoice_number, ksef_number, acquisition_date, status
FROM unnest(
    :reference_numbers::text[],
    :ordinal_numbers::integer[],
    :invoice_numbers::text[],
    :ksef_numbers::text[],
    :acquisition_dates::timestamptz[],
    :statuses::jsonb[]
) AS told (reference_number, ordinal_number, invoice_number, ksef_number, acquisition_date, status)
ON CONFLICT (company_nip, environment, session_reference_number, reference_number) DO UPDATE SET
    ordinal_number = excluded.ordinal_number,
    invoice_number = excluded.invoice_number,
    ksef_number = excluded.ksef_number,
    acquisition_date = excluded.acquisition_date,
    status = excluded.status;

-- name: drop_invoices(company_nip, environment, reference_number, reference_numbers)!
-- Deletes kept invoices that KSeF's list of the session does not hold any more.
DELETE FROM kept_invoices
WHERE company_nip = :company_nip
  AND environment = :environment
  AND session_reference_number = :reference_number
  AND reference_number = ANY (:reference_numbers);

-- name: stale_moving(company_nip, environment, seconds, wanted)
-- Sessions that are not final and about which KSeF has not been asked for so many seconds, if a caller has
-- asked for them within the last `wanted` seconds. (An index finds those that changed within a week: no session waits
-- longer for its next change, though KSeF may fall days behind.)
SELECT reference_number, session
FROM kept_sessions
WHERE company_nip = :company_nip
  AND environment = :environment
  AND NOT final
  AND asked_at < clock_timestamp() - make_interval(secs => :seconds)
  AND wanted_at > clock_timestamp() - make_interval(secs => :wanted)
  AND changed_at > statement_timestamp() - interval '7 days';

-- name: confirm_sessions(company_nip, environment, reference_numbers, sessions, checked_at)!
-- Of these sessions, those that are the same as the kept ones become fresh again; but only where the kept invoices
-- fit the counts, since an incomplete list would look fresh for as long as the counts stay the same.
-- KSeF leaves counts out in one of its answers that are 0 in the other.
UPDATE kept_sessions AS kept
SET checked_at = :checked_at, asked_at = :checked_at
FROM unnest(:reference_numbers::text[], :sessions::jsonb[]) AS told (reference_number, session)
WHERE kept.company_nip = :company_nip
  AND kept.environment = :environment
  AND kept.reference_number = told.reference_number
  AND kept.checked_at < :checked_at
  AND kept.session - ARRAY['invoiceCount', 'successfulInvoiceCount', 'failedInvoiceCount']
      = told.session - ARRAY['invoiceCount', 'successfulInvoiceCount', 'failedInvoiceCount']
  AND coalesce(kept.session ->> 'invoiceCount', '0') = coalesce(told.session ->> 'invoiceCount', '0')
  AND coalesce(kept.session ->> 'successfulInvoiceCount', '0')
      = coalesce(told.session ->> 'successfulInvoiceCount', '0')
  AND coalesce(kept.session ->> 'failedInvoiceCount', '0')
      = coalesce(told.session ->> 'failedInvoiceCount', '0')
  AND NOT kept.final
  AND (
      SELECT count(*) = coalesce((kept.session ->> 'invoiceCount')::bigint, 0)
          AND count(*) FILTER (WHERE invoice.status @> '{"code": 200}')
              = coalesce((kept.session ->> 'successfulInvoiceCount')::bigint, 0)
      FROM kept_invoices AS invoice
      WHERE invoice.company_nip = kept.company_nip
        AND invoice.environment = kept.environment
        AND invoice.session_reference_number = kept.reference_number
  );

-- name: get_refusal(company_nip, environment, question)^
SELECT code, detail, ksef, extract(epoch FROM until - clock_timestamp())::float8 AS left_for
FROM kept_refusals
WHERE company_nip = :company_nip AND environment = :environment AND question = :question
  AND until > clock_timestamp();

-- name: put_refusal(company_nip, environment, question, code, detail, ksef, least, most)$
-- Keeps a refusal for `least` seconds, each further time twice as long, up to `most`; returns for how
-- many seconds. The company's refusals that ended a day ago are deleted, a few at a time.
WITH forgotten AS (
    DELETE FROM kept_refusals
    WHERE ctid = ANY (ARRAY(
        SELECT ctid
        FROM kept_refusals
        WHERE company_nip = :company_nip
          AND environment = :environment
          AND question <> :question
          AND until < clock_timestamp() - interval '1 day'
        LIMIT 100
    ))
)
INSERT INTO kept_refusals AS kept (company_nip, environment, question, code, detail, ksef, until)
VALUES (
    :company_nip, :environment, :question, :code, :detail, :ksef::jsonb,
    clock_timestamp() + make_interval(secs => :least)
)
ON CONFLICT (company_nip, environment, question) DO UPDATE SET
    code = excluded.code,
    detail = excluded.detail,
    ksef = excluded.ksef,
    times = kept.times + 1,
    until = clock_timestamp()
        + make_interval(secs => least(:most, :least * 2 ^ least(kept.times, 10)))
RETURNING extract(epoch FROM until - clock_timestamp())::float8;

-- name: forget_refusal(company_nip, environment, question)!
DELETE FROM kept_refusals
WHERE company_nip = :company_nip AND environment = :environment AND question = :question;

-- name: find_invoices(company_nip, environment, ksef_number, invoice_number)
-- Kept answers that hold an invoice, by one of its numbers; the other one is null.
SELECT
    invoice.session_reference_number,
    invoice.reference_number,
    invoice.ordinal_number,
    invoice.invoice_number,
    invoice.ksef_number,
    invoice.acquisition_date,
    invoice.status,
    kept.final,
    kept.checked_at,
    EXISTS (
        SELECT FROM upos
        WHERE upos.company_nip = invoice.company_nip
          AND upos.environment = invoice.environment
          AND upos.session_reference_number = invoice.session_reference_number
          AND upos.ksef_number = invoice.ksef_number
    ) AS upo_archived
FROM kept_invoices AS invoice
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
