-- What KSeF told is kept, and what it may be asked is counted: N replicas act as one client of KSeF.

-- A session as KSeF told it at checked_at. KSeF's own JSON of it, but for download links, which are
-- secrets and stand sealed, in one piece, in links. asked_at: when KSeF was last asked at all; later
-- than checked_at where its answer could not be made whole and the earlier one was given again.
CREATE TABLE kept_sessions (
    company_nip      text NOT NULL REFERENCES companies (nip),
    environment      ksef_environment NOT NULL,
    reference_number text NOT NULL,
    session          jsonb NOT NULL,
    links            bytea,
    final            boolean NOT NULL,
    checked_at       timestamptz NOT NULL,
    asked_at         timestamptz NOT NULL,
    changed_at       timestamptz NOT NULL,
    listed_at        timestamptz,
    PRIMARY KEY (company_nip, environment, reference_number)
);

-- The company's sessions that still move, for refreshing them together.
CREATE INDEX kept_sessions_moving ON kept_sessions (company_nip, environment) WHERE NOT final;

-- The invoices of a kept session, so that one can be found by its numbers.
CREATE TABLE kept_invoices (
    company_nip              text NOT NULL,
    environment              ksef_environment NOT NULL,
    session_reference_number text NOT NULL,
    reference_number         text NOT NULL,
    ordinal_number           integer NOT NULL,
    invoice_number           text,
    ksef_number              text,
    acquisition_date         timestamptz,
    status                   jsonb NOT NULL,
    PRIMARY KEY (company_nip, environment, session_reference_number, reference_number),
    FOREIGN KEY (company_nip, environment, session_reference_number) REFERENCES kept_sessions
);
CREATE INDEX kept_invoices_ksef_number ON kept_invoices (company_nip, environment, ksef_number);
CREATE INDEX kept_invoices_invoice_number ON kept_invoices (company_nip, environment, invoice_number);

-- The company's own rows are looked for by the same numbers.
CREATE INDEX synced_invoices_invoice_number ON synced_invoices (company_nip, environment, invoice_number);
CREATE INDEX offline_invoices_invoice_number ON offline_invoices (company_nip, environment, invoice_number);
CREATE INDEX offline_invoices_ksef_number ON offline_invoices (company_nip, environment, ksef_number);

-- KSeF's refusals of a question, so that asking in vain again and again costs no quota.
CREATE TABLE kept_refusals (
    company_nip text NOT NULL REFERENCES companies (nip),
    environment ksef_environment NOT NULL,
    question    text NOT NULL,
    code        text NOT NULL,
    detail      text NOT NULL,
    ksef        jsonb NOT NULL,
    times       integer NOT NULL DEFAULT 1,
    until       timestamptz NOT NULL,
    PRIMARY KEY (company_nip, environment, question)
);

-- Checked UPOs, byte by byte as KSeF signed them. ksef_number is empty for a page of a collective UPO.
CREATE TABLE upos (
    company_nip              text NOT NULL REFERENCES companies (nip),
    environment              ksef_environment NOT NULL,
    session_reference_number text NOT NULL,
    ksef_number              text NOT NULL,
    page_reference_number    text NOT NULL DEFAULT '',
    content                  bytea NOT NULL,
    sha256                   text NOT NULL,
    fetched_at               timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (company_nip, environment, session_reference_number, ksef_number, page_reference_number),
    CHECK ((ksef_number = '') <> (page_reference_number = ''))
);
-- Signed XML does not compress in small pieces, and is read whole.
ALTER TABLE upos ALTER COLUMN content SET STORAGE EXTERNAL;

-- One row for each call that was allowed, so that the windows are exact.
CREATE TABLE quota_calls (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    company_nip text NOT NULL,
    environment ksef_environment NOT NULL,
    quota_group text NOT NULL,
    reserved_at timestamptz NOT NULL
);
CREATE INDEX quota_calls_windows ON quota_calls (company_nip, environment, quota_group, reserved_at);

-- The gate of a group: whoever reserves holds its row. Limits null: KSeF's published ones; -1: none.
CREATE TABLE quota_groups (
    company_nip   text NOT NULL REFERENCES companies (nip),
    environment   ksef_environment NOT NULL,
    quota_group   text NOT NULL,
    blocked_until timestamptz,
    per_second    integer,
    per_minute    integer,
    per_hour      integer,
    limits_read_at timestamptz,
    PRIMARY KEY (company_nip, environment, quota_group)
);

GRANT SELECT, INSERT, UPDATE, DELETE
    ON kept_sessions, kept_invoices, kept_refusals, upos, quota_calls, quota_groups
    TO ksef_proxy;
