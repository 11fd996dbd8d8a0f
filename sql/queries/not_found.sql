-- name: get(company_nip, environment, question)^
SELECT code, detail, ksef, extract(epoch FROM until - clock_timestamp())::float8 AS left_for
FROM kept_refusals
WHERE company_nip = :company_nip AND environment = :environment AND question = :question
  AND until > clock_timestamp();

-- name: put(company_nip, environment, question, code, detail, ksef, least, most)$
-- Keeps a 404 for `least` seconds, each further time twice as long, up to `most`; returns for how
-- many seconds. The company's 404s that ended a day ago are deleted, a few at a time.
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
