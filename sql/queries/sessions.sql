-- name: look(company_nip, environment, reference_number, form, tags, look_every)^
-- What decides how a check of a session is answered. One row always. Planning it takes longer than running it, and each
-- table that is named costs: what is seldom needed is left to statements of its own.
-- is_simulated: `active_simulations` has a simulation for the company.
-- final: null where no answer is kept; age: in seconds. tag: of its body in this form; body: compressed, null for a
-- caller who has it: one of the `tags` is its own, or `*`.
-- unlinked: a row of the company is to be linked to the session. This is what linking would find, and cheaper. Each number
-- is looked up by its key, whatever the planner knows of the tables: joined without statistics, 10,000 numbers take 20 s.
-- BETWEEN and ORDER BY are there for that: without statistics `=` costs the same by any index that begins with the company,
-- while a range of rows seems long, and only the key gives them in order. Other conditions must not make it seem short: where
-- all rows have this session, say, the planner would expect none that differs, and read the whole table for each number. So
-- they are asked of the row found, or stand in CASE or coalesce(), into which it does not see.
-- is_spared: a caller who has the answer of a big session already is spared the look for a while after the last one; null
-- for others, who never are.
SELECT
    EXISTS (
        SELECT FROM outage_simulations
        WHERE environment = :environment
          AND environment <> 'prod'
          AND (company_nip = :company_nip OR company_nip IS NULL)
          AND starts_at <= now()
          AND (ends_at IS NULL OR ends_at > now())
    ) AS is_simulated,
    kept.final,
    CASE WHEN kept.body_form = :form THEN kept.body_tag END AS tag,
    CASE WHEN kept.body_form = :form AND NOT ARRAY[kept.body_tag, '*'] && :tags THEN kept.body END AS body,
    extract(epoch FROM clock_timestamp() - kept.checked_at)::float8 AS age,
    caller.is_spared,
    CASE
        WHEN kept.final IS NULL OR caller.is_spared THEN false
        ELSE EXISTS (
            SELECT FROM (
                SELECT
                    reference_number,
                    status @> '{"code": 200}' AS is_accepted,
                    coalesce(ksef_number, status #>> '{extensions,originalKsefNumber}') AS ksef_number,
                    CASE WHEN status @> '{"code": 440}' THEN status #>> '{extensions,originalSessionReferenceNumber}' END
                        AS original_session,
                    more ->> 'invoiceHash' AS invoice_hash
                FROM kept_invoices
                WHERE company_nip = :company_nip
                  AND environment = :environment
                  AND session_reference_number = :reference_number
                UNION ALL
                SELECT :reference_number, false, NULL, NULL, NULL  -- rows may name the session itself
            ) AS invoice
            WHERE invoice.ksef_number IS NOT NULL AND (
                SELECT CASE
                    WHEN invoice.is_accepted THEN synced.session_reference_number IS DISTINCT FROM :reference_number
                    ELSE synced.session_reference_number IS NULL AND invoice.original_session <> :reference_number
                END
                FROM synced_invoices AS synced
                WHERE (synced.company_nip, synced.environment, synced.ksef_number)
                      BETWEEN (:company_nip, :environment, invoice.ksef_number)
                      AND (:company_nip, :environment, invoice.ksef_number)
                ORDER BY synced.company_nip, synced.environment, synced.ksef_number
                LIMIT 1
            ) OR (
                SELECT true FROM offline_invoices AS offline
                WHERE (offline.ksef_reference_number, offline.company_nip, offline.environment)
                      BETWEEN (invoice.reference_number, :company_nip, :environment)
                      AND (invoice.reference_number, :company_nip, :environment)
                  AND offline.ksef_reference_number IS NOT NULL
                  AND coalesce(offline.session_reference_number, '') <> :reference_number
                ORDER BY offline.ksef_reference_number, offline.company_nip, offline.environment
                LIMIT 1
            ) OR (
                hashed.are_kept AND (
                    SELECT true FROM offline_invoices AS offline
                    WHERE (offline.invoice_hash, offline.company_nip, offline.environment)
                          BETWEEN (invoice.invoice_hash, :company_nip, :environment)
                          AND (invoice.invoice_hash, :company_nip, :environment)
                      AND offline.invoice_hash IS NOT NULL
                      AND CASE
                          WHEN offline.ksef_reference_number IS NOT NULL THEN false
                          WHEN coalesce(offline.ksef_number, '') = '' THEN true
                          ELSE invoice.is_accepted AND offline.ksef_number = invoice.ksef_number
                      END
                      AND CASE
                          WHEN offline.session_reference_number IS NULL THEN true
                          ELSE invoice.is_accepted AND offline.session_reference_number <> :reference_number
                      END
                    ORDER BY offline.invoice_hash, offline.company_nip, offline.environment
                    LIMIT 1
                )
            )
        )
    END AS unlinked
FROM (SELECT) AS always
LEFT JOIN kept_sessions AS kept
    ON kept.company_nip = :company_nip
    AND kept.environment = :environment
    AND kept.reference_number = :reference_number
CROSS JOIN (
    -- Whether anybody names invoices by their hash at all: else each invoice is spared a look. It is the first entry of the
    -- index on hashes; looked for among a company's rows, it would read them all where none has a hash.
    SELECT (
        SELECT true FROM offline_invoices
        WHERE invoice_hash IS NOT NULL
        ORDER BY invoice_hash, company_nip, environment
        LIMIT 1
    ) AS are_kept
) AS hashed
CROSS JOIN LATERAL (
    SELECT CASE
        WHEN kept.body_tag = ANY (:tags) AND (kept.session ->> 'invoiceCount')::integer > 100
            THEN kept.looked_at > clock_timestamp() - make_interval(secs => :look_every)
    END AS is_spared
) AS caller;

-- name: keep_body(company_nip, environment, reference_number, form, tag, body)!
UPDATE kept_sessions SET body = :body, body_form = :form, body_tag = :tag, looked_at = clock_timestamp()
WHERE company_nip = :company_nip
  AND environment = :environment
  AND reference_number = :reference_number
  AND final
  AND body_form IS DISTINCT FROM :form;

-- name: mark_looked(company_nip, environment, reference_number, look_every)!
UPDATE kept_sessions SET looked_at = clock_timestamp()
WHERE company_nip = :company_nip
  AND environment = :environment
  AND reference_number = :reference_number
  AND looked_at < clock_timestamp() - make_interval(secs => :look_every);

-- name: get_session(company_nip, environment, reference_number, asked_since, completed_within)^
-- A session with its invoices, in one statement: between two statements a newer answer could be
-- stored. Ages are by the database's clock, which is the same for every replica.
-- asked_since: no row unless KSeF was asked after that moment; null: any.
-- incomplete: the session was begun within the last `completed_within` seconds, and version 0.1.0 kept some of its
-- invoices: it wrote nothing to `more`.
SELECT
    session::text AS session,
    checked_at,
    asked_at,
    listed_at,
    extract(epoch FROM clock_timestamp() - checked_at)::float8 AS age,
    extract(epoch FROM clock_timestamp() - asked_at)::float8 AS asked_ago,
    extract(epoch FROM clock_timestamp() - changed_at)::float8 AS unchanged_for,
    extract(epoch FROM clock_timestamp() - listed_at)::float8 AS listed_for,
    extract(epoch FROM clock_timestamp() - wanted_at)::float8 AS wanted_ago,
    (session ->> 'dateCreated')::timestamptz > clock_timestamp() - make_interval(secs => :completed_within) AND EXISTS (
        SELECT FROM kept_invoices AS invoice
        WHERE invoice.company_nip = kept.company_nip
          AND invoice.environment = kept.environment
          AND invoice.session_reference_number = kept.reference_number
          AND invoice.more IS NULL
    ) AS incomplete,
    (
        SELECT json_agg(told ORDER BY ordinal_number)::text
        FROM told_invoices
        WHERE told_invoices.company_nip = kept.company_nip
          AND told_invoices.environment = kept.environment
          AND told_invoices.session_reference_number = kept.reference_number
    ) AS invoices
FROM kept_sessions AS kept
WHERE company_nip = :company_nip
  AND environment = :environment
  AND reference_number = :reference_number
  AND (:asked_since::timestamptz IS NULL OR asked_at > :asked_since::timestamptz);

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

-- name: get_link(company_nip, environment, reference_number, name)^
-- The sealed download link of an invoice by its KSeF number, and those of the session's pages.
SELECT
    (
        SELECT link
        FROM kept_invoices
        WHERE company_nip = :company_nip
          AND environment = :environment
          AND session_reference_number = :reference_number
          AND ksef_number = :name
          AND link IS NOT NULL
        LIMIT 1
    ) AS link,
    links,
    clock_timestamp() AS now
FROM kept_sessions
WHERE company_nip = :company_nip
  AND environment = :environment
  AND reference_number = :reference_number;

-- name: put_session(company_nip, environment, reference_number, question, session, links, final, checked_at, is_known, completes, changed, listed, invoices, invoice_links, gone)$
-- Stores an answer with its invoices, unless a newer or final one is stored. Newer: its content is. An answer that was on
-- its way while the older one was confirmed replaces it.
-- is_known: it is the next one to an answer that was loaded; nothing is stored where that was purged meanwhile.
-- completes: it is the stored final answer itself, with more of its invoices.
-- Version 0.1.0 stored every "unknown error" (500) as final, though some end well: newer answers replace those, too.
-- Returns how many sessions were stored: one or none.
-- changed, listed: whether it differs from the stored one, and whether its invoices were listed.
-- invoices: those that are new or differ, as a JSON list, as KSeF told them; invoice_links: the sealed download link of
-- each in Base64, or null, as a JSON list (10,000 bytea are four times as much work for us); gone: those that KSeF's list does not hold any more. What has no column of its own stands in `more`.
-- A 404 that is remembered for the question is forgotten.
WITH forgotten AS (
    DELETE FROM kept_refusals
    WHERE company_nip = :company_nip AND environment = :environment AND question = :question
), stored AS (
    INSERT INTO kept_sessions AS kept (
        company_nip, environment, reference_number,
        session, links, final, checked_at, asked_at, changed_at, listed_at
    )
    SELECT
        :company_nip, :environment, :reference_number,
        :session::jsonb, :links, :final, :checked_at, :checked_at, :checked_at,
        CASE WHEN :listed THEN :checked_at::timestamptz END
    WHERE NOT :is_known OR EXISTS (
        SELECT FROM kept_sessions
        WHERE company_nip = :company_nip
          AND environment = :environment
          AND reference_number = :reference_number
    )
    ON CONFLICT (company_nip, environment, reference_number) DO UPDATE SET
        session = excluded.session,
        links = coalesce(excluded.links, kept.links),
        final = excluded.final,
        checked_at = greatest(kept.checked_at, excluded.checked_at),
        asked_at = greatest(kept.asked_at, excluded.asked_at),
        changed_at = CASE WHEN :changed THEN excluded.checked_at ELSE kept.changed_at END,
        listed_at = coalesce(excluded.listed_at, kept.listed_at)
    WHERE kept.changed_at <= excluded.checked_at
      AND (
          NOT kept.final
          OR kept.session #>> '{status,code}' = '500'
          OR (:completes AND kept.checked_at = excluded.checked_at)
      )
    RETURNING kept.reference_number
), dropped AS (
    DELETE FROM kept_invoices AS invoice USING stored
    WHERE invoice.company_nip = :company_nip
      AND invoice.environment = :environment
      AND invoice.session_reference_number = stored.reference_number
      AND invoice.reference_number = ANY (:gone)
), written AS (
    INSERT INTO kept_invoices AS kept (
        company_nip, environment, session_reference_number,
        reference_number, ordinal_number, invoice_number, ksef_number, acquisition_date, status, more, link
    )
    SELECT
        :company_nip, :environment, stored.reference_number,
        told ->> 'referenceNumber',
        (told ->> 'ordinalNumber')::integer,
        told ->> 'invoiceNumber',
        told ->> 'ksefNumber',
        (told ->> 'acquisitionDate')::timestamptz,
        told -> 'status',
        told - ARRAY['referenceNumber', 'ordinalNumber', 'invoiceNumber', 'ksefNumber', 'acquisitionDate', 'status'],
        decode(link, 'base64')
    FROM stored
    CROSS JOIN ROWS FROM (
        jsonb_array_elements(:invoices::jsonb), jsonb_array_elements_text(:invoice_links::jsonb)
    ) AS given (told, link)
    ON CONFLICT (company_nip, environment, session_reference_number, reference_number) DO UPDATE SET
        ordinal_number = excluded.ordinal_number,
        invoice_number = excluded.invoice_number,
        ksef_number = excluded.ksef_number,
        acquisition_date = excluded.acquisition_date,
        status = excluded.status,
        more = excluded.more,
        link = coalesce(excluded.link, kept.link)
)
SELECT count(*) FROM stored;

-- name: stale_moving(company_nip, environment, seconds, wanted)
-- Sessions that are not final and about which KSeF has not been asked for so many seconds, if a caller has
-- asked for them within the last `wanted` seconds. (An index finds those that changed within a week: no session waits
-- longer for its next change, though KSeF may fall days behind.)
SELECT reference_number, session::text AS session
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
