-- The life of a KSeF session, and callers who fail to log in to us.

-- refused_*: KSeF refused the credential itself, when, with which code and words. Gone with a new one.
-- silent_login_at: the last login that nobody asked for, so that there is at most one a minute.
ALTER TABLE ksef_credentials
    ADD COLUMN refused_code integer,
    ADD COLUMN refused_words text,
    ADD COLUMN refused_at timestamptz,
    ADD COLUMN silent_login_at timestamptz,
    ADD CONSTRAINT refused_when_and_why CHECK ((refused_code IS NULL) = (refused_at IS NULL));

-- The last renewal that failed, so that who waits for it learns of it, and not all try in turn.
ALTER TABLE ksef_sessions ADD COLUMN renewal_failed_at timestamptz;

-- One row for each failed login. who: a hash of user name and address, since people type passwords
-- into the wrong field.
CREATE TABLE failed_logins (
    who       bytea NOT NULL,
    failed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX failed_logins_who ON failed_logins (who, failed_at);
CREATE INDEX failed_logins_failed_at ON failed_logins (failed_at);

GRANT SELECT, INSERT, DELETE ON failed_logins TO ksef_proxy;
