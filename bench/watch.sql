-- Writes down every change of the rows that matter, but for what is large or secret in them.
CREATE SCHEMA watch;
CREATE TABLE watch.changes (
    at float8 DEFAULT extract(epoch FROM clock_timestamp()),
    act text, tab text, is_put boolean, old jsonb, new jsonb
);
-- Left out: that the body of a final answer was kept, or its rows looked for, changes nothing of the answer.
CREATE FUNCTION watch.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ DECLARE
    is_put  boolean := current_query() LIKE '%INSERT INTO kept_sessions%';
    without text[] := '{session,links,body,body_form,body_tag,looked_at}';
    old_row jsonb := to_jsonb(OLD) - without;
    new_row jsonb := to_jsonb(NEW) - without;
BEGIN
    IF TG_TABLE_NAME <> 'kept_sessions' OR is_put OR old_row IS DISTINCT FROM new_row THEN
        INSERT INTO watch.changes (act, tab, is_put, old, new)
        VALUES (TG_OP, TG_TABLE_NAME, is_put, old_row, new_row);
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION watch.moment(jsonb, text) RETURNS float8 LANGUAGE sql
    RETURN extract(epoch FROM ($1 ->> $2)::timestamptz);

DO $$ DECLARE tab text; BEGIN
    FOREACH tab IN ARRAY '{kept_sessions,synced_invoices,offline_invoices,quota_calls,quota_groups,
        ksef_sessions,outages}'::text[]
    LOOP
        EXECUTE format('CREATE TRIGGER watch AFTER INSERT OR UPDATE OR DELETE ON %I'
            ' FOR EACH ROW EXECUTE FUNCTION watch.note()', tab);
    END LOOP;
END $$;

-- Every row that must stay as it is when everything is asked for again, as PostgreSQL stores it.
CREATE TABLE watch.versions (again boolean, tab text, place text, written_by text);
CREATE FUNCTION watch.note_versions(again boolean) RETURNS void LANGUAGE plpgsql AS $$
DECLARE tab text; BEGIN
    FOREACH tab IN ARRAY '{kept_sessions,kept_invoices,synced_invoices,offline_invoices,upos}'::text[]
    LOOP
        EXECUTE format('INSERT INTO watch.versions SELECT $1, $2, ctid::text, xmin::text FROM %I', tab)
        USING again, tab;
    END LOOP;
END $$;
