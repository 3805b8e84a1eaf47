#include "flow/idempotency.h"

#include "base/digest.h"

#include <string.h>

struct idempotency {
    struct text key;
    struct text hash; /* of method, path and payload */
    int64_t status;
    struct text content_type;
    struct text location;
    struct text body;
    int64_t at_us;
    bool fresh; /* no column: made by the batch in hand */
};

static const struct rows_column idempotency_columns[] = {
    ROWS_COLUMN(idempotency, key, ROWS_TEXT),      ROWS_COLUMN(idempotency, hash, ROWS_BYTES),
    ROWS_COLUMN(idempotency, status, ROWS_INT),    ROWS_COLUMN(idempotency, content_type, ROWS_TEXT),
    ROWS_COLUMN(idempotency, location, ROWS_TEXT), ROWS_COLUMN(idempotency, body, ROWS_BYTES),
    ROWS_COLUMN(idempotency, at_us, ROWS_INT),
};
const struct rows_table idempotency_table = {
    .name = "idempotency",
    .columns = idempotency_columns,
    .column_count = sizeof(idempotency_columns) / sizeof(idempotency_columns[0]),
    .key_count = 1,
    .row_bytes = sizeof(struct idempotency),
    .indexes = {"at_us"},
};

static bool is_safe(const struct request *request)
{
    return request->idempotency_key.length == 0 || strcmp(request->route->method, "POST") != 0;
}

void idempotency_keys(struct work *work, const struct request *request)
{
    if (!is_safe(request))
        rows_want(work, &idempotency_table, &(struct idempotency){.key = request->idempotency_key});
}

static void request_hash(const struct request *request, uint8_t ret[DIGEST_BYTES])
{
    /* Of the path that was asked for last, and of a parameter that it does not have: nearly always those of
     * the next request, too. */
    static _Thread_local const char *last_path;
    static _Thread_local uint8_t of_path[DIGEST_BYTES], of_none[DIGEST_BYTES];
    uint8_t all[DIGEST_BYTES * (REQUEST_PARAMETERS_MAX + 2)];
    size_t count = 0;
    if (last_path != request->route->path) {
        last_path = request->route->path;
        digest_sha256(text_of(last_path), of_path);
        digest_sha256(TEXT(""), of_none);
    }
    memcpy(all + DIGEST_BYTES * count++, of_path, DIGEST_BYTES);
    for (size_t i = 0; i < REQUEST_PARAMETERS_MAX; i++, count++) {
        if (request->parameters[i].length)
            digest_sha256(request->parameters[i], all + DIGEST_BYTES * count);
        else
            memcpy(all + DIGEST_BYTES * count, of_none, DIGEST_BYTES);
    }
    digest_sha256(request->body, all + DIGEST_BYTES * count++);
    digest_sha256((struct text){(const char *)all, DIGEST_BYTES * count}, ret);
}

bool idempotency_answered(struct work *work, const struct request *request, struct answer *answer)
{
    uint8_t hash[DIGEST_BYTES];
    if (is_safe(request))
        return false;
    const struct idempotency *first =
        rows_get(work, &idempotency_table, &(struct idempotency){.key = request->idempotency_key});
    if (!first || (!first->fresh && work_now_us(work) - first->at_us > IDEMPOTENCY_KEPT_S * INT64_C(1000000)))
        return false;
    request_hash(request, hash);
    if (first->hash.length != DIGEST_BYTES || memcmp(first->hash.at, hash, DIGEST_BYTES) != 0) {
        answer_problem(work, answer, 422, "this Idempotency-Key was used for another request");
        return true;
    }
    if (first->fresh) {
        answer_problem(work, answer, 409, "the first request with this Idempotency-Key is still running");
        return true;
    }
    struct text type = text_copy(work_arena(work), first->content_type);
    *answer = (struct answer){
        .status = (int)first->status,
        .content_type = type.length ? type.at : NULL,
        .body = first->body,
        .location = first->location,
    };
    return true;
}

void idempotency_keep(struct work *work, const struct request *request, const struct answer *answer)
{
    if (is_safe(request) || answer->status == 400 || answer->status == 422 || answer->status >= 500)
        return;
    uint8_t *hash = arena_take(work_arena(work), DIGEST_BYTES);
    if (!hash)
        return; /* the arena's failure sticks */
    request_hash(request, hash);
    struct idempotency row = {
        .key = request->idempotency_key,
        .hash = {(const char *)hash, DIGEST_BYTES},
        .status = answer->status,
        .content_type = text_of(answer->content_type),
        .location = answer->location,
        .body = answer->body,
        .at_us = work_now_us(work),
    };
    struct idempotency *kept = rows_get(work, &idempotency_table, &row);
    if (kept)
        *kept = row; /* it had outlived its day */
    else
        kept = rows_add(work, &idempotency_table, &row);
    if (kept)
        kept->fresh = true;
}

size_t idempotency_prune(struct work *work, int64_t now_us)
{
    void **rows;
    const struct store_value before = STORE_INT(now_us - IDEMPOTENCY_KEPT_S * INT64_C(1000000));
    size_t count = rows_find_free(work, &idempotency_table, "at_us < $1 ORDER BY at_us", &before, 1,
                                  IDEMPOTENCY_PRUNE_MAX, &rows);
    for (size_t i = 0; i < count; i++)
        rows_delete(work, &idempotency_table, rows[i]);
    return count;
}
