-- Both lock the rows to be changed first, in the order of their numbers, so that two checks never wait for each
-- other in a ring, and find them again by their place in the table, which costs next to nothing (and by nothing
-- else: with the company beside it, a table without statistics was searched 10,000 times). A row that somebody
-- else changed at the same moment is locked and not written: then fewer were linked than found, and the same
-- statement again, which sees what was changed, links the rest.
-- previous: what `found` rows held before; linked: how many were written, in all.

-- name: link_synced(company_nip, environment, ksef_numbers, duplicates, session_reference_number)
-- ksef_numbers: those that this session holds as accepted, and the originals of its duplicates.
-- duplicates: {original KSeF number: original session}; they only fill what is empty.
WITH found AS MATERIALIZED (
    SELECT ctid, session_reference_number
    FROM synced_invoices
    WHERE company_nip = :company_nip
      AND environment = :environment
      AND ksef_number = ANY (:ksef_numbers)
      AND CASE
          WHEN :duplicates::jsonb ? ksef_number THEN session_reference_number IS NULL
          ELSE session_reference_number IS DISTINCT FROM :session_reference_number
      END
    ORDER BY ksef_number
    FOR NO KEY UPDATE
), linked AS (
    UPDATE synced_invoices
    SET session_reference_number = coalesce(:duplicates::jsonb ->> ksef_number, :session_reference_number),
        linked_at = now()
    WHERE ctid = ANY (ARRAY(SELECT ctid FROM found))
    RETURNING 1
)
SELECT session_reference_number AS previous, count(*) AS found, (SELECT count(*) FROM linked) AS linked
FROM found
GROUP BY previous;

-- name: link_offline(company_nip, environment, reference_numbers, session_reference_number)
-- reference_numbers: the session's own and those of the invoices in it, whatever their status.
WITH found AS MATERIALIZED (
    SELECT ctid, session_reference_number
    FROM offline_invoices
    WHERE company_nip = :company_nip
      AND environment = :environment
      AND ksef_reference_number = ANY (:reference_numbers)
      AND session_reference_number IS DISTINCT FROM :session_reference_number
    ORDER BY id
    FOR NO KEY UPDATE
), linked AS (
    UPDATE offline_invoices
    SET session_reference_number = :session_reference_number, linked_at = now()
    WHERE ctid = ANY (ARRAY(SELECT ctid FROM found))
    RETURNING 1
)
SELECT session_reference_number AS previous, count(*) AS found, (SELECT count(*) FROM linked) AS linked
FROM found
GROUP BY previous;
