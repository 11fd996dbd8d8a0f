-- name: accounts()
-- Logged in companies with something to do, the one that waits longest first.
SELECT company_nip, environment::text
FROM ksef_sessions
LEFT JOIN followed USING (company_nip, environment)
LEFT JOIN LATERAL (
    SELECT min(due_at) AS due_at
    FROM followed_sessions AS session
    WHERE session.company_nip = ksef_sessions.company_nip
      AND session.environment = ksef_sessions.environment
      AND session.due_at IS NOT NULL
) AS earliest ON true
WHERE list_at IS NULL
   OR (rests_until <= statement_timestamp() AND least(list_at, earliest.due_at) <= statement_timestamp())
ORDER BY greatest(rests_until, least(list_at, earliest.due_at)) NULLS FIRST, company_nip, environment;

-- name: begin(company_nip, environment, seconds)!
-- From `seconds` ago on. Nothing without a KSeF session, which cannot go before this is committed: with it goes the company.
INSERT INTO followed (company_nip, environment, known_since, listed_until, list_at)
SELECT company_nip, environment, moment, moment, clock_timestamp()
FROM ksef_sessions, LATERAL (SELECT clock_timestamp() - make_interval(secs => :seconds)) AS ago (moment)
WHERE company_nip = :company_nip AND environment = :environment
FOR KEY SHARE OF ksef_sessions
ON CONFLICT DO NOTHING;

-- name: begin_anew(company_nip, environment, host, seconds, always)!
-- From `seconds` ago on, where the lists are shown by another KSeF or to another credential than before, or always: they may
-- show more than they did. Who is logged in with an older credential is known when its next login is. What was known before
-- is not, nor is anything until it is listed.
UPDATE followed SET
    known_since = greatest(known_since, moment),
    known_until = least(known_until, greatest(known_since, moment)),
    listed_until = moment,
    list_at = clock_timestamp(),
    shown_by = coalesce(login.shown_by, followed.shown_by)
FROM (
    SELECT
        clock_timestamp() - make_interval(secs => :seconds) AS moment,
        (
            SELECT :host || ' ' || extract(epoch FROM updated_at)
            FROM ksef_sessions
            JOIN ksef_credentials USING (company_nip, environment)
            WHERE company_nip = :company_nip AND environment = :environment AND authenticated_at >= updated_at
        ) AS shown_by
) AS login
WHERE company_nip = :company_nip
  AND environment = :environment
  AND (:always OR login.shown_by IS NOT NULL AND login.shown_by IS DISTINCT FROM followed.shown_by);

-- name: get(company_nip, environment)^
SELECT
    known_since, known_until, listed_until, failures,
    list_at <= clock_timestamp() AS list_is_due,
    rests_until > clock_timestamp() AS rests
FROM followed
WHERE company_nip = :company_nip AND environment = :environment;

-- name: hold(company_nip, environment)!
-- Until this transaction ends, nobody else moves listed_until or known_until.
SELECT FROM followed WHERE company_nip = :company_nip AND environment = :environment FOR UPDATE;

-- name: newest(company_nip, environment, found_by, until)
-- When the newest session of each type was begun, of those that the lists had shown by then, and that were begun by `until`.
SELECT substr(reference_number, 9, 4) AS mark, max(date_created) AS date_created
FROM followed_sessions
WHERE company_nip = :company_nip
  AND environment = :environment
  AND found_at <= :found_by
  AND date_created <= :until
  AND (due_at IS NOT NULL OR final_at IS NOT NULL)
GROUP BY mark;

-- name: hidden(company_nip, environment, marks, starts, found_by, until, listed)
-- Sessions that the lists had shown by then, and do not show now: those of each type that were begun between its start and
-- `until`.
SELECT reference_number
FROM followed_sessions
JOIN unnest(:marks::text[], :starts::timestamptz[]) AS type (mark, start)
    ON substr(reference_number, 9, 4) = mark AND date_created > start
WHERE company_nip = :company_nip
  AND environment = :environment
  AND found_at <= :found_by
  AND date_created <= :until
  AND (due_at IS NOT NULL OR final_at IS NOT NULL)
EXCEPT
SELECT unnest(:listed::text[]);

-- name: lose(company_nip, environment, reference_numbers)!
-- KSeF knows them no more: what became of their invoices, nobody knows.
UPDATE followed_sessions SET due_at = NULL, final_at = NULL, archived_at = NULL
WHERE company_nip = :company_nip AND environment = :environment AND reference_number = ANY (:reference_numbers);

-- name: distrust(company_nip, environment)!
-- Up to now the lists may not have shown everything.
UPDATE followed SET known_since = clock_timestamp() WHERE company_nip = :company_nip AND environment = :environment;

-- name: missed(company_nip, environment, reference_numbers, created, before)$
-- Whether one of these sessions is new, though it was begun so early that a list should have shown it. (Those that were
-- finished are forgotten after 30 days.)
SELECT EXISTS (
    SELECT reference_number
    FROM unnest(:reference_numbers::text[], :created::timestamptz[]) AS listed (reference_number, date_created)
    JOIN followed ON date_created BETWEEN greatest(known_since, statement_timestamp() - interval '29 days') AND :before
    WHERE company_nip = :company_nip AND environment = :environment
    EXCEPT
    SELECT reference_number
    FROM followed_sessions
    WHERE company_nip = :company_nip AND environment = :environment AND reference_number = ANY (:reference_numbers)
);

-- name: find(company_nip, environment, reference_numbers, created, told, found_at)!
-- Sessions that KSeF lists: new ones, those of which it says something new, and those that it did not show any more. What
-- failed before keeps its pause.
INSERT INTO followed_sessions AS known (company_nip, environment, reference_number, date_created, told, found_at, due_at)
SELECT :company_nip, :environment, reference_number, date_created, told, :found_at, :found_at
FROM unnest(:reference_numbers::text[], :created::timestamptz[], :told::jsonb[])
    AS listed (reference_number, date_created, told)
ON CONFLICT (company_nip, environment, reference_number) DO UPDATE SET
    told = excluded.told,
    found_at = excluded.found_at,
    due_at = CASE WHEN known.failures > 0 THEN coalesce(known.due_at, excluded.found_at) ELSE excluded.found_at END
WHERE known.final_at IS NULL AND (known.told <> excluded.told OR known.due_at IS NULL);

-- name: listed(company_nip, environment, before, listed_until, seconds)!
-- KSeF has listed everything from `before` up to then; it is asked again in so many seconds. Nothing where that was moved
-- meanwhile.
UPDATE followed SET
    listed_until = greatest(listed_until, :listed_until),
    list_at = clock_timestamp() + make_interval(secs => :seconds)
WHERE company_nip = :company_nip AND environment = :environment AND listed_until = :before;

-- name: list_later(company_nip, environment, seconds)!
UPDATE followed SET list_at = clock_timestamp() + make_interval(secs => :seconds)
WHERE company_nip = :company_nip AND environment = :environment;

-- name: rest(company_nip, environment, seconds, failures)!
UPDATE followed SET rests_until = clock_timestamp() + make_interval(secs => :seconds), failures = :failures
WHERE company_nip = :company_nip AND environment = :environment;

-- name: advance(company_nip, environment, overlap)!
-- known_until moves up to listed_until, or to `overlap` seconds before the oldest session that is not read; only forward. One
-- that could not be read for a week does not hold it for ever.
UPDATE followed SET known_until = bound
FROM (
    SELECT least(
        (SELECT listed_until FROM followed WHERE company_nip = :company_nip AND environment = :environment),
        (
            SELECT min(date_created) - make_interval(secs => :overlap)
            FROM followed_sessions
            WHERE company_nip = :company_nip
              AND environment = :environment
              AND due_at IS NOT NULL
              AND final_at IS NULL
              AND (read_at IS NULL OR read_at < found_at)
              AND date_created > clock_timestamp() - interval '7 days'
        )
    ) AS bound
) AS reached
WHERE company_nip = :company_nip
  AND environment = :environment
  AND bound > greatest(known_until, known_since);

-- name: moves(company_nip, environment)$
-- Whether any session found is not final.
SELECT EXISTS (
    SELECT FROM followed_sessions
    WHERE company_nip = :company_nip AND environment = :environment AND due_at IS NOT NULL AND final_at IS NULL
);

-- name: due(company_nip, environment, moment, batch)
-- Sessions that were due at a moment: those to be read before those whose UPOs are to be archived, the oldest first. Those
-- that failed come last: a failure may end the company's turn, and many would leave none to the others.
SELECT
    reference_number, found_at, read_at, failures,
    final_at IS NOT NULL AS is_final,
    coalesce((told ->> 'invoiceCount')::integer, 0) AS invoice_count
FROM followed_sessions
WHERE company_nip = :company_nip AND environment = :environment AND due_at <= :moment
ORDER BY failures > 0, final_at IS NOT NULL, date_created, reference_number
LIMIT :batch;

-- name: put_off(company_nip, environment, reference_number, seconds, failures)!
-- The next step had to wait, or failed: from then on a session that is not final counts as moving.
UPDATE followed_sessions SET
    due_at = clock_timestamp() + make_interval(secs => :seconds),
    failures = :failures,
    moving_since = CASE
        WHEN final_at IS NULL AND :failures > 0 THEN coalesce(moving_since, clock_timestamp()) ELSE moving_since
    END
WHERE company_nip = :company_nip AND environment = :environment AND reference_number = :reference_number;

-- name: read(company_nip, environment, reference_number, read_at, open, least, most, factor)!
-- KSeF gave an answer that is not final. read_at: null where its list is not whole. The pause grows with the time for which
-- the list has said nothing new.
UPDATE followed_sessions SET
    read_at = greatest(read_at, :read_at),
    failures = 0,
    moving_since = CASE WHEN :open THEN NULL ELSE coalesce(moving_since, clock_timestamp()) END,
    due_at = clock_timestamp() + :factor * least(
        make_interval(secs => :most), greatest(make_interval(secs => :least), (clock_timestamp() - found_at) / 4)
    )
WHERE company_nip = :company_nip AND environment = :environment AND reference_number = :reference_number
  AND final_at IS NULL;

-- name: finish(company_nip, environment, reference_number)!
-- Its final answer is kept. It stays due, for its UPOs.
UPDATE followed_sessions SET final_at = clock_timestamp(), failures = 0
WHERE company_nip = :company_nip AND environment = :environment AND reference_number = :reference_number
  AND final_at IS NULL;

-- name: note_archived(company_nip, environment, reference_number)!
-- How many: one, or none where that was noted before.
UPDATE followed_sessions SET archived_at = clock_timestamp(), due_at = NULL
WHERE company_nip = :company_nip AND environment = :environment AND reference_number = :reference_number
  AND archived_at IS NULL;

-- name: give_up(company_nip, environment, reference_number)!
-- KSeF does not list it any more: there is nothing left to do. It stays, since nobody knows what became of its invoices.
UPDATE followed_sessions SET due_at = NULL
WHERE company_nip = :company_nip AND environment = :environment AND reference_number = :reference_number
  AND final_at IS NULL;

-- name: mark_stuck(company_nip, environment, times, least)
-- Sessions that have moved for `times` the company's usual time, and at least `least` seconds; each is told once.
UPDATE followed_sessions SET stuck_at = clock_timestamp()
WHERE company_nip = :company_nip
  AND environment = :environment
  AND due_at IS NOT NULL
  AND final_at IS NULL
  AND stuck_at IS NULL
  AND moving_since < clock_timestamp() - greatest(
      make_interval(secs => :least),
      :times * (
          SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY final_at - moving_since)
          FROM (
              SELECT final_at, moving_since
              FROM followed_sessions
              WHERE company_nip = :company_nip AND environment = :environment AND final_at IS NOT NULL
              ORDER BY final_at DESC
              LIMIT 100
          ) AS latest
      )
  )
RETURNING reference_number, moving_since;

-- name: forget(company_nip, environment, batch)!
-- What was finished long ago; its answer and its UPOs stay.
DELETE FROM followed_sessions
WHERE ctid = ANY (ARRAY(
    SELECT ctid
    FROM followed_sessions
    WHERE company_nip = :company_nip
      AND environment = :environment
      AND final_at < statement_timestamp() - interval '30 days'
      AND archived_at IS NOT NULL
    LIMIT :batch
));

-- name: late_rows(company_nip, environment, newest)
-- Final sessions to which one of the newest rows belongs that is not linked: it was written after they were read. Each
-- number is looked up by its key, as the next one in its order, since without statistics any index that begins with the
-- company is else as good to the planner; and the newest rows are found by the index on their time. (As in queries/events.sql.)
SELECT reference_number
FROM (
    SELECT (
        SELECT CASE
            WHEN (invoice.company_nip, invoice.environment, invoice.ksef_number)
                = (:company_nip, :environment, synced.ksef_number)
            AND invoice.status @> '{"code": 200}' THEN invoice.session_reference_number
        END
        FROM kept_invoices AS invoice
        WHERE (invoice.company_nip, invoice.environment, invoice.ksef_number)
            >= (:company_nip, :environment, synced.ksef_number)
        ORDER BY invoice.company_nip, invoice.environment, invoice.ksef_number
        LIMIT 1
    ) AS reference_number
    FROM (
        SELECT ksef_number, session_reference_number
        FROM synced_invoices
        WHERE (company_nip, environment) BETWEEN (:company_nip, :environment) AND (:company_nip, :environment)
        ORDER BY company_nip DESC, environment DESC, created_at DESC
        LIMIT :newest
    ) AS synced
    WHERE session_reference_number IS NULL
    UNION
    SELECT coalesce((
        SELECT invoice.session_reference_number
        FROM kept_invoices AS invoice
        WHERE (invoice.reference_number, invoice.company_nip, invoice.environment)
            BETWEEN (offline.ksef_reference_number, :company_nip, :environment)
            AND (offline.ksef_reference_number, :company_nip, :environment)
        ORDER BY invoice.reference_number, invoice.company_nip, invoice.environment
        LIMIT 1
    ), ksef_reference_number)
    FROM (
        SELECT ksef_reference_number, session_reference_number
        FROM offline_invoices
        WHERE (company_nip, environment) BETWEEN (:company_nip, :environment) AND (:company_nip, :environment)
        ORDER BY company_nip DESC, environment DESC, created_at DESC
        LIMIT :newest
    ) AS offline
    WHERE session_reference_number IS NULL
    UNION
    SELECT (
        SELECT invoice.session_reference_number
        FROM kept_invoices AS invoice
        WHERE (invoice.more ->> 'invoiceHash', invoice.company_nip, invoice.environment)
            BETWEEN (hashed.invoice_hash, :company_nip, :environment)
            AND (hashed.invoice_hash, :company_nip, :environment)
        ORDER BY invoice.status @> '{"code": 200}' DESC
        LIMIT 1
    )
    FROM (
        SELECT DISTINCT invoice_hash  -- of one file in many rows the answers are looked for once
        FROM (
            SELECT invoice_hash, ksef_reference_number, session_reference_number
            FROM offline_invoices
            WHERE (company_nip, environment) BETWEEN (:company_nip, :environment) AND (:company_nip, :environment)
            ORDER BY company_nip DESC, environment DESC, created_at DESC
            LIMIT :newest
        ) AS newest_rows
        WHERE session_reference_number IS NULL AND ksef_reference_number IS NULL AND invoice_hash IS NOT NULL
    ) AS hashed
) AS found
WHERE (
    SELECT
        final
        AND (company_nip, environment, kept_sessions.reference_number)
            = (:company_nip, :environment, found.reference_number)
    FROM kept_sessions
    WHERE (company_nip, environment, kept_sessions.reference_number)
        >= (:company_nip, :environment, found.reference_number)
    ORDER BY company_nip, environment, kept_sessions.reference_number
    LIMIT 1
);
