-- By whom KSeF's lists were shown: KSeF's host, and when the credential of the login was stored. Where that changes, other
-- sessions may be shown, also of the time that was listed before. null: unknown.
ALTER TABLE followed ADD COLUMN shown_by text;
