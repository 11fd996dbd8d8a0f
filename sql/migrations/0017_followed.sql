-- The service follows each company's sessions by itself: how far it is, and what is left to do. Times are by the database's
-- clock, where nothing else is said.

-- known_since, known_until: every session that KSeF lists and in which anything happened between the two is kept, with all
-- its invoices; known_until is null until that is true. listed_until: sessions in which anything happened up to then, by
-- KSeF's clock, stand in followed_sessions. list_at: when KSeF's list is due again. rests_until: nothing is asked before;
-- failures: how often in a row KSeF failed.
CREATE TABLE followed (
    company_nip  text NOT NULL REFERENCES companies (nip),
    environment  ksef_environment NOT NULL,
    known_since  timestamptz NOT NULL,
    known_until  timestamptz,
    listed_until timestamptz NOT NULL,
    list_at      timestamptz NOT NULL,
    rests_until  timestamptz NOT NULL DEFAULT '-infinity',
    failures     integer NOT NULL DEFAULT 0,
    PRIMARY KEY (company_nip, environment)
);

-- told: what KSeF's list said of it; found_at: when it last said something new; read_at: when KSeF gave the kept answer with
-- all invoices. due_at: when the next step is due; null: nothing is left to do. moving_since: when it was first seen to be
-- neither open nor final; stuck_at: when that had lasted too long; final_at, archived_at: when the final answer was kept, and
-- all its UPOs were in the archive.
CREATE TABLE followed_sessions (
    company_nip      text NOT NULL,
    environment      ksef_environment NOT NULL,
    reference_number text NOT NULL,
    date_created     timestamptz NOT NULL,
    told             jsonb NOT NULL,
    found_at         timestamptz NOT NULL,
    read_at          timestamptz,
    due_at           timestamptz,
    failures         integer NOT NULL DEFAULT 0,
    moving_since     timestamptz,
    stuck_at         timestamptz,
    final_at         timestamptz,
    archived_at      timestamptz,
    PRIMARY KEY (company_nip, environment, reference_number),
    FOREIGN KEY (company_nip, environment) REFERENCES followed ON DELETE CASCADE
);
CREATE INDEX followed_sessions_due ON followed_sessions (company_nip, environment, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX followed_sessions_final ON followed_sessions (company_nip, environment, final_at) WHERE final_at IS NOT NULL;

GRANT SELECT, INSERT, UPDATE, DELETE ON followed, followed_sessions TO ksef_proxy;
