-- name: note(who, what, company_nip, environment, detail, request_id, address)!
INSERT INTO audit (who, what, company_nip, environment, detail, request_id, address)
VALUES (:who, :what, :company_nip, :environment, :detail, :request_id, :address);

-- name: newest(nip, what, since, most)
-- A null nip, what or since does not filter.
SELECT at, who, what, company_nip, environment::text, detail, request_id, address
FROM audit
WHERE (:nip::text IS NULL OR company_nip = :nip)
  AND (:what::text IS NULL OR what = :what)
  AND at >= coalesce(:since::timestamptz, '-infinity')
ORDER BY at DESC
LIMIT :most;

-- name: purge(days, batch)!
-- The service's role has no right to do this.
DELETE FROM audit
WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM audit WHERE at < now() - make_interval(days => :days) ORDER BY at LIMIT :batch
));
