-- name: get(company_nip, environment, question)^
SELECT code, detail, ksef, may_come, extract(epoch FROM until - clock_timestamp())::float8 AS left_for
FROM kept_refusals
WHERE company_nip = :company_nip AND environment = :environment AND question = :question
  AND until > clock_timestamp();

-- name: put(company_nip, environment, question, code, detail, ksef, may_come, dated, least, most)^
-- Keeps a 404 for `least` seconds, each further time twice as long, up to `most`; returns for how
-- many seconds, and whether it may still come to be known.
-- may_come: for certain or not; null: if the date of its number, `dated`, is today or yesterday in Poland. The company's 404s that ended a day ago are deleted, a few at a time.
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
INSERT INTO kept_refusals AS kept (company_nip, environment, question, code, detail, ksef, may_come, until)
VALUES (
    :company_nip, :environment, :question, :code, :detail, :ksef::jsonb,
    coalesce(
        :may_come,
        :dated::date - (clock_timestamp() AT TIME ZONE 'Europe/Warsaw')::date BETWEEN -1 AND 1,
        false
    ),
    clock_timestamp() + make_interval(secs => :least)
)
ON CONFLICT (company_nip, environment, question) DO UPDATE SET
    code = excluded.code,
    detail = excluded.detail,
    ksef = excluded.ksef,
    may_come = excluded.may_come,
    times = kept.times + 1,
    until = clock_timestamp()
        + make_interval(secs => least(:most, :least * 2 ^ least(kept.times, 10)))
RETURNING extract(epoch FROM until - clock_timestamp())::float8 AS left_for, may_come;
