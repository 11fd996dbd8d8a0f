-- KSeF also limits the calls of one address in a second, whichever company they are for.

-- The gate of an environment: whoever reserves holds its row.
CREATE TABLE address_gates (environment ksef_environment PRIMARY KEY);
INSERT INTO address_gates SELECT unnest(enum_range(NULL::ksef_environment));

CREATE TABLE address_calls (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    environment ksef_environment NOT NULL,
    reserved_at timestamptz NOT NULL
);
CREATE INDEX address_calls_window ON address_calls (environment, reserved_at);

GRANT SELECT, INSERT, UPDATE, DELETE ON address_gates, address_calls TO ksef_proxy;
