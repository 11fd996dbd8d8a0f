-- Who did what, when, and companies that are removed while their invoice rows stay.

-- who: a user's e-mail, or operator for a command. Nothing of it refers to other tables: it outlives
-- them. The service may add and read, and take nothing back: deleting is the owner's.
CREATE TABLE audit (
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    who         text NOT NULL,
    what        text NOT NULL CHECK (what ~ '^[a-z_]{1,40}$'),
    company_nip text,
    environment ksef_environment,
    detail      text,
    request_id  text,
    address     text
);
CREATE INDEX audit_at ON audit (at);

GRANT SELECT, INSERT ON audit TO ksef_proxy;

-- The invoice rows of a removed company refer to it still.
ALTER TABLE companies ADD COLUMN removed_at timestamptz;
