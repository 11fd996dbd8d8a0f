-- Failed logins are counted by user name and by address too, and counted before a password is looked at. The service may
-- no longer choose the time of what it writes into the audit.

-- who: a hash, since people type passwords into the wrong field; of user name and address, of the name alone, or of the
-- address alone. name: the hash of the name in the first two. failed_at: failures and attempts that go on, the newest
-- first; with as many as `allowed` within the window there are no more attempts. succeeded_at, for name and address: the
-- last login with the right password. needed_until: afterwards the row tells nothing.
-- Version 0.1.0 goes on with failed_logins; a later version removes that.
CREATE TABLE login_attempts (
    who          bytea PRIMARY KEY,
    name         bytea,
    allowed      int NOT NULL,
    failed_at    timestamptz[] NOT NULL,
    succeeded_at timestamptz,
    needed_until timestamptz NOT NULL
);
CREATE INDEX login_attempts_needed_until ON login_attempts (needed_until);

GRANT SELECT, INSERT, UPDATE, DELETE ON login_attempts TO ksef_proxy;

REVOKE INSERT ON audit FROM ksef_proxy;
GRANT INSERT (who, what, company_nip, environment, detail, request_id, address) ON audit TO ksef_proxy;
