-- When a caller last asked for a kept session, noted now and then: moving ones that nobody asks for any more
-- are not refreshed together with the others.

ALTER TABLE kept_sessions ADD COLUMN wanted_at timestamptz NOT NULL DEFAULT now();
