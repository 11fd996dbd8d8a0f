-- Each table takes two statements: the first locks the rows to be changed, in the order of their numbers, so that
-- two checks never wait for each other in a ring; the second finds them by their place in the table, which costs
-- little. In one statement, a row that somebody else had just changed would be locked and then not found.

-- name: lock_synced(company_nip, environment, ksef_numbers, duplicates, session_reference_number)
-- ksef_numbers: those that this session holds as accepted, and the originals of its duplicates.
-- duplicates: {original KSeF number: original session}; they only fill what is empty.
SELECT ctid AS place, session_reference_number AS previous
FROM synced_invoices
WHERE company_nip = :company_nip
  AND environment = :environment
  AND ksef_number = ANY (:ksef_numbers)
  AND CASE
      WHEN :duplicates::jsonb ? ksef_number THEN session_reference_number IS NULL
      ELSE session_reference_number IS DISTINCT FROM :session_reference_number
  END
ORDER BY ksef_number
FOR NO KEY UPDATE;

-- name: link_synced(company_nip, environment, places, duplicates, session_reference_number)!
-- places: those of the locked rows.
UPDATE synced_invoices
SET session_reference_number = coalesce(:duplicates::jsonb ->> ksef_number, :session_reference_number),
    linked_at = now()
WHERE company_nip = :company_nip
  AND environment = :environment
  AND ctid = ANY (:places::tid[]);

-- name: lock_offline(company_nip, environment, reference_numbers, session_reference_number)
-- reference_numbers: the session's own and those of the invoices in it, whatever their status.
SELECT ctid AS place, session_reference_number AS previous
FROM offline_invoices
WHERE company_nip = :company_nip
  AND environment = :environment
  AND ksef_reference_number = ANY (:reference_numbers)
  AND session_reference_number IS DISTINCT FROM :session_reference_number
ORDER BY id
FOR NO KEY UPDATE;

-- name: link_offline(company_nip, environment, places, session_reference_number)!
-- places: those of the locked rows.
UPDATE offline_invoices
SET session_reference_number = :session_reference_number, linked_at = now()
WHERE company_nip = :company_nip
  AND environment = :environment
  AND ctid = ANY (:places::tid[]);
