-- What the rules are judged by. Moments are seconds of one clock.
CREATE SCHEMA seen;
SET search_path = seen, public;

-- The run: its durations in seconds, and what was counted.
CREATE TABLE run (
    companies integer DEFAULT 1,
    quota_scale float8 DEFAULT 1,     -- the length of the quota's windows, times this
    fresh float8 DEFAULT 1,           -- the shortest freshness of an answer
    request float8 DEFAULT 6,         -- the longest time of a request, and of a fetch in it
    longest_idle float8 DEFAULT 0.6,  -- of a transaction without a statement
    probe_every float8 DEFAULT 1,
    latarnia_every float8 DEFAULT 1,
    late float8 DEFAULT 0.5,          -- how long a call may be under way before KSeF gets it
    clocks float8 DEFAULT 0.02,       -- by which the clocks of two processes may differ
    asked_again integer DEFAULT 0,    -- calls of KSeF when everything final was asked for again
    deadlocks integer DEFAULT 0,
    transactions integer DEFAULT 0
);
INSERT INTO run DEFAULT VALUES;
CREATE TABLE limits (quota_group text, seconds float8, most integer);

-- What was sent, and done. Spans are of kind stop (no database), slow (KSeF) and idle (nothing moves).
CREATE TABLE sessions (
    nip text, environment text, reference text,
    ended float8, total integer, successful integer  -- when, and the counts that KSeF has in the end
);
-- How a row has to be linked: to a session that holds its invoice (is_original), or as the original
-- of a duplicate, which only fills what is empty. stays: a link that was there before.
CREATE TABLE expected (
    tab text, nip text, environment text, key text, session text,
    is_original boolean, stays text
);
CREATE TABLE kills (at float8);
CREATE TABLE spans (kind text, begun float8, ended float8);
CREATE TABLE tokens_ended (at float8, nip text);

-- What clients saw: rows right after a 200, the checkedAt of each 200, what all replicas answered to
-- one question; and the eldest transaction of the service without a statement, in seconds.
CREATE TABLE looks (reference text, linked integer, unlinked integer);
CREATE TABLE told (at float8, client integer, reference text, checked_at text);
CREATE TABLE alike (round integer, status integer, established boolean, source text);
CREATE TABLE samples (at float8, idle float8);

-- Who is told of events: those that an ERP read on and on, those that came to each receiver of webhooks; and
-- the 99th percentile of answers, round by round, with sessions being followed and without.
CREATE TABLE read (place integer, nip text, id text);
CREATE TABLE received (webhook integer, place integer, nip text, id text, at float8);
CREATE TABLE answered (followed boolean, p99 float8, failed integer);

-- What KSeF got. nip: whose token it was, else whose session; subject: the last name in the path.
CREATE TABLE calls (
    at float8, service text DEFAULT 'api', route text, nip text, reference text, subject text,
    answered float8, status integer, fault text, retry_after float8, quota_group text
);
CREATE INDEX ON calls (nip, quota_group, at);

-- What the service wrote. how: put (KSeF's answer), marked (asked in vain), confirmed (one of many, in
-- a list of sessions), DELETE. units: 1, or -1 for a reservation that was given back.
CREATE TABLE links (
    at float8, act text, tab text, nip text, environment text, key text, old text, new text
);
CREATE TABLE stored (
    at float8, how text, reference text, asked_at float8, checked_at float8,
    old_checked_at float8, old_final boolean, final boolean
);
CREATE TABLE reservations (
    made_at float8, planned_at float8, nip text, quota_group text, units integer
);
CREATE TABLE blocks (at float8, until float8, nip text, quota_group text);
CREATE TABLE renewals (at float8, nip text);
CREATE TABLE breaker (
    at float8, is_open boolean, probed_at float8, latarnia_asked_at float8
);

-- What there is in the end. versions: every row of the service, before and after it was asked again.
CREATE TABLE rows (tab text, nip text, environment text, key text, session text);
CREATE TABLE answers (reference text, final boolean, accepted text[]);
-- archived: the UPO of an invoice, or with an empty number a page of the session's own.
CREATE TABLE archived (ksef_number text, session text, at float8);
CREATE TABLE events (
    nip text, number bigint, id text, type text, at float8,
    reference text, total integer, successful integer, failed integer, upos integer
);
CREATE TABLE versions (again boolean, tab text, place text, written_by text);

-- How each row has to be linked in the end.
CREATE VIEW truth AS
SELECT DISTINCT ON (tab, nip, environment, key) * FROM expected
ORDER BY tab, nip, environment, key, is_original DESC;
