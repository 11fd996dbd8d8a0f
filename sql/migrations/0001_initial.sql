-- Companies, callers, KSeF credentials and sessions, the ERP's invoice rows, outage simulations.
-- Every table that belongs to a company carries company_nip, and environment where KSeF is meant.

CREATE TYPE ksef_environment AS ENUM ('test', 'demo', 'prod');

CREATE TABLE companies (
    nip        text PRIMARY KEY CHECK (nip ~ '^[1-9][0-9]{9}$'),
    name       text NOT NULL CHECK (name <> ''),
    created_at timestamptz NOT NULL DEFAULT now()
);

-- A role other than admin and technical is allowed to exist (it may come from elsewhere) and opens nothing.
CREATE TABLE users (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email         text NOT NULL CHECK (email = lower(email)),
    company_nip   text NOT NULL REFERENCES companies (nip),
    role          text NOT NULL CHECK (role ~ '^[a-z_]{1,32}$'),
    password_hash text NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    disabled_at   timestamptz,
    UNIQUE (email)
);

-- secret is sealed by app.crypto and bound to company, environment and purpose.
CREATE TABLE ksef_credentials (
    company_nip text NOT NULL REFERENCES companies (nip),
    environment ksef_environment NOT NULL,
    method      text NOT NULL CHECK (method IN ('token', 'certificate')),
    secret      bytea NOT NULL,
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (company_nip, environment)
);

-- A row is an active KSeF session; logging out, or losing the right, deletes it.
-- version grows with every change: a writer that started from an older one writes nothing.
CREATE TABLE ksef_sessions (
    company_nip               text NOT NULL,
    environment               ksef_environment NOT NULL,
    method                    text NOT NULL,
    access_token              bytea NOT NULL,
    access_token_valid_until  timestamptz NOT NULL,
    refresh_token             bytea NOT NULL,
    refresh_token_valid_until timestamptz NOT NULL,
    authenticated_at          timestamptz NOT NULL DEFAULT now(),
    version                   bigint NOT NULL DEFAULT 1,
    PRIMARY KEY (company_nip, environment),
    FOREIGN KEY (company_nip, environment) REFERENCES ksef_credentials
);

-- Who alone may do a thing just now, across threads, workers and replicas.
-- A row, not a session lock, so that it survives a connection pooler.
CREATE TABLE leases (
    name       text PRIMARY KEY,
    holder     uuid NOT NULL,
    expires_at timestamptz NOT NULL
);

-- The ERP's side of the contract. The proxy sets session_reference_number and linked_at, nothing else.
-- No index on a column that linking changes, and room in the page: its updates stay HOT.
CREATE TABLE synced_invoices (
    company_nip              text NOT NULL REFERENCES companies (nip),
    environment              ksef_environment NOT NULL,
    ksef_number              text NOT NULL,
    invoice_number           text NOT NULL,
    session_reference_number text,
    created_at               timestamptz NOT NULL DEFAULT now(),
    linked_at                timestamptz,
    PRIMARY KEY (company_nip, environment, ksef_number)
) WITH (fillfactor = 90);

CREATE TABLE offline_invoices (
    id                       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    company_nip              text NOT NULL REFERENCES companies (nip),
    environment              ksef_environment NOT NULL,
    invoice_number           text NOT NULL,
    ksef_reference_number    text,
    ksef_number              text,
    session_reference_number text,
    created_at               timestamptz NOT NULL DEFAULT now(),
    linked_at                timestamptz,
    UNIQUE NULLS NOT DISTINCT (company_nip, environment, ksef_reference_number, invoice_number)
) WITH (fillfactor = 90);

-- company_nip null: for every company. Production cannot be simulated.
CREATE TABLE outage_simulations (
    environment ksef_environment NOT NULL CONSTRAINT never_production CHECK (environment <> 'prod'),
    company_nip text REFERENCES companies (nip),
    message     text NOT NULL CHECK (message <> ''),
    starts_at   timestamptz NOT NULL DEFAULT now(),
    ends_at     timestamptz CHECK (ends_at > starts_at),
    UNIQUE NULLS NOT DISTINCT (environment, company_nip)
);

-- Two roles, without login until the operator grants it. Roles belong to the whole server,
-- so another database of it, or a migration running beside this one, may have made them already.
DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['ksef_proxy', 'erp'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;
            END;
        END IF;
    END LOOP;
END
$$;

GRANT SELECT, INSERT, UPDATE, DELETE ON companies, users, ksef_credentials, ksef_sessions, leases, outage_simulations
    TO ksef_proxy;
GRANT SELECT, INSERT ON synced_invoices, offline_invoices TO ksef_proxy;
GRANT UPDATE (session_reference_number, linked_at) ON synced_invoices, offline_invoices TO ksef_proxy;

GRANT SELECT,
    INSERT (company_nip, environment, ksef_number, invoice_number, created_at),
    UPDATE (ksef_number, invoice_number)
    ON synced_invoices TO erp;
GRANT SELECT,
    INSERT (company_nip, environment, invoice_number, ksef_reference_number, ksef_number, created_at),
    UPDATE (invoice_number, ksef_reference_number, ksef_number)
    ON offline_invoices TO erp;
