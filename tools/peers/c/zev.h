/* zev.h: events between the processes of a machine, without a broker. A zbus peer in C99 on libzmq.
 *
 *     zev_error err;
 *     zev_bus *bus = zev_open(NULL, &err);                          the bus $ZBUS_BUS, or "default"
 *     zev_sub *sub = zev_subscribe(bus, "orders", NULL, NULL, &err);
 *     zev_send(bus, "orders", "order.created", "/orders/1", "{\"total\":9.5}", &err);
 *     zev_event evt = ZEV_EVENT_INIT;
 *     while (zev_receive(sub, &evt, -1, &err) == 1)
 *         printf("%s %s %s\n", evt.kind, evt.path, evt.data);
 *     zev_event_clear(&evt);
 *     zev_sub_free(sub);
 *     zev_close(bus);
 *
 * Events are JSON text as you wrote it, or raw bytes; bring your own JSON library, or none. The text is checked
 * to be strict JSON when it is sent and when it arrives, so a parser never meets anything else.
 *
 * Errors.    Functions that can fail return NULL or -1 and fill in `*err`; pass NULL if you don't care.
 * Memory.    You free what you opened: zev_close, zev_sub_free, zev_event_clear. No call keeps your pointers.
 *            If there is no memory left, the process aborts, as libzmq does.
 * Threads.   Any thread may call anything but zev_close and zev_sub_free, which end the object. Give each
 * thread a `zev_event` of its own. The library starts one thread for each bus and one for each subscription,
 * and two of libzmq; they block all signals. Time.      Seconds. A negative timeout means forever. Fork.
 * Handles belong to the process that opened them. In a child they return ZEV_CANCELED: open others. The end.
 * Call zev_close before the process ends: libzmq may not have written the last events before.
 *
 * The protocol is specified in docs/spec of zbus; W and R numbers in the source are its clauses.
 */
#ifndef ZEV_H
#define ZEV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What went wrong. The names (zev_kind_name) are those of zbus in every language. */
typedef enum {
    ZEV_OK = 0,
    ZEV_INVALID,           /* the call is wrong: a name, a pattern, or data that cannot be sent */
    ZEV_TIMEOUT,           /* no event came, or a full `block` subscriber made no room; retry as you like */
    ZEV_CANCELED,          /* the bus is closed, or belongs to the parent of this forked process */
    ZEV_PERMISSION_DENIED, /* the bus directory is not safe to use, or not yours */
    ZEV_UNAVAILABLE        /* the system refused: disk full, no descriptors; retry once that is mended */
} zev_kind;

typedef struct {
    zev_kind kind;
    bool retryable;     /* whether the same call may succeed later */
    char message[1024]; /* what is wrong, and what to do about it */
} zev_error;

/* Return "Invalid", "Timeout", "Canceled", "PermissionDenied" or "Unavailable"; "" for ZEV_OK. */
const char *zev_kind_name(zev_kind kind);

/* A process's access to one bus, and one of its subscriptions. */
typedef struct zev_bus zev_bus;
typedef struct zev_sub zev_sub;

/* Options of a bus. Take zev_defaults() and change what you must. */
typedef struct {
    const char *dir;        /* where the buses are; NULL: $ZBUS_DIR, or the user's default */
    const char *name;       /* the bus; NULL: $ZBUS_BUS, or "default" */
    size_t capacity;        /* frames that may wait for a subscription; 65,536 */
    size_t capacity_bytes;  /* bytes that may wait for a subscription; 64 MiB */
    size_t max_event_bytes; /* the largest frame, the same in every process of the bus; 16 MiB */
    double join_timeout;    /* how long a send waits for a joiner that does not answer; 1 s */
    double send_timeout;    /* how long a send waits for a full `block` subscriber; 5 s */
    double linger;          /* how long zev_close hands over what was sent; 1 s */
} zev_options;

zev_options zev_defaults(void);

/* Open a bus, creating its directory if there is none. `options` NULL stands for zev_defaults().
 *
 * Fails with ZEV_INVALID (a name, a path that is too long, an option), ZEV_PERMISSION_DENIED, ZEV_UNAVAILABLE.
 */
zev_bus *zev_open(const zev_options *options, zev_error *err);

/* Close the bus and its subscriptions, and free it; hand over what was sent, for `linger` seconds at most.
 *
 * What has arrived stays receivable until zev_sub_free. In a forked child, this only gives the child's copy up.
 */
void zev_close(zev_bus *bus);

/* --- sending -------------------------------------------------------------------------------------------------
 */

/* Send one event to every subscriber of the bus. Without subscribers, that is not an error.
 *
 * `system` and `kind` are names: segments joined by dots, without any of "*()|". `path` is any text but an
 * empty one. `json` is JSON text, or NULL for no data. All are UTF-8.
 *
 * Returns 0, or -1: ZEV_INVALID, and nothing was sent; ZEV_TIMEOUT, and the event went to nobody: retry;
 * ZEV_CANCELED; ZEV_UNAVAILABLE. */
int zev_send(zev_bus *bus, const char *system, const char *kind, const char *path, const char *json,
             zev_error *err);

/* Send one event whose data are raw bytes, possibly none. The rest is as for zev_send. */
int zev_send_bytes(zev_bus *bus, const char *system, const char *kind, const char *path, const void *bytes,
                   size_t size, zev_error *err);

/* One event of a batch: a path, and JSON text or NULL. */
typedef struct {
    const char *path;
    const char *json;
} zev_item;

/* Send events of one topic as one frame: several times faster, delivered or lost as a whole. No bytes.
 *
 * The rest is as for zev_send. With no items, nothing is sent. */
int zev_send_many(zev_bus *bus, const char *system, const char *kind, const zev_item *items, size_t count,
                  zev_error *err);

/* --- receiving -----------------------------------------------------------------------------------------------
 */

/* What a full queue means. */
typedef enum {
    ZEV_DROP = 0, /* new events are dropped, for this subscription only, and counted exactly */
    ZEV_BLOCK     /* publishers wait, each for its send timeout */
} zev_overflow;

typedef struct {
    zev_overflow overflow;
    size_t capacity;       /* frames that may wait; 0: as the bus says */
    size_t capacity_bytes; /* bytes that may wait; 0: as the bus says */
} zev_sub_options;

/* Subscribe to a pattern of systems and, unless `kind` is NULL or empty, of kinds.
 *
 * A pattern's segments are literal, `*` (one segment), `**` (zero or more) or `(a|b)`; `*` alone is everything.
 * Every event whose send begins after this returned is received, or counted as lost. `options` NULL: drop.
 *
 * Returns NULL on ZEV_INVALID, ZEV_CANCELED, ZEV_PERMISSION_DENIED or ZEV_UNAVAILABLE. */
zev_sub *zev_subscribe(zev_bus *bus, const char *system, const char *kind, const zev_sub_options *options,
                       zev_error *err);

typedef enum {
    ZEV_NONE = 0, /* no data: `data` is "" */
    ZEV_JSON,     /* `data` is JSON text */
    ZEV_BYTES     /* `data` are raw bytes */
} zev_data;

#define ZEV_UNTOLD UINT64_MAX

/* An event. All texts are UTF-8 and end with a NUL, as do JSON text and bytes; `size` does not count it. */
typedef struct {
    const char *system;
    const char *kind;
    const char *path;
    zev_data type;
    const char *data;
    size_t size;
    char origin[20]; /* the publisher's incarnation; "" if it tells none */
    uint64_t seq;    /* the number of the event in (origin, system, kind); 0 if untold */
    uint64_t time;   /* when it was sent, in microseconds since 1970; ZEV_UNTOLD if untold */
    uint64_t lost;   /* events this subscription has lost since the event received before this one */
    void *memory;    /* the library's */
} zev_event;

#define ZEV_EVENT_INIT {NULL, NULL, NULL, ZEV_NONE, NULL, 0, "", 0, ZEV_UNTOLD, 0, NULL}

/* Wait for an event, at most `timeout` seconds; negative: forever.
 *
 * `evt` is ZEV_EVENT_INIT or an event received before, which is freed. Its texts stay valid until it is
 * received into again or cleared, also if the subscription is freed first.
 *
 * Returns 1 with an event; 0 once the subscription is closed and everything has been received; -1 with
 * ZEV_TIMEOUT (retry) or ZEV_CANCELED (forked). */
int zev_receive(zev_sub *sub, zev_event *evt, double timeout, zev_error *err);

/* Free what an event holds. */
void zev_event_clear(zev_event *evt);

/* How a subscription did so far. received + lost + what waits adds up to what was sent to it. */
typedef struct {
    uint64_t received;  /* events that zev_receive has returned */
    uint64_t lost;      /* events that were dropped, here or on the way */
    uint64_t malformed; /* frames that were no events: a faulty publisher */
    size_t waiting;     /* frames that wait for zev_receive */
    bool open;          /* false once zev_receive would return 0 */
} zev_stats;

zev_stats zev_sub_stats(zev_sub *sub);

/* Leave the bus. What has arrived stays receivable; then zev_receive returns 0, in every thread that waits. */
void zev_sub_close(zev_sub *sub);

/* Close the subscription if it is open, and free it. No thread may be using it. May follow zev_close. */
void zev_sub_free(zev_sub *sub);

#ifdef __cplusplus
}
#endif
#endif
