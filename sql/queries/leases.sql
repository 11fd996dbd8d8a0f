-- name: take_lease(name, holder, seconds)$
-- The holder, where the lease was free, had run out or is the holder's already; no row where somebody else has it.
INSERT INTO leases (name, holder, expires_at)
VALUES (:name, :holder::uuid, clock_timestamp() + make_interval(secs => :seconds))
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at
WHERE leases.expires_at <= clock_timestamp() OR leases.holder = excluded.holder
RETURNING holder;

-- name: extend_lease(name, holder, seconds)$
-- The holder, where nobody has taken the lease over.
UPDATE leases SET expires_at = clock_timestamp() + make_interval(secs => :seconds)
WHERE name = :name AND holder = :holder::uuid
RETURNING holder;

-- name: hold_lease(name, holder)$
-- The holder, where nobody has taken the lease over, nor can until this transaction ends.
SELECT holder FROM leases WHERE name = :name AND holder = :holder::uuid FOR UPDATE;

-- name: release_lease(name, holder)!
DELETE FROM leases WHERE name = :name AND holder = :holder::uuid;
