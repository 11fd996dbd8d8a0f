-- What the operator console shows first: the sessions that changed last, and the newest invoice rows.
-- No index on whether a row is linked: linking must not change an indexed column.

CREATE INDEX kept_sessions_changed ON kept_sessions (company_nip, environment, changed_at);
CREATE INDEX synced_invoices_created ON synced_invoices (company_nip, environment, created_at);
CREATE INDEX offline_invoices_created ON offline_invoices (company_nip, environment, created_at);
