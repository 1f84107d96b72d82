"""Functions of SQLite that the shared statements call, for PostgreSQL."""

from __future__ import annotations

CREATE = r"""
CREATE FUNCTION event_id(key bytea) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN octet_length(key) = 16 THEN encode(key, 'hex')::uuid::text
    ELSE convert_from(substr(key, get_byte(key, 0) + 1), 'UTF8') END $$;

CREATE FUNCTION event_key(id text) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE
    WHEN id ~ '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'
      THEN decode(replace(id, '-', ''), 'hex')
    WHEN octet_length(convert_to(id, 'UTF8')) = 15 THEN '\x0200'::bytea || convert_to(id, 'UTF8')
    ELSE '\x01'::bytea || convert_to(id, 'UTF8') END $$;

CREATE FUNCTION trace_id(traceparent text, key bytea) RETURNS text
  LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN traceparent IS NULL AND octet_length(key) = 16 THEN encode(key, 'hex')
    ELSE substr(coalesce(traceparent, ''), 4, 32) END $$;

CREATE FUNCTION json_numbered(j text) RETURNS TABLE (key bigint, value text)
  LANGUAGE sql IMMUTABLE AS $$
  SELECT n - 1, v FROM jsonb_array_elements_text(j::jsonb) WITH ORDINALITY AS a (v, n) $$;

CREATE FUNCTION json_each(j text) RETURNS TABLE (key text, value text)
  LANGUAGE sql IMMUTABLE AS $$
  SELECT k, v FROM jsonb_each_text(j::jsonb) AS o (k, v) $$;

CREATE FUNCTION json_path(path text) RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE
    WHEN path ~ '^\$\[[0-9]+\]$' THEN ARRAY[btrim(substr(path, 2), '[]')]
    WHEN path LIKE '$."%"' THEN ARRAY[substr(path, 4, length(path) - 4)]
    ELSE ARRAY[substr(path, 3)] END $$;

CREATE FUNCTION json_extract(j text, path text) RETURNS text
  LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE v WHEN 'true' THEN CASE jsonb_typeof(t) WHEN 'boolean' THEN '1' ELSE v END
    WHEN 'false' THEN CASE jsonb_typeof(t) WHEN 'boolean' THEN '0' ELSE v END ELSE v END
  FROM (SELECT j::jsonb #>> json_path(path) AS v, j::jsonb #> json_path(path) AS t) AS found $$;

CREATE FUNCTION json_type(j text, path text) RETURNS text
  LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE jsonb_typeof(t)
    WHEN 'number' THEN CASE WHEN t::text ~ '^-?[0-9]+$' THEN 'integer' ELSE 'real' END
    WHEN 'string' THEN 'text'
    WHEN 'boolean' THEN t::text
    ELSE jsonb_typeof(t) END
  FROM (SELECT j::jsonb #> json_path(path) AS t) AS found $$;

CREATE FUNCTION json_set(j text, path text, value text) RETURNS text
  LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT jsonb_set(j::jsonb, json_path(path), to_jsonb(value))::text $$;

CREATE FUNCTION json_set(j text, path text, value bigint) RETURNS text
  LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT jsonb_set(j::jsonb, json_path(path), to_jsonb(value))::text $$;

CREATE FUNCTION json_remove(j text, path text) RETURNS text
  LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT (j::jsonb #- json_path(path))::text $$;

CREATE FUNCTION plus(n bigint, is_so boolean) RETURNS bigint
  LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT n + CASE WHEN is_so THEN 1 ELSE 0 END $$;

CREATE AGGREGATE sum(boolean) (SFUNC = plus, STYPE = bigint, INITCOND = '0', PARALLEL = SAFE)
"""
"""The functions, separated by blank lines."""
