-- Stores an idempotency key and its task in one statement, and returns the row of the key, new or
-- existing. Returns no row while another request holds the lock of the key.
--
-- $1 user_id, $2 key, $3 payload_digest, $4 id, $5 etag, $6 title, $7 description, $8 completed,
-- $9 list_id, $10 parent_id, $11 depth, $12 priority, $13 due_date, $14 due_time, $15 due_timezone,
-- $16 labels
WITH lock AS (
    SELECT pg_try_advisory_xact_lock(hashtextextended($1::text || ' ' || $2::text, 0)) AS held
),
claimed AS (
    INSERT INTO idempotency_keys AS known (user_id, key, payload_digest, task_id, etag, created_at)
    SELECT $1::text, $2::text, $3::bytea, $4::uuid, $5::uuid, now() FROM lock WHERE held
    ON CONFLICT (user_id, key) DO UPDATE
    SET payload_digest = excluded.payload_digest,
        task_id = excluded.task_id,
        etag = excluded.etag,
        created_at = excluded.created_at
    WHERE known.created_at < now() - interval '24 hours'
    RETURNING payload_digest, task_id, etag, created_at
),
stored AS (
    INSERT INTO tasks
        (user_id, id, title, description, completed_at, list_id, parent_id, depth, priority,
         due_date, due_time, due_timezone, labels, created_at, updated_at, etag)
    SELECT
        $1::text, task_id, $6::text, $7::text, CASE WHEN $8::boolean THEN created_at END,
        $9::uuid, $10::uuid, $11::smallint, $12::smallint,
        $13::date, $14::time, $15::text, $16::text, created_at, created_at, etag
    FROM claimed
),
expired AS (
    SELECT key FROM idempotency_keys
    WHERE user_id = $1::text
        AND key <> $2::text
        AND created_at < now() - interval '24 hours'
    ORDER BY created_at
    LIMIT 10
    FOR UPDATE SKIP LOCKED
),
deleted_expired AS (
    DELETE FROM idempotency_keys
    WHERE user_id = $1::text AND key IN (SELECT key FROM expired)
)
SELECT payload_digest, task_id, etag, created_at FROM claimed
UNION ALL
SELECT payload_digest, task_id, etag, created_at FROM idempotency_keys
WHERE user_id = $1::text
    AND key = $2::text
    AND created_at >= now() - interval '24 hours'
