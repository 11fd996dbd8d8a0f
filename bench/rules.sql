-- L1: the same answer a second time leaves identical rows
SELECT format('%s rows, the same after everything was asked again', count(*)), ARRAY(
    SELECT format('%s %s was written for nothing', tab, key) FROM links
    WHERE act = 'UPDATE' AND old IS NOT DISTINCT FROM new
    UNION ALL
    SELECT format('asking again wrote rows: %s of %s differ', count(*), tab)
    FROM (SELECT tab FROM versions GROUP BY tab, place, written_by HAVING count(*) <> 2) AS other
    GROUP BY tab)
FROM versions WHERE NOT again;

-- L2: a link is what KSeF said for that number; a duplicate only fills an empty one
WITH written AS (
    SELECT links.*, session, is_original FROM links LEFT JOIN truth USING (tab, nip, environment, key)
    WHERE act = 'UPDATE' AND old IS DISTINCT FROM new)
SELECT format('%s changes of links, %s of an earlier value', count(*), count(old)), ARRAY(
    SELECT format('%s was linked to %s, KSeF says %s', key, new, session) FROM written
    WHERE new IS DISTINCT FROM session
    UNION ALL
    SELECT format('%s: a duplicate replaced %s', key, old) FROM written
    WHERE new = session AND old IS NOT NULL AND NOT is_original)
FROM written;

-- L3: a link is never cleared, a row never deleted
SELECT format('%s changes of rows, none deleted or cleared', count(*)), ARRAY(
    SELECT format('%s %s was %s', tab, key,
        CASE act WHEN 'DELETE' THEN 'deleted' ELSE 'unlinked from ' || old END) FROM links
    WHERE act = 'DELETE' OR (old IS NOT NULL AND new IS NULL))
FROM links;

-- L4: nothing crosses companies or environments
WITH strangers AS (
    SELECT count(*) AS number FROM rows LEFT JOIN truth USING (tab, nip, environment, key)
    WHERE truth.key IS NULL),
asked AS (
    SELECT calls.reference, calls.nip, sessions.nip AS owner
    FROM calls JOIN sessions USING (reference) WHERE calls.nip IS NOT NULL)
SELECT format('%s rows of others untouched, %s calls', number, (SELECT count(*) FROM asked)), ARRAY(
    SELECT format('%s %s of %s in %s was written', tab, key, nip, environment) FROM links
    WHERE NOT EXISTS (SELECT FROM truth WHERE (truth.tab, truth.nip, truth.environment, truth.key)
        = (links.tab, links.nip, links.environment, links.key))
    UNION ALL
    SELECT format('%s was asked for as %s', reference, nip) FROM asked WHERE nip <> owner
    UNION ALL
    SELECT 'there was no row of a stranger' WHERE number = 0)
FROM strangers;

-- L5: whatever was broken off, asking again makes it whole
SELECT format('%s rows and %s answers as KSeF has them', count(*), (SELECT count(*) FROM answers)),
ARRAY(
    SELECT format('%s is linked to %s, not %s', key, rows.session, coalesce(stays, truth.session))
    FROM rows JOIN truth USING (tab, nip, environment, key)
    WHERE rows.session IS DISTINCT FROM coalesce(stays, truth.session)
    UNION ALL
    SELECT format('the stored answer of %s is not KSeF''s', reference)
    FROM sessions LEFT JOIN answers USING (reference)
    WHERE final IS NOT TRUE OR coalesce(accepted, '{}') <> ARRAY(
        SELECT key FROM expected
        WHERE tab = 'synced_invoices' AND is_original AND session = reference ORDER BY key))
FROM rows;

-- L6: a 200 leaves after its rows were linked
SELECT format('%s rows looked at, at once after %s answers', sum(linked + unlinked), count(*)), ARRAY(
    SELECT format('%s: %s of %s rows unlinked', reference, unlinked, linked + unlinked) FROM looks
    WHERE unlinked > 0
    UNION ALL
    SELECT 'nobody looked' FROM looks HAVING coalesce(sum(linked + unlinked), 0) = 0)
FROM looks;

-- L7: an older answer never replaces a newer one
SELECT format('%s stored answers, %s given ones', count(*), (SELECT count(*) FROM told)), ARRAY(
    SELECT format('the answer of %s was deleted', reference) FROM stored WHERE how = 'DELETE'
    UNION ALL
    SELECT format('the final answer of %s was written again', reference) FROM stored
    WHERE old_final AND how <> 'DELETE'
    UNION ALL
    SELECT format('an older answer of %s replaced a newer one', reference) FROM stored
    WHERE checked_at < old_checked_at
    UNION ALL
    SELECT format('a client was told an older answer of %s', reference)
    FROM (SELECT *, lag(checked_at) OVER (PARTITION BY client, reference ORDER BY at) AS before
          FROM told) AS one
    WHERE checked_at < before)
FROM stored;

-- L8: no deadlock
SELECT format('%s transactions, no deadlock counted or logged', transactions), ARRAY(
    SELECT format('%s deadlocks', deadlocks) WHERE deadlocks > 0)
FROM run;

-- R1: no rolling window of KSeF's quota is exceeded, by the times at which KSeF got the calls
WITH windows AS (
    SELECT nip, quota_group, seconds, most, max(number) AS fullest
    FROM run, calls JOIN limits USING (quota_group), LATERAL (
        SELECT count(*) AS number FROM calls AS other
        WHERE (other.nip, other.quota_group) = (calls.nip, calls.quota_group)
          AND other.at > calls.at - seconds * quota_scale AND other.at <= calls.at) AS one
    GROUP BY nip, quota_group, seconds, most)
SELECT format('%s calls of %s groups of companies, the fullest window %s %%',
    (SELECT count(quota_group) FROM calls), count(DISTINCT (nip, quota_group)),
    max(100 * fullest / most)), ARRAY(
    SELECT format('%s calls of %s of %s in a window of %s s', fullest, quota_group, nip, seconds)
    FROM windows WHERE fullest > most
    UNION ALL
    SELECT format('KSeF answered 429 to %s', route) FROM calls WHERE status = 429 AND fault IS NULL)
FROM windows;

-- R2: a 429 stops all replicas, but for calls that were set aside for the second before the block;
-- a worker that was killed could not store the block
WITH refused AS (
    SELECT nip, quota_group, at, coalesce(answered, at) AS answered,
        coalesce(answered, at) + coalesce(retry_after, 60) AS until
    FROM calls WHERE status = 429 AND nip IS NOT NULL AND quota_group IS NOT NULL),
stopped AS (
    SELECT *, EXISTS (SELECT FROM kills WHERE kills.at BETWEEN refused.at - 1 AND answered + 1) AS killed
    FROM refused, run, LATERAL (
        SELECT min(blocks.at) AS blocked FROM blocks
        WHERE (blocks.nip, blocks.quota_group) = (refused.nip, refused.quota_group)
          AND blocks.at BETWEEN answered - clocks AND answered + 1
          AND blocks.until >= refused.until - clocks) AS one,
    LATERAL (
        SELECT count(*) AS came, count(*) FILTER (WHERE calls.at > blocked + 1) AS too_late FROM calls
        WHERE (calls.nip, calls.quota_group) = (refused.nip, refused.quota_group)
          AND calls.at > blocked AND calls.at < refused.until) AS two,
    LATERAL (
        SELECT greatest(0, sum(units)) AS in_flight FROM reservations AS made
        WHERE (made.nip, made.quota_group) = (refused.nip, refused.quota_group)
          AND made_at <= blocked AND planned_at BETWEEN blocked - 1 AND blocked) AS three)
SELECT format('%s answers 429, %s of them lost with a killed worker; %s calls in flight came after'
    ' their blocks', count(*), count(*) FILTER (WHERE blocked IS NULL), sum(came)), ARRAY(
    SELECT format('the 429 to %s of %s blocked nothing', quota_group, nip) FROM stopped
    WHERE blocked IS NULL AND NOT killed
    UNION ALL
    SELECT format('%s calls of %s of %s after a 429, %s in flight, %s too late',
        came, quota_group, nip, in_flight, too_late) FROM stopped
    WHERE came > in_flight OR too_late > 0
    UNION ALL
    SELECT 'there was no 429' FROM stopped HAVING count(*) = 0)
FROM stopped;

-- R3: KSeF is asked once for a question and its freshness window: not while a stored answer is fresh
-- or another fetch runs, not after the final answer, and no more than elapsed / fresh + 1 times; once
-- more for each fetch that a kill interrupted. A second look at the session after its invoices,
-- before the answer is stored, is part of the same fetch.
WITH fetches AS (
    SELECT *, lead(at) OVER (PARTITION BY reference ORDER BY at) AS next FROM calls
    WHERE service = 'api' AND route = '/sessions/{reference}'),
puts AS (SELECT * FROM stored WHERE how <> 'confirmed'),
good AS (
    SELECT reference, at, lag(at) OVER (PARTITION BY reference ORDER BY at) AS before
    FROM fetches WHERE status = 200),
looks_again AS (
    SELECT *, EXISTS (
        SELECT FROM calls WHERE calls.reference = good.reference AND calls.at > before
          AND calls.at < good.at AND route IN ('/sessions/{reference}/invoices',
            '/sessions/{reference}/invoices/{invoice_reference}'))
      AND NOT EXISTS (
        SELECT FROM puts WHERE puts.reference = good.reference
          AND puts.at > before AND puts.at < good.at) AS is_second
    FROM good),
turns AS (  -- a second look at a second look is a fetch again
    SELECT *, row_number() OVER (PARTITION BY reference, first ORDER BY at) AS place
    FROM (SELECT *, count(*) FILTER (WHERE NOT is_second) OVER (PARTITION BY reference ORDER BY at)
            AS first FROM looks_again) AS one),
counted AS (
    SELECT reference, at, EXISTS (
        SELECT FROM kills WHERE kills.at BETWEEN turns.at AND least(turns.at + request, (
            SELECT min(puts.at) FROM puts
            WHERE puts.reference = turns.reference AND puts.at >= turns.at))) AS hit
    FROM turns, run WHERE place % 2 = 1),
totals AS (
    SELECT reference, count(*) AS number, max(at) - min(at) AS seconds,
        count(*) FILTER (WHERE hit) AS hits
    FROM counted GROUP BY reference)
SELECT format('%s fetches of %s sessions, %s of them hit by a kill; %s UPOs', count(*),
    count(DISTINCT reference), (SELECT sum(hits) FROM totals), (SELECT count(*) FROM archived)), ARRAY(
    SELECT 'KSeF was asked for what is final' FROM run WHERE asked_again > 0
    UNION ALL
    SELECT format('%s was asked for %s times while fresh', reference, count(*))
    FROM run, stored JOIN fetches USING (reference)
    WHERE (final OR how <> 'confirmed') AND fetches.at > stored.at
      AND (final OR fetches.at < asked_at + fresh - clocks)
    GROUP BY reference, stored.at
    UNION ALL
    SELECT format('%s was asked for twice at once', reference) FROM fetches, run
    WHERE next < answered AND answered < at + request
    UNION ALL
    SELECT format('%s fetches of %s in %s s', number, reference, seconds) FROM totals, run
    WHERE number > (seconds + clocks) / fresh + 1 + hits
    UNION ALL
    SELECT format('the UPO of %s was fetched again', subject)
    FROM run, calls JOIN archived ON subject = ksef_number
    WHERE route = '/sessions/{reference}/invoices/ksef/{ksef_number}/upo'
      AND calls.at > archived.at + clocks)
FROM fetches;

-- R4: one renewal of a company's token, and one login; unless a worker was killed, or the database
-- down, before the tokens were stored. If KSeF ended a token as young as a request, that one may have
-- had two tokens refused, and may log in again.
WITH refreshes AS (
    SELECT nip, at, lead(at) OVER (PARTITION BY nip ORDER BY at) AS next FROM calls
    WHERE route = '/auth/token/refresh' AND status = 200),
unstored AS (
    SELECT *, EXISTS (SELECT FROM kills WHERE kills.at BETWEEN refreshes.at AND next)
        OR EXISTS (SELECT FROM spans WHERE kind = 'stop' AND begun < next AND ended > at) AS excused
    FROM refreshes WHERE next IS NOT NULL AND NOT EXISTS (
        SELECT FROM renewals WHERE renewals.nip = refreshes.nip
          AND renewals.at BETWEEN refreshes.at AND next)),
logins AS (
    SELECT count(calls.at) AS number, (
        SELECT count(*) FROM tokens_ended WHERE EXISTS (
            SELECT FROM refreshes WHERE refreshes.nip = tokens_ended.nip
              AND refreshes.at BETWEEN tokens_ended.at - request AND tokens_ended.at)) AS unlucky
    FROM run LEFT JOIN calls ON route = '/auth/challenge' GROUP BY request)
SELECT format('%s refreshes, %s renewals, %s excused by a kill or the database; %s logins, %s new'
    ' tokens ended', (SELECT count(*) FROM refreshes), (SELECT count(*) FROM renewals),
    (SELECT count(*) FROM unstored WHERE excused), number, unlucky), ARRAY(
    SELECT format('two refreshes of %s within %s s', nip, next - at) FROM unstored WHERE NOT excused
    UNION ALL
    SELECT format('%s logins of %s companies', number, companies) FROM run
    WHERE number > companies + unlucky
    UNION ALL
    SELECT 'there was no refresh' FROM refreshes HAVING count(*) = 0)
FROM logins;

-- R5: no transaction is open while KSeF is asked: its calls took longer than longest_idle in the slow
-- spans, so that a transaction held across a call is seen
WITH meant AS (
    SELECT samples.*, EXISTS (
        SELECT FROM calls WHERE samples.at BETWEEN calls.at AND answered) AS is_asked
    FROM samples JOIN spans ON kind = 'slow' AND samples.at BETWEEN begun AND ended)
SELECT format('%s samples, %s while KSeF was asked; the eldest idle transaction %s ms', count(*),
    count(*) FILTER (WHERE is_asked), round(1000 * max(idle))), ARRAY(
    SELECT format('a transaction was open for %s s without a statement', idle) FROM meant, run
    WHERE idle > longest_idle
    UNION ALL
    SELECT 'no sample while KSeF was asked' FROM meant HAVING count(*) FILTER (WHERE is_asked) = 0)
FROM meant;

-- R6: no ledger, no call: none while the database is down, and never more than were set aside
WITH down AS (
    SELECT route, at > begun + late AS is_late FROM run, calls JOIN spans
      ON kind = 'stop' AND at > begun AND at < ended),
steps AS (
    SELECT nip, quota_group, CASE WHEN units > 0 THEN planned_at ELSE made_at END - clocks AS at,
        0 AS place, units FROM reservations, run
    UNION ALL
    SELECT nip, quota_group, at, 1, -1 FROM calls WHERE nip IS NOT NULL AND quota_group IS NOT NULL),
remaining AS (
    SELECT *, sum(units) OVER (PARTITION BY nip, quota_group ORDER BY at, place, units) AS number
    FROM steps)
SELECT format('%s calls without a database; %s calls were set aside', (SELECT count(*) FROM down),
    count(*)), ARRAY(
    SELECT format('%s came without a database', route) FROM down WHERE is_late
    UNION ALL
    SELECT format('a call of %s of %s was not set aside', quota_group, nip) FROM remaining
    WHERE number < 0 GROUP BY nip, quota_group
    UNION ALL
    SELECT 'the database was never down' FROM spans WHERE kind = 'stop' HAVING count(*) = 0)
FROM steps WHERE place = 1;

-- R7: breaker and Latarnia are shared: no call while the breaker is open, turns for probes and
-- questions to Latarnia, the same answers of all replicas (a 503 is about a replica, not about KSeF)
WITH opened AS (
    SELECT min(at) AS begun, ended FROM breaker AS one, LATERAL (
        SELECT min(at) AS ended FROM breaker WHERE NOT is_open AND at > one.at) AS two
    WHERE is_open AND ended IS NOT NULL GROUP BY ended),
during AS (
    SELECT route, service, at - begun AS after FROM calls JOIN opened ON at > begun AND at < ended),
turns AS (
    SELECT 'probes' AS what, probed_at AS at, probe_every AS every FROM run, breaker JOIN opened
      ON probed_at BETWEEN begun AND ended
    UNION
    SELECT 'questions to Latarnia', latarnia_asked_at, latarnia_every FROM run, breaker
    WHERE latarnia_asked_at IS NOT NULL),
sent AS (
    SELECT 'probes' AS what, count(*) AS number FROM during
    WHERE route = '/security/public-key-certificates'
    UNION ALL
    SELECT 'questions to Latarnia', count(*) FROM calls WHERE service = 'latarnia' AND route = '/status'),
rounds AS (
    SELECT round, count(DISTINCT (status, established, source)) AS answers, max(status) AS status
    FROM alike WHERE status <> 503 GROUP BY round)
SELECT format('open for %s s, %s probes and questions to Latarnia, %s rounds of all replicas, %s of 409',
    (SELECT round(sum(ended - begun)) FROM opened), (SELECT count(*) FROM turns), count(*),
    count(*) FILTER (WHERE status = 409)), ARRAY(
    SELECT format('%s came %s s after the breaker opened', route, after) FROM during, run
    WHERE service <> 'latarnia' AND route <> '/security/public-key-certificates' AND after > late
    UNION ALL
    SELECT format('two %s within %s s', what, at - before)
    FROM (SELECT *, lag(at) OVER (PARTITION BY what ORDER BY at) AS before FROM turns) AS one
    WHERE at - before < every
    UNION ALL
    SELECT format('%s %s in %s turns', number, what, count(turns.at)) FROM sent LEFT JOIN turns USING (what)
    GROUP BY what, number HAVING number > count(turns.at) + 1  -- one may be in flight when it opens
    UNION ALL
    SELECT format('replicas told %s answers in round %s', answers, round) FROM rounds WHERE answers > 1
    UNION ALL
    SELECT 'the breaker never opened, or nobody asked meanwhile'
    WHERE NOT EXISTS (SELECT FROM opened) OR NOT EXISTS (SELECT FROM rounds))
FROM rounds;

-- F1: the UPO of each accepted invoice is archived
WITH accepted AS (
    SELECT DISTINCT key, session FROM expected WHERE tab = 'synced_invoices' AND is_original)
SELECT format('%s accepted invoices; %s UPOs, %s of them pages of sessions', count(*),
    (SELECT count(*) FROM archived), (SELECT count(*) FROM archived WHERE ksef_number = '')), ARRAY(
    SELECT format('the UPO of %s is missing', key) FROM accepted
    WHERE NOT EXISTS (SELECT FROM archived
        WHERE archived.session = accepted.session AND ksef_number IN (key, ''))
    UNION ALL
    SELECT format('the UPO of %s in %s is nobody''s', ksef_number, session) FROM archived
    WHERE ksef_number <> '' AND NOT EXISTS (SELECT FROM accepted
        WHERE (accepted.key, accepted.session) = (ksef_number, archived.session))
    UNION ALL
    SELECT 'there was no accepted invoice' FROM accepted HAVING count(*) = 0)
FROM accepted;

-- F2: the journal tells once of each session's end, with KSeF's counts, and of its UPOs; its numbers
-- have no gap
WITH told AS (
    SELECT sessions.*, one.number, one.at - ended AS late, two.number AS archived,
        (one.total, one.successful, one.failed) IS NOT DISTINCT FROM
            (sessions.total, sessions.successful, sessions.total - sessions.successful)
        AND (two.number IS NULL OR two.upos = sessions.successful) AS fits
    FROM sessions
    LEFT JOIN events AS one ON one.reference = sessions.reference AND one.type = 'session.final'
    LEFT JOIN events AS two ON two.reference = sessions.reference AND two.type = 'upo.archived'),
others AS (
    SELECT string_agg(format('%s %s', number, type), ', ' ORDER BY type) AS list
    FROM (SELECT type, count(*) AS number FROM events GROUP BY type) AS one)
SELECT format('%s sessions, told in the middle %s s after their ends, 95 %% within %s s; %s', count(*),
    round(percentile_cont(0.5) WITHIN GROUP (ORDER BY late)::numeric, 1),
    round(percentile_cont(0.95) WITHIN GROUP (ORDER BY late)::numeric, 1), (SELECT list FROM others)),
ARRAY(
    SELECT format('%s was told %s times', reference, count(number)) FROM told
    GROUP BY reference HAVING count(*) <> 1 OR count(number) <> 1
    UNION ALL
    SELECT format('%s was told with wrong counts', reference) FROM told WHERE NOT fits
    UNION ALL
    SELECT format('that the UPOs of %s are archived was not told', reference) FROM told
    WHERE successful > 0 AND archived IS NULL
    UNION ALL
    SELECT format('%s events of %s, the last is number %s', count(*), nip, max(number)) FROM events
    GROUP BY nip HAVING count(*) <> max(number)
    UNION ALL
    SELECT 'there was no session' FROM told HAVING count(*) = 0)
FROM told;

-- F3: who reads on from where he was misses nothing and sees nothing twice
WITH steps AS (
    SELECT read.*, number, coalesce(lag(number) OVER (PARTITION BY read.nip ORDER BY place), 0) AS before
    FROM read LEFT JOIN events USING (id, nip)),
ends AS (SELECT nip, max(number) AS last FROM events GROUP BY nip)
SELECT format('%s events read while they were written', count(*)), ARRAY(
    SELECT format('number %s came after %s', number, before) FROM steps
    WHERE number IS DISTINCT FROM before + 1
    UNION ALL
    SELECT format('read up to %s of %s', max(number), last) FROM steps JOIN ends USING (nip)
    GROUP BY nip, last HAVING max(number) <> last
    UNION ALL
    SELECT 'nobody read' FROM steps HAVING count(*) = 0)
FROM steps;

-- F4: each event comes to each webhook, always with its own id, and never before the one ahead of it;
-- again only where whoever posted it was killed
WITH steps AS (
    SELECT received.*, number, received.at - events.at AS late,
        coalesce(max(number) OVER (PARTITION BY webhook, received.nip ORDER BY place
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS newest
    FROM received LEFT JOIN events USING (id, nip)),
hooks AS (SELECT DISTINCT webhook, nip FROM received),
middles AS (
    SELECT webhook, round(percentile_cont(0.5) WITHIN GROUP (ORDER BY late)::numeric, 1) AS late,
        round(max(late)::numeric, 1) AS latest
    FROM steps GROUP BY webhook)
SELECT format('%s posts, %s of them again; late by (in the middle, at most) %s', count(*),
    count(*) FILTER (WHERE number <= newest), (SELECT string_agg(format('%s s, %s s', late, latest), '; '
        ORDER BY webhook) FROM middles)), ARRAY(
    SELECT format('number %s came after %s', number, newest) FROM steps
    WHERE number IS NULL OR number NOT IN (newest, newest + 1)
    UNION ALL
    SELECT format('%s of %s never came to webhook %s', type, coalesce(reference, nip), webhook)
    FROM hooks JOIN events USING (nip)
    WHERE NOT EXISTS (SELECT FROM received WHERE (received.webhook, received.id) = (hooks.webhook, events.id))
    UNION ALL
    SELECT format('%s posts came again, %s processes were killed', again, killed)
    FROM (SELECT count(*) FILTER (WHERE number <= newest) AS again, (SELECT count(*) FROM kills) AS killed
          FROM steps GROUP BY webhook, nip) AS one WHERE again > killed
    UNION ALL
    SELECT 'nothing came' FROM steps HAVING count(*) = 0)
FROM steps;

-- F5: while nothing moves KSeF's lists are asked for at most 24 times an hour
WITH asked AS (
    SELECT nip, (ended - begun) / 3600 / quota_scale AS hours, (
        SELECT count(*) FROM calls
        WHERE calls.nip = owners.nip AND route = '/sessions' AND at BETWEEN begun AND ended) AS number
    FROM run, spans, (SELECT DISTINCT nip FROM sessions) AS owners
    WHERE kind = 'idle')
SELECT format('%s lists in %s hours of %s companies', sum(number), round(max(hours)::numeric, 1), count(*)),
ARRAY(
    SELECT format('%s lists of %s in %s hours', number, nip, hours) FROM asked WHERE number > ceil(24 * hours)
    UNION ALL
    SELECT 'nothing was listed' FROM asked HAVING coalesce(sum(number), 0) = 0)
FROM asked;

-- F6: live callers hardly notice that sessions are followed
WITH middles AS (
    SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY p99) FILTER (WHERE followed) AS beside,
        percentile_cont(0.5) WITHIN GROUP (ORDER BY p99) FILTER (WHERE NOT followed) AS alone,
        count(*) AS rounds, sum(failed) AS failed
    FROM answered)
SELECT format('99 %% of answers within %s ms, without it %s ms: %s times that; %s rounds',
    round(1000 * beside::numeric, 1), round(1000 * alone::numeric, 1), round((beside / alone)::numeric, 2),
    rounds), ARRAY(
    SELECT format('%s times as long', round((beside / alone)::numeric, 2)) WHERE beside > 1.2 * alone
    UNION ALL
    SELECT format('%s answers were not good', failed) WHERE failed > 0
    UNION ALL
    SELECT 'nobody asked' WHERE rounds = 0)
FROM middles;
