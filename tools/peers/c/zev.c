/* zev.c: see zev.h. A peer of zbus, in the order of its specification (docs/spec/wire.md, docs/spec/roster.md):
 *
 *     1  texts          UTF-8, JSON                                     W9, W10, W51
 *     2  frames         names, stamps, batches                          W1 to W15
 *     3  patterns       what they select, what to subscribe             W16 to W22
 *     4  loss           which numbers are due                           W27 to W41, W56
 *     5  the directory  root, rights, token, files                      R1 to R13, R26 to R34, R46 to R50
 *     6  receiving      a thread and a queue for each subscription      R14 to R18
 *     7  processes      does a joiner run? what have peers not read?    R25, R40
 *     8  sending        links, settling, topics, marks                  R19 to R25, R57 to R59, W46 to W48
 *     9  the bus        opening, housekeeping, fork, closing            R29 to R39, R60
 *
 * How it receives. A subscription is a "simple peer": one SUB, bound to a unix socket in the bus directory, and
 * one thread that is always in a call on it. So joins go on whatever the user does. The thread checks, counts
 * and queues frames. If the queue of a `drop` subscription is full, the frame is thrown away and counted at
 * once. If that of a `block` subscription is, the thread no longer receives, but has libzmq do its housework
 * every few milliseconds.
 *
 * How it sends. The user's thread sends, under the lock of the bus, which no one holds while waiting. A
 * housekeeping thread sends marks when nobody else sends anything.
 *
 * Locks, outermost first: zev_bus.lock, zev_sub.lock (a queue).
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "zev.h"

#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <float.h>
#include <limits.h>
#include <locale.h>
#include <poll.h>
#include <pthread.h>
#include <search.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/param.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

enum {
    MAX_TOPICS = 65536, /* of an origin (W35), and streams that a subscription knows (W34) */
    MAX_MARKS = 65536,  /* of former origins and settlings that wait (R57) */
    MAX_DEPTH = 1024,
    MAX_PREFIXES = 16,
    LEAST_EVENT_BYTES = 276,
    FRAMES_AT_ONCE = 64, /* that readers are told of */
    BLOCK_EVENTS = 1000, /* that wait on each side of a `block` connection, besides the queue */
    ID = 40,             /* bytes for an id of up to 32 digits */
    NAME = 80,           /* of a file in the bus directory */
    PATH = 160           /* of the bus directory, or of a socket in it */
};

#define UNTOLD ZEV_UNTOLD
#define MAX_GAP (UINT64_C(1) << 40)
#define MAX_BUSES 32 /* on which an event has been (W55) */

/* There is nothing to tell a program that has no memory: libzmq aborts it, too. */
static void *resize(void *old, size_t size) {
    void *memory = realloc(old, size);
    if (memory == NULL)
        abort();
    return memory;
}

#define NEW(type) ((type *)memset(resize(NULL, sizeof(type)), 0, sizeof(type)))

/* A text that grows; `at` ends with a NUL, which `size` does not count, once something was put. */
struct text {
    char *at;
    size_t size, room;
};

static void put(struct text *to, const void *bytes, size_t size) {
    if (to->size + size >= to->room) {
        to->room = 2 * (to->size + size) + 16;
        to->at = (char *)resize(to->at, to->room);
    }
    if (size > 0)
        memcpy(to->at + to->size, bytes, size);
    to->size += size;
    to->at[to->size] = '\0';
}

static void put_string(struct text *to, const char *string) {
    put(to, string, strlen(string));
}

__attribute__((format(printf, 2, 3))) static void put_format(struct text *to, const char *format, ...) {
    char *text;
    va_list args;
    va_start(args, format);
    if (vasprintf(&text, format, args) < 0)
        abort();
    va_end(args);
    put_string(to, text);
    free(text);
}

static void put_number(struct text *to, uint64_t number) {
    char digits[20];
    size_t at = sizeof digits;
    do
        digits[--at] = (char)('0' + number % 10);
    while ((number /= 10) > 0);
    put(to, digits + at, sizeof digits - at);
}

/* Tell the user what went wrong; return -1. */
__attribute__((format(printf, 3, 4))) static int fail(zev_error *err, zev_kind kind, const char *format, ...) {
    va_list args;
    if (err == NULL)
        return -1;
    err->kind = kind;
    err->retryable = kind == ZEV_TIMEOUT || kind == ZEV_UNAVAILABLE;
    va_start(args, format);
    vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    return -1;
}

/* Say why the system refused to `what` a file, and what to do. */
static int system_error(zev_error *err, const char *what, const char *path, int code) {
    bool forbidden = code == EACCES || code == EPERM;
    const char *advice = code == EMFILE               ? ": raise the limit (ulimit -n), or close some"
                         : forbidden || code == EROFS ? ": set ZBUS_DIR to a directory that you may write to"
                         : code == ENOSPC || code == EDQUOT ? ": free some space and try again"
                                                            : "";
    return fail(err, forbidden ? ZEV_PERMISSION_DENIED : ZEV_UNAVAILABLE, "cannot %s %s: %s%s", what, path,
                zmq_strerror(code), advice);
}

const char *zev_kind_name(zev_kind kind) {
    static const char *const name[] = {"", "Invalid", "Timeout", "Canceled", "PermissionDenied", "Unavailable"};
    return name[kind];
}

/* --- 1  texts --- */

/* Every text here ends with a NUL, which is part of no character and no token. So nothing reads beyond it. */

/* Return how many bytes the UTF-8 character at `text` has, 0 if it is none: too long, a surrogate, too high. */
static size_t utf8_char(const char *text) {
    const unsigned char *at = (const unsigned char *)text;
    unsigned char first = at[0];
    if (first < 0x80)
        return 1;
    if (first < 0xc2 || first > 0xf4)
        return 0;
    unsigned char low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    unsigned char high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    if (at[1] < low || at[1] > high)
        return 0;
    size_t size = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    for (size_t i = 2; i < size; i++)
        if ((at[i] & 0xc0) != 0x80)
            return 0;
    return size;
}

static bool is_utf8(const char *at) {
    for (size_t step; *at != '\0'; at += step)
        if ((step = utf8_char(at)) == 0)
            return false;
    return true;
}

/* Each function for JSON returns what follows the thing at `at`, or NULL if that is malformed. */

static const char *json_space(const char *at) {
    while (at != NULL && (*at == ' ' || *at == '\n' || *at == '\t' || *at == '\r'))
        at++;
    return at;
}

/* Read four hex digits; -1 if there are fewer. */
static int read_hex4(const char *at) {
    char digits[5] = "";
    if (strspn(at, "0123456789abcdefABCDEF") < 4)
        return -1;
    memcpy(digits, at, 4);
    return (int)strtol(digits, NULL, 16);
}

#define IS_HIGH(code) (((code) & ~0x3ff) == 0xd800) /* the first half of a pair of surrogates, */
#define IS_LOW(code) (((code) & ~0x3ff) == 0xdc00)  /* and the second */

static const char *json_escape(const char *at) {
    if (at[1] != 'u')
        return at[1] != '\0' && strchr("\"\\/bfnrt", at[1]) != NULL ? at + 2 : NULL;
    int code = read_hex4(at + 2);
    if (code < 0 || IS_LOW(code))
        return NULL;
    if (!IS_HIGH(code))
        return at + 6;
    return at[6] == '\\' && at[7] == 'u' && IS_LOW(read_hex4(at + 8)) ? at + 12 : NULL;
}

static const char *json_string(const char *at) {
    if (*at++ != '"')
        return NULL;
    while (*at != '"') {
        if ((unsigned char)*at < 0x20)
            return NULL;
        if (*at == '\\') {
            at = json_escape(at);
            if (at == NULL)
                return NULL;
        } else {
            size_t step = utf8_char(at);
            if (step == 0)
                return NULL;
            at += step;
        }
    }
    return at + 1;
}

/* Return whether a number is infinite as a double. */
static bool is_infinite(const char *number) {
    locale_t plain = newlocale(LC_NUMERIC_MASK, "C", (locale_t)0); /* the program's may have a decimal comma */
    bool infinite = plain == (locale_t)0 || strtod_l(number, NULL, plain) > DBL_MAX;
    if (plain != (locale_t)0)
        freelocale(plain);
    return infinite;
}

static const char *json_number(const char *at) {
    static const char digits[] = "0123456789";
    const char *first = *at == '-' ? at + 1 : at, *whole = first + strspn(first, digits), *end = whole;
    if (whole == first || (*first == '0' && whole > first + 1))
        return NULL;
    if (*end == '.') {
        end = whole + 1 + strspn(whole + 1, digits);
        if (end == whole + 1)
            return NULL;
    }
    const char *exponent = end;
    if (*end == 'e' || *end == 'E') {
        const char *power = end + 1 + (end[1] == '+' || end[1] == '-');
        end = power + strspn(power, digits);
        if (end == power)
            return NULL;
    }
    bool suspicious = end - exponent >= 4 || exponent - first >= 200;
    return suspicious && is_infinite(first) ? NULL : end;
}

static const char *json_value(const char *at, unsigned depth);

/* The members of an array or an object, and the closing bracket. */
static const char *json_members(const char *at, char closing, unsigned depth) {
    if (depth == 0)
        return NULL;
    at = json_space(at);
    if (*at == closing)
        return at + 1;
    for (;;) {
        if (closing == '}') {
            at = json_space(json_string(json_space(at)));
            if (at == NULL || *at++ != ':')
                return NULL;
        }
        at = json_space(json_value(at, depth - 1));
        if (at == NULL)
            return NULL;
        if (*at == closing)
            return at + 1;
        if (*at++ != ',')
            return NULL;
    }
}

/* A value that is at most `depth` levels deep, and the space before it (W51). */
static const char *json_value(const char *at, unsigned depth) {
    at = json_space(at);
    switch (*at) {
    case '"': return json_string(at);
    case '[': return json_members(at + 1, ']', depth);
    case '{': return json_members(at + 1, '}', depth);
    case 't': return strncmp(at, "true", 4) == 0 ? at + 4 : NULL;
    case 'f': return strncmp(at, "false", 5) == 0 ? at + 5 : NULL;
    case 'n': return strncmp(at, "null", 4) == 0 ? at + 4 : NULL;
    default: return json_number(at);
    }
}

static bool is_json(const char *text, size_t size, unsigned depth) {
    return json_space(json_value(text, depth)) == text + size;
}

static char *put_utf8(char *to, int code) {
    if (code < 0x80) {
        *to++ = (char)code;
        return to;
    }
    int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    *to++ = (char)((0x7f80 >> more) | code >> 6 * more);
    while (more-- > 0)
        *to++ = (char)(0x80 | (code >> 6 * more & 0x3f));
    return to;
}

/* Write what a checked string means, and a NUL; `to` may be the string itself. Return where the NUL is. */
static char *json_unescape(char *to, const char *at) {
    static const char escapes[] = "bfnrt", meant[] = "\b\f\n\r\t";
    for (at++; *at != '"';) {
        if (*at != '\\') {
            *to++ = *at++;
        } else if (at[1] != 'u') {
            const char *which = strchr(escapes, at[1]);
            *to++ = which != NULL ? meant[which - escapes] : at[1];
            at += 2;
        } else {
            int code = read_hex4(at + 2);
            if (IS_HIGH(code)) {
                code = 0x10000 + ((code - 0xd800) << 10) + (read_hex4(at + 8) - 0xdc00);
                at += 6;
            }
            to = put_utf8(to, code);
            at += 6;
        }
    }
    *to = '\0';
    return to;
}

/* Put a text as a JSON string; bytes that are not UTF-8 as R8 says. */
static void put_quoted(struct text *to, const char *at) {
    put_string(to, "\"");
    for (size_t step; *at != '\0'; at += step) {
        step = utf8_char(at);
        if (step > 0 && (unsigned char)*at >= 0x20 && *at != '"' && *at != '\\')
            put(to, at, step);
        else
            put_format(to, step > 0 ? "\\u%04x" : "\\\\x%02x", (unsigned char)*at);
        step = step > 0 ? step : 1;
    }
    put_string(to, "\"");
}

/* --- 2  frames --- */

/* Numbers `first` to `last` of a stream, which never arrived. */
struct gap {
    uint64_t first, last;
};

/* A frame that has arrived: in a queue, and what events refer to. */
struct frame {
    struct frame *next;
    unsigned references; /* atomic */
    char *bytes;         /* "system NUL kind NUL path NUL stamp NUL data", and one more NUL */
    size_t size;
    char *kind, *path, *stamp, *data;
    size_t events, left; /* how many it holds, and those that were not taken */
    char *item;          /* the next of a batch: "path NUL json NUL", NULL if it is none */
    char origin[20];
    uint64_t seq, born, settled, first, time; /* UNTOLD if untold; seq 0 without a stamp */
    struct gap gaps[2];
    int gap_count;
    uint64_t lost; /* by the subscription when the frame was queued */
};

static struct frame *new_frame(const void *bytes, size_t size) {
    struct frame *frame = (struct frame *)resize(NULL, sizeof *frame + size + 1);
    memset(frame, 0, sizeof *frame);
    frame->references = 1;
    frame->bytes = (char *)(frame + 1);
    frame->size = size;
    frame->born = frame->settled = frame->first = frame->time = UNTOLD;
    if (size > 0)
        memcpy(frame->bytes, bytes, size);
    frame->bytes[size] = '\0';
    return frame;
}

static void release(struct frame *frame) {
    if (frame != NULL && __atomic_sub_fetch(&frame->references, 1, __ATOMIC_ACQ_REL) == 0)
        free(frame);
}

/* Return what is wrong with a name (W3), NULL if nothing is. */
static const char *wrong_name(const char *name) {
    if (*name == '\0')
        return "is required";
    if (*name == '.' || strstr(name, "..") != NULL || name[strlen(name) - 1] == '.')
        return "has an empty segment: use single dots between words";
    if (strpbrk(name, "*()|") != NULL)
        return "contains one of *()|, which only a subscription may use: send a literal name";
    return is_utf8(name) ? NULL : "is not UTF-8";
}

/* Read a decimal number of at most 19 digits; anything else is untold (W7, W8). */
static uint64_t read_number(const char *at, size_t size) {
    uint64_t value = 0;
    if (size == 0 || size > 19 || strspn(at, "0123456789") < size)
        return UNTOLD;
    for (size_t i = 0; i < size; i++)
        value = value * 10 + (uint64_t)(at[i] - '0');
    return value;
}

/* Return how long the id at the start of a text is, 0 if there is none. */
static size_t id_size(const char *text, size_t most) {
    size_t size = strspn(text, "0123456789abcdef");
    return size >= 8 && size <= most ? size : 0;
}

/* Read the stamp (W5 to W8, W37); return false if it is malformed. */
static bool read_stamp(struct frame *frame) {
    uint64_t *const fields[] = {&frame->seq, &frame->born, &frame->settled, &frame->first, &frame->time};
    const char *at = frame->stamp;
    size_t size = id_size(at, 16);
    if (*at == '\0')
        return true;
    if (size == 0 || at[size] != '.')
        return false;
    memcpy(frame->origin, at, size);
    for (int i = 0; i < 5 && at[size] == '.'; i++) {
        at += size + 1;
        size = strcspn(at, ".");
        *fields[i] = read_number(at, size);
    }
    return frame->seq != UNTOLD && frame->seq > 0;
}

/* Read one item of a batch (W12), move its parts to `*to` as texts, and return what follows it. */
static const char *read_item(const char *at, char **to) {
    if (*at++ != '[')
        return NULL;
    const char *path = json_space(at), *json = "", *end = json;
    at = json_space(json_string(path));
    if (at == NULL)
        return NULL;
    if (*at == ',') {
        json = json_space(at + 1);
        end = json_value(json, MAX_DEPTH - 2);
        at = json_space(end);
    }
    if (at == NULL || *at != ']')
        return NULL;
    char *path_end = json_unescape(*to, path);
    if (path_end == *to || strlen(*to) != (size_t)(path_end - *to))
        return NULL;
    memmove(path_end + 1, json, (size_t)(end - json));
    *to = path_end + 1 + (end - json);
    *(*to)++ = '\0';
    return json_space(at + 1);
}

/* Check a batch and turn its data into pairs of texts, in place; the pairs are shorter. */
static bool read_batch(struct frame *frame, size_t size) {
    char *to = frame->item = frame->data;
    const char *at = json_space(frame->data), *end = frame->data + size;
    if (*at++ != '[')
        return false;
    at = json_space(at);
    while (*at != ']') {
        at = read_item(at, &to);
        if (at == NULL || (*at != ',' && *at != ']'))
            return false;
        if (*at == ',') {
            at = json_space(at + 1);
            if (*at == ']')
                return false;
        }
        frame->events++;
    }
    return json_space(at + 1) == end && (frame->events > 0 || frame->seq > 0);
}

/* Look at path and data (W4, W9, W12). */
static bool read_events(struct frame *frame) {
    size_t size = frame->size - (size_t)(frame->data - frame->bytes);
    if (*frame->path == '\0')
        return read_batch(frame, size);
    frame->events = 1;
    return is_utf8(frame->path) && (size == 0 || *frame->data == '\0' || is_json(frame->data, size, MAX_DEPTH));
}

/* Take the next event of a frame. */
static void next_event(struct frame *frame, zev_event *evt) {
    const char *data = frame->data;
    size_t size = frame->size - (size_t)(data - frame->bytes);
    evt->system = frame->bytes;
    evt->kind = frame->kind;
    evt->path = frame->path;
    if (frame->item != NULL) {
        evt->path = frame->item;
        data = evt->path + strlen(evt->path) + 1;
        size = strlen(data);
        frame->item += data + size + 1 - evt->path;
    }
    evt->type = size == 0 ? ZEV_NONE : *data == '\0' ? ZEV_BYTES : ZEV_JSON;
    evt->data = data + (evt->type == ZEV_BYTES);
    evt->size = size - (evt->type == ZEV_BYTES);
    memcpy(evt->origin, frame->origin, sizeof evt->origin);
    evt->seq = frame->seq > 0 ? frame->seq + (frame->events - frame->left) : 0;
    evt->time = frame->time;
    frame->left--;
}

/* What a user sends: one event, or a batch. */
struct body {
    const char *path;      /* "" for a batch */
    const void *data;      /* JSON, or NULL, or bytes */
    size_t size;           /* of bytes */
    const zev_item *items; /* of a batch */
    size_t events;
    zev_data type;
};

static int check_topic(const char *what, const char *name, zev_error *err) {
    const char *wrong = name == NULL ? "is required" : wrong_name(name);
    return wrong == NULL ? 0 : fail(err, ZEV_INVALID, "%s '%.200s' %s", what, name != NULL ? name : "", wrong);
}

static int check_event(const char *path, const char *json, unsigned depth, zev_error *err) {
    if (path == NULL || *path == '\0')
        return fail(err, ZEV_INVALID, "path is required");
    if (!is_utf8(path))
        return fail(err, ZEV_INVALID, "path '%.200s' is not UTF-8", path);
    if (json == NULL || is_json(json, strlen(json), depth))
        return 0;
    return fail(err, ZEV_INVALID, "data is not JSON that every receiver takes (wire.md, W51): '%.100s'", json);
}

/* Refuse what cannot be sent (W3, W4, W10, W11). */
static int check_body(const char *system, const char *kind, const struct body *body, zev_error *err) {
    if (check_topic("system", system, err) != 0 || check_topic("kind", kind, err) != 0)
        return -1;
    if (strncmp(system, "zbus", 4) == 0 && (system[4] == '\0' || system[4] == '.'))
        return fail(err, ZEV_INVALID, "system '%.200s' is reserved for the bus's own events: choose another",
                    system);
    if (body->items == NULL) {
        const char *json = body->type == ZEV_JSON ? (const char *)body->data : NULL;
        return check_event(body->path, json, MAX_DEPTH, err);
    }
    for (size_t i = 0; i < body->events; i++)
        if (check_event(body->items[i].path, body->items[i].json, MAX_DEPTH - 2, err) != 0)
            return -1;
    return 0;
}

/* Put the data field (W9, W12). */
static void put_data(struct text *to, const struct body *body) {
    if (body->items == NULL) {
        put(to, "", body->type == ZEV_BYTES);
        put(to, body->data, body->type == ZEV_JSON ? strlen((const char *)body->data) : body->size);
        return;
    }
    for (size_t i = 0; i < body->events; i++) {
        put_string(to, i == 0 ? "[[" : ",[");
        put_quoted(to, body->items[i].path);
        if (body->items[i].json != NULL) {
            put_string(to, ",");
            put_string(to, body->items[i].json);
        }
        put_string(to, "]");
    }
    put_string(to, body->events > 0 ? "]" : "[]");
}

/* --- 3  patterns --- */

/* Part of a text: a segment of a pattern or a name, or an alternative in a bracket. */
struct span {
    const char *at;
    size_t size;
};

static struct span segment_at(const char *at) {
    struct span segment = {at, strcspn(at, ".")};
    return segment;
}

/* Return the start of the next segment, NULL after the last one. */
static const char *after(struct span segment) {
    return segment.at[segment.size] == '.' ? segment.at + segment.size + 1 : NULL;
}

static bool is_text(struct span span, const char *text) {
    return span.size == strlen(text) && memcmp(span.at, text, span.size) == 0;
}

static bool has_any(struct span span, const char *characters) {
    return strcspn(span.at, characters) < span.size;
}

/* Take the next alternative of a bracket, or a literal segment as the only one; `*option` begins with NULL. */
static bool next_option(struct span segment, struct span *option) {
    bool bracket = *segment.at == '(';
    if (option->at == NULL)
        option->at = segment.at + bracket;
    else if (!bracket || option->at[option->size] == ')')
        return false;
    else
        option->at += option->size + 1;
    option->size = bracket ? strcspn(option->at, "|)") : segment.size;
    return true;
}

static bool is_foreign(struct span span) {
    return is_text(span, ">") || is_text(span, "#") || is_text(span, "+");
}

static const char *wrong_bracket(struct span bracket) {
    static const char wrong[] = "is wrong in a bracket, which lists whole literal segments: use '(a|b)'";
    struct span inside = {bracket.at + 1, bracket.size - 2}, option = {NULL, 0};
    if (has_any(inside, "()*"))
        return wrong;
    while (next_option(bracket, &option))
        if (option.size == 0 || is_foreign(option))
            return wrong;
    return NULL;
}

static const char *wrong_segment(struct span segment) {
    if (segment.size == 0)
        return "has an empty segment: use single dots between words, or '**' for any depth";
    if (is_text(segment, "*") || is_text(segment, "**"))
        return NULL;
    if (is_foreign(segment))
        return "uses a wildcard of another system: use '*' for one segment, '**' for everything below";
    if (segment.size > 1 && segment.at[0] == '(' && segment.at[segment.size - 1] == ')')
        return wrong_bracket(segment);
    if (has_any(segment, "*"))
        return "has a wildcard inside a segment: use 'orders.*' or 'orders.**'";
    return has_any(segment, "()|") ? "has a bracket or a bar inside a segment: use '(a|b)' for a whole one"
                                   : NULL;
}

static int check_pattern(const char *pattern, const char *what, zev_error *err) {
    if (pattern == NULL || *pattern == '\0')
        return fail(err, ZEV_INVALID, "%s pattern is required", what);
    const char *wrong = is_utf8(pattern) ? NULL : "is not UTF-8";
    for (const char *at = pattern; wrong == NULL && at != NULL; at = after(segment_at(at)))
        wrong = wrong_segment(segment_at(at));
    return wrong == NULL ? 0 : fail(err, ZEV_INVALID, "%s pattern '%.200s' %s", what, pattern, wrong);
}

static bool admits(struct span segment, struct span word) {
    if (is_text(segment, "*"))
        return true;
    for (struct span option = {NULL, 0}; next_option(segment, &option);)
        if (option.size == word.size && memcmp(option.at, word.at, word.size) == 0)
            return true;
    return false;
}

/* Return 1 if the rest of a pattern selects the rest of a name, -1 if it selects no later part of it either.
 * NULL is what is left after the last segment. */
static int match_rest(const char *pattern, const char *name) {
    if (pattern == NULL)
        return name == NULL;
    struct span segment = segment_at(pattern);
    if (is_text(segment, "**")) {
        int found;
        while ((found = match_rest(after(segment), name)) == 0 && name != NULL)
            name = after(segment_at(name));
        return found != 0 ? found : -1;
    }
    if (name == NULL)
        return -1;
    return admits(segment, segment_at(name)) ? match_rest(after(segment), after(segment_at(name))) : 0;
}

/* Return whether a checked pattern selects a name (W16, W17). */
static bool matches(const char *pattern, const char *name) {
    return strcmp(pattern, "*") == 0 || match_rest(pattern, name) == 1;
}

/* Texts with which a name may begin, or a topic. */
struct heads {
    size_t count;
    bool literal; /* there was no wildcard: they are whole names */
    struct text text[MAX_PREFIXES];
};

static void free_heads(struct heads *heads) {
    for (size_t i = 0; i < heads->count; i++)
        free(heads->text[i].at);
    heads->count = 0;
}

/* Multiply the heads with the alternatives of a segment; leave them and return false if that makes too many. */
static bool extend_heads(struct heads *heads, const char *dot, struct span segment) {
    struct heads longer;
    memset(&longer, 0, sizeof longer);
    for (struct span option = {NULL, 0}; next_option(segment, &option);)
        for (size_t i = 0; i < heads->count; i++) {
            struct text text = {NULL, 0, 0};
            put(&text, heads->text[i].at, heads->text[i].size);
            put_string(&text, dot);
            put(&text, option.at, option.size);
            size_t same = 0;
            while (same < longer.count && strcmp(longer.text[same].at, text.at) != 0)
                same++;
            if (same < longer.count || same == MAX_PREFIXES)
                free(text.at);
            else
                longer.text[longer.count++] = text;
            if (same == MAX_PREFIXES) {
                free_heads(&longer);
                return false;
            }
        }
    free_heads(heads);
    *heads = longer;
    return true;
}

static void find_heads(const char *pattern, struct heads *heads) {
    const struct span nothing = {"", 0};
    const char *dot = "";
    memset(heads, 0, sizeof *heads);
    put_string(&heads->text[heads->count++], "");
    for (const char *at = pattern; at != NULL; at = after(segment_at(at)), dot = ".") {
        if (is_text(segment_at(at), "**"))
            return;
        if (is_text(segment_at(at), "*") || !extend_heads(heads, dot, segment_at(at))) {
            extend_heads(heads, dot, nothing);
            return;
        }
    }
    heads->literal = true;
}

/* Find the ZeroMQ subscriptions of two checked patterns (W22). */
static void find_prefixes(const char *system, const char *kind, struct heads *out) {
    struct heads kinds;
    find_heads(system, out);
    if (!out->literal)
        return;
    for (size_t i = 0; i < out->count; i++)
        put(&out->text[i], "", 1);
    find_heads(kind, &kinds);
    if (matches(kind, NULL) || /* it consists of nothing but `**` */
        out->count * kinds.count > MAX_PREFIXES) {
        free_heads(&kinds);
        return;
    }
    struct heads systems = *out;
    out->count = 0;
    for (size_t i = 0; i < systems.count; i++)
        for (size_t j = 0; j < kinds.count; j++) {
            struct text text = {NULL, 0, 0};
            put(&text, systems.text[i].at, systems.text[i].size);
            put(&text, kinds.text[j].at, kinds.text[j].size + kinds.literal);
            out->text[out->count++] = text;
        }
    free_heads(&systems);
    free_heads(&kinds);
}

/* --- 4  loss --- */

/* Streams and topics begin with their key, and are found in trees of <search.h>. */
static int compare_keys(const void *a, const void *b) {
    const struct text *left = (const struct text *)a, *right = (const struct text *)b;
    int order = memcmp(left->at, right->at, left->size < right->size ? left->size : right->size);
    return order != 0 ? order : (left->size > right->size) - (left->size < right->size);
}

/* Return what has a key, NULL if nothing has. */
static void *find_key(void *const *tree, const struct text *key) {
    void *found = tfind(key, tree, compare_keys);
    return found != NULL ? *(void **)found : NULL;
}

/* Return a zeroed thing of so many bytes that begins with a copy of the key, in one piece of memory. */
static void *new_keyed(size_t size, const struct text *key) {
    struct text *made = (struct text *)memset(resize(NULL, size + key->size), 0, size);
    made->at = (char *)memcpy((char *)made + size, key->at, key->size);
    made->size = key->size;
    return made;
}

static void add_key(void **tree, const void *keyed) {
    if (tsearch(keyed, tree, compare_keys) == NULL)
        abort();
}

static void keep(void *ignored) {
    (void)ignored;
}

/* One (system, kind, origin) in use; the key is "system NUL kind NUL origin". */
struct stream {
    struct text key;
    struct stream *newer, *older; /* in the order of use */
    uint64_t due, begin;
    size_t topic_size; /* the part of the key before the origin */
};

/* What a subscription does with frames: select, check, count. */
struct decoder {
    struct text system, kind;   /* patterns */
    uint64_t announced, joined; /* the times of W38 and W28, UNTOLD if unknown */
    bool forgetful;             /* `first` no longer counts (W34) */
    uint64_t latest_born, lost, malformed;
    void *streams;       /* the tree of those that are known, */
    size_t count, limit; /* how many there are, and may be */
    struct stream *newest, *oldest;
    struct text key;
};

/* Create a decoder that has not joined yet. */
static struct decoder *new_decoder(const char *system, const char *kind, size_t limit, zev_error *err) {
    kind = kind != NULL && *kind != '\0' ? kind : "*";
    if (check_pattern(system, "system", err) != 0 || check_pattern(kind, "kind", err) != 0)
        return NULL;
    struct decoder *decoder = NEW(struct decoder);
    put_string(&decoder->system, system);
    put_string(&decoder->kind, kind);
    decoder->limit = limit;
    return decoder;
}

static void set_joined(struct decoder *decoder, uint64_t announced, uint64_t joined) {
    decoder->announced = announced;
    decoder->joined = joined;
    decoder->forgetful = joined == UNTOLD;
}

static void free_decoder(struct decoder *decoder) {
    tdestroy(decoder->streams, free);
    free(decoder->system.at);
    free(decoder->kind.at);
    free(decoder->key.at);
    free(decoder);
}

static void unlink_use(struct decoder *decoder, struct stream *stream) {
    *(stream->newer != NULL ? &stream->newer->older : &decoder->newest) = stream->older;
    *(stream->older != NULL ? &stream->older->newer : &decoder->oldest) = stream->newer;
}

static void link_newest(struct decoder *decoder, struct stream *stream) {
    stream->newer = NULL;
    stream->older = decoder->newest;
    *(decoder->newest != NULL ? &decoder->newest->newer : &decoder->oldest) = stream;
    decoder->newest = stream;
}

/* Return the stream of a frame, NULL if it is not known; `decoder->key` is its key then. */
static struct stream *find_stream(struct decoder *decoder, const struct frame *frame) {
    struct stream *stream = decoder->newest;
    decoder->key.size = 0;
    put(&decoder->key, frame->bytes, (size_t)(frame->path - frame->bytes));
    put_string(&decoder->key, frame->origin);
    if (stream != NULL && compare_keys(&stream->key, &decoder->key) == 0)
        return stream; /* nearly always the one that was used last */
    stream = (struct stream *)find_key(&decoder->streams, &decoder->key);
    if (stream != NULL) {
        unlink_use(decoder, stream);
        link_newest(decoder, stream);
    }
    return stream;
}

static void forget_oldest(struct decoder *decoder) {
    struct stream *oldest = decoder->oldest;
    tdelete(&oldest->key, &decoder->streams, compare_keys);
    decoder->count--;
    unlink_use(decoder, oldest);
    free(oldest);
    decoder->forgetful = true;
    if (decoder->joined != UNTOLD && decoder->latest_born > decoder->joined)
        decoder->joined = decoder->latest_born;
}

static struct stream *add_stream(struct decoder *decoder, const struct frame *frame, uint64_t due) {
    struct stream *stream = (struct stream *)new_keyed(sizeof *stream, &decoder->key);
    stream->topic_size = (size_t)(frame->path - frame->bytes);
    stream->due = stream->begin = due;
    add_key(&decoder->streams, stream);
    link_newest(decoder, stream);
    if (++decoder->count > decoder->limit)
        forget_oldest(decoder);
    return stream;
}

/* Return whether a frame has a time of settling that is later than the announcement (W38, W40). */
static bool is_meant(const struct decoder *decoder, const struct frame *frame) {
    return frame->settled != UNTOLD && (decoder->announced == UNTOLD || frame->settled > decoder->announced);
}

/* Return which number is due when a stream is first seen, UNTOLD for none (W29). */
static uint64_t first_due(const struct decoder *decoder, const struct frame *frame) {
    if (frame->born != UNTOLD && decoder->joined != UNTOLD && frame->born > decoder->joined)
        return 1;
    if (frame->settled == UNTOLD)
        return frame->seq;
    if (!is_meant(decoder, frame))
        return UNTOLD;
    bool counts = frame->first > 0 && frame->first <= frame->seq && !decoder->forgetful;
    return counts ? frame->first : frame->seq;
}

static void lose(struct decoder *decoder, struct frame *frame, uint64_t due, uint64_t seq) {
    if (due >= seq)
        return;
    struct gap gap = {due, seq - 1};
    frame->gaps[frame->gap_count++] = gap;
    decoder->lost += seq - due;
}

/* A mark may tell that the channel should count from an earlier number (W40). */
static void count_earlier(struct decoder *decoder, struct stream *stream, struct frame *frame) {
    if (!is_meant(decoder, frame) || decoder->forgetful || frame->first == 0 || frame->first >= stream->begin ||
        stream->begin - frame->first > MAX_GAP)
        return;
    lose(decoder, frame, frame->first, stream->begin);
    stream->begin = frame->first;
}

/* Return whether a stamp names the buses on which the events have been: a link has sent them (W55). */
static bool is_relayed(const char *stamp) {
    for (int dots = 0; dots < 6; dots++) {
        stamp = strchr(stamp, '.');
        if (stamp == NULL)
            return false;
        stamp++;
    }
    for (int buses = 1; buses <= MAX_BUSES; buses++) {
        if (strspn(stamp, "0123456789abcdef") != 16)
            return false;
        stamp += 16;
        if (*stamp != '-')
            return *stamp == '.' || *stamp == '\0';
        stamp++;
    }
    return false;
}

/* Count a well-formed frame with a stamp (W27 to W41). What came before, and a link has sent again, has no events then
 * (W56). Return false if the number cannot be (W41). */
static bool count_frame(struct decoder *decoder, struct frame *frame) {
    struct stream *stream = find_stream(decoder, frame);
    uint64_t due = stream != NULL ? stream->due : first_due(decoder, frame), seq = frame->seq;
    if (due != UNTOLD && seq > due && seq - due > MAX_GAP)
        return false;
    if (stream != NULL && seq < due && frame->events > 0 && seq + frame->events <= due && is_relayed(frame->stamp)) {
        frame->events = 0;
        return true;
    }
    if (stream == NULL && frame->born != UNTOLD && frame->born > decoder->latest_born)
        decoder->latest_born = frame->born;
    if (due == UNTOLD)
        return true;
    if (stream == NULL)
        stream = add_stream(decoder, frame, due);
    else if (frame->events == 0)
        count_earlier(decoder, stream, frame);
    lose(decoder, frame, due, seq);
    stream->due = frame->events > 0 ? seq + frame->events : due > seq ? due : seq;
    return true;
}

/* Find the fields (W2). */
static bool split_frame(struct frame *frame) {
    char **const fields[] = {&frame->kind, &frame->path, &frame->stamp, &frame->data};
    char *at = frame->bytes, *end = at + frame->size;
    for (int i = 0; i < 4; i++) {
        at = (char *)memchr(at, '\0', (size_t)(end - at));
        if (at == NULL)
            return false;
        *fields[i] = ++at;
    }
    return true;
}

/* Decode a frame in the order of W15; return false if it is malformed. */
static bool decode_checked(struct decoder *decoder, struct frame *frame) {
    if (!split_frame(frame))
        return false;
    const struct stream *last = decoder->newest;
    size_t topic_size = (size_t)(frame->path - frame->bytes);
    bool again = last != NULL && last->topic_size == topic_size &&
                 memcmp(last->key.at, frame->bytes, topic_size) == 0; /* was checked before, and is selected */
    if (!again && (wrong_name(frame->bytes) != NULL || wrong_name(frame->kind) != NULL))
        return false;
    if (!again && !(matches(decoder->system.at, frame->bytes) && matches(decoder->kind.at, frame->kind)))
        return true;
    return read_stamp(frame) && read_events(frame) && (frame->seq == 0 || count_frame(decoder, frame));
}

static void decode(struct decoder *decoder, struct frame *frame) {
    if (frame->bytes[0] != '\xff' && !decode_checked(decoder, frame)) {
        decoder->malformed++;
        frame->events = 0;
        frame->gap_count = 0;
    }
    frame->left = frame->events;
}

/* --- 5  the directory --- */

static double now_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static uint64_t random_number(void) {
    uint64_t number = 0;
    while (getrandom(&number, sizeof number, 0) < 8)
        continue;
    return number;
}

static void new_id(char id[ID]) {
    snprintf(id, ID, "%016llx", (unsigned long long)random_number());
}

static void put_name(char name[NAME], const char *id, const char *suffix) {
    snprintf(name, NAME, "%.32s.%s", id, suffix);
}

static bool is_bus_name(const char *name) {
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.";
    size_t size = strlen(name);
    return size > 0 && size <= 64 && strspn(name, allowed) == size && *name != '-' && *name != '.';
}

static const char *set_variable(const char *name) {
    const char *value = getenv(name);
    return value != NULL && *value != '\0' ? value : NULL;
}

/* Put the root that the environment names (R1). */
static void put_root(struct text *to) {
    struct stat info;
    const char *chosen = set_variable("ZBUS_DIR"), *runtime = set_variable("XDG_RUNTIME_DIR");
    const char *temporary = set_variable("TMPDIR");
    if (chosen != NULL)
        put_string(to, chosen);
    else if (runtime != NULL && (stat(runtime, &info) != 0 || info.st_uid == geteuid()))
        put_format(to, "%s/zbus", runtime);
    else
        put_format(to, "%s/zbus-%lu", temporary != NULL ? temporary : "/tmp", (unsigned long)geteuid());
}

/* Find the path of a bus directory (R1, R2, R4). */
static int find_path(char path[PATH], const char *dir, const char *name, zev_error *err) {
    const size_t most = sizeof(((struct sockaddr_un *)0)->sun_path) - sizeof "/0123456789abcdef.sock";
    struct text root = {NULL, 0, 0};
    char here[PATH_MAX] = "";
    if (!is_bus_name(name))
        return fail(err, ZEV_INVALID, "'%.100s' is no bus name: use 1 to 64 of letters, digits, '_', '-', '.'",
                    name);
    if (dir != NULL && *dir == '\0')
        return fail(err, ZEV_INVALID, "dir is empty: name a directory, or leave it NULL");
    if (dir != NULL)
        put_string(&root, dir);
    else
        put_root(&root);
    while (root.size > 1 && root.at[root.size - 1] == '/')
        root.at[--root.size] = '\0';
    bool relative = *root.at != '/', lost = relative && getcwd(here, sizeof here) == NULL;
    int size = snprintf(path, PATH, "%s%s%s/v1/%s", here, relative ? "/" : "", root.at, name);
    free(root.at);
    if (lost)
        return system_error(err, "find", "the working directory, which ZBUS_DIR is relative to", errno);
    if (size <= (int)most)
        return 0;
    return fail(err, ZEV_INVALID, "the path %s... has %d bytes of at most %zu: shorten it, or the bus name",
                path, size, most);
}

/* Who may use what is created in a directory (R48). */
struct rights {
    bool group; /* otherwise private */
    gid_t gid;
    mode_t mode; /* of a directory */
};

static struct rights rights_from(const struct stat *info) {
    const mode_t shared = S_ISGID | S_IRWXG;
    struct rights found = {false, 0, 0700};
    if ((info->st_mode & shared) == shared && (info->st_mode & S_IWOTH) == 0) {
        found.group = true;
        found.gid = info->st_gid;
        found.mode = (info->st_mode & 07777) | 0700;
    }
    return found;
}

#define TO_SHARE \
    "share a directory prepared for a group: install -d -g GROUP -m 2770 DIRECTORY, and set ZBUS_DIR to it"

/* Refuse a directory that another user controls or may write to (R46, R47). */
static int check_directory(const char *path, bool is_default, bool last, struct rights *rights,
                           zev_error *err) {
    struct stat info;
    const char *why = NULL;
    if (lstat(path, &info) != 0)
        return system_error(err, "use", path, errno);
    *rights = rights_from(&info);
    bool mine = info.st_uid == geteuid();
    bool in_group = geteuid() == 0 || rights->gid == getegid() || group_member(rights->gid);
    bool passable = !last && info.st_uid == 0 && (info.st_mode & S_IWGRP) == 0 &&
                    faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) == 0;
    if (S_ISLNK(info.st_mode))
        why = "is a symbolic link: name the directory itself";
    else if (!S_ISDIR(info.st_mode))
        why = "is not a directory: remove it or set ZBUS_DIR";
    else if ((info.st_mode & S_IWOTH) != 0)
        why = "is writable by everybody, who could forge events: chmod o-w it";
    else if (!mine && is_default)
        why = "is where you have buses of your own, and belongs to another user: remove it, or " TO_SHARE;
    else if (rights->group && !in_group)
        why = "is for a group that this process is not in: add the user to it (usermod -aG) and log in again";
    else if (rights->group && (info.st_mode & S_ISVTX) != 0)
        why = "has the sticky bit, so nobody could clean up after another user: chmod -t it";
    else if (!rights->group && !mine && !passable)
        why = "belongs to another user, for them alone: " TO_SHARE;
    return why == NULL ? 0 : fail(err, ZEV_PERMISSION_DENIED, "%s %s", path, why);
}

/* As root, do not create anything inside a directory of another user, who could then not use it (R49). */
static int check_parent(const char *root, const struct stat *parent, zev_error *err) {
    if (geteuid() != 0 || parent->st_uid == 0 || (parent->st_mode & S_IWOTH) != 0 || rights_from(parent).group)
        return 0;
    return fail(err, ZEV_PERMISSION_DENIED,
                "%s would be root's, in a directory of another user: run this as that user, or " TO_SHARE,
                root);
}

/* Create the parents of the root that are missing (R3); `*info` is then about the last one. */
static int make_parents(char *root, struct stat *info, zev_error *err) {
    struct stat here;
    int result = lstat("/", info) == 0 ? 0 : -1;
    for (char *slash = strchr(root + 1, '/'); slash != NULL && result == 0; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (stat(root, &here) != 0)
            result = check_parent(root, info, err);
        if (result == 0 && mkdir(root, 0777) != 0 && stat(root, &here) != 0)
            result = system_error(err, "create", root, errno);
        if (result == 0 && stat(root, &here) == 0)
            *info = here;
        *slash = '/';
    }
    return result;
}

/* Create a directory; for a group, nobody finds it before it has its rights (R48): it has another name. */
static int make_directory(const char *path, struct rights rights) {
    char scratch[PATH + NAME], id[ID];
    struct stat info;
    if (!rights.group || lstat(path, &info) == 0)
        return mkdir(path, 0700) == 0 || errno == EEXIST ? 0 : -1;
    new_id(id);
    snprintf(scratch, sizeof scratch, "%.*s/.%s.new", (int)(strrchr(path, '/') - path), path, id);
    if (mkdir(scratch, 0700) != 0)
        return -1;
    bool good = lchown(scratch, (uid_t)-1, rights.gid) == 0 && chmod(scratch, rights.mode) == 0 &&
                lstat(scratch, &info) == 0;
    int code = errno;
    if (good && (info.st_mode & 07777) != rights.mode)
        code = EPERM; /* this process may not set the setgid bit */
    else if (good)
        code =
            renameat2(AT_FDCWD, scratch, AT_FDCWD, path, RENAME_NOREPLACE) == 0 || errno == EEXIST ? 0 : errno;
    rmdir(scratch); /* gone already, if it was renamed */
    errno = code;
    return code == 0 ? 0 : -1;
}

/* Create what is missing on the way to a bus directory, and check it. */
static int make_path(const char *path, bool is_default, struct rights *rights, zev_error *err) {
    char part[PATH];
    struct stat info;
    const size_t bus = (size_t)(strrchr(path, '/') - path), root = bus - strlen("/v1");
    const size_t sizes[] = {root, bus, strlen(path)};
    snprintf(part, root + 1, "%s", path);
    if (make_parents(part, &info, err) != 0 || (access(part, F_OK) != 0 && check_parent(part, &info, err) != 0))
        return -1;
    if (is_default || (info.st_mode & S_IRWXO) != 0)
        info.st_mode = 0; /* nothing to inherit */
    *rights = rights_from(&info);
    for (int i = 0; i < 3; i++) { /* the root, v1, the bus */
        snprintf(part, sizes[i] + 1, "%s", path);
        if (make_directory(part, *rights) != 0)
            return system_error(err, "create", part, errno);
        if (check_directory(part, is_default && i == 0, i == 2, rights, err) != 0)
            return -1;
    }
    return 0;
}

/* An open bus directory: its token is mapped for reading, and a shared lock keeps cleaners away (R35). */
struct directory {
    int fd, token_fd;
    const volatile uint64_t *token;
    struct rights rights;
};

static int write_whole(int fd, const void *bytes, size_t size, off_t at) {
    for (ssize_t done; size > 0; size -= (size_t)done, at += done, bytes = (const char *)bytes + done) {
        done = pwrite(fd, bytes, size, at);
        if (done <= 0)
            return -1;
    }
    return 0;
}

static int write_token(int fd) {
    uint64_t bytes = random_number();
    return write_whole(fd, &bytes, sizeof bytes, 0);
}

/* Create a file that appears whole and with its rights (R8, R10, R48), locked as `lock` says; return its
 * descriptor. It gets its name by `link`, which replaces nothing. */
static int publish_file(const struct directory *directory, const char *name, const struct text *text,
                        int lock) {
    char scratch[NAME], id[ID];
    mode_t mode = directory->rights.group ? 0660 : 0600;
    new_id(id);
    put_name(scratch, id, "new");
    int fd = openat(directory->fd, scratch, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
    if (fd < 0)
        return -1;
    bool good = fchmod(fd, mode) == 0 && flock(fd, lock) == 0 &&
                write_whole(fd, text->at, text->size, 0) == 0 &&
                linkat(directory->fd, scratch, directory->fd, name, 0) == 0;
    int code = errno;
    unlinkat(directory->fd, scratch, 0);
    if (good)
        return fd;
    close(fd);
    errno = code;
    return -1;
}

/* Open the token; create it if there is none (R10). */
static int open_token(const struct directory *directory) {
    const int flags = O_RDWR | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC;
    uint64_t bytes = random_number();
    const struct text text = {(char *)&bytes, sizeof bytes, 0};
    for (int tries = 0; tries < 10; tries++) {
        int fd = openat(directory->fd, "token", flags);
        if (fd < 0 && errno == ENOENT)
            fd = publish_file(directory, "token", &text, LOCK_UN);
        if (fd >= 0 || errno != EEXIST)
            return fd;
    }
    return -1;
}

static bool map_token(struct directory *directory) {
    struct stat info;
    directory->token_fd = open_token(directory);
    if (directory->token_fd < 0 || fstat(directory->token_fd, &info) != 0)
        return false;
    if (S_ISREG(info.st_mode) && info.st_size < 8 && write_token(directory->token_fd) != 0)
        return false;
    void *mapped = mmap(NULL, 8, PROT_READ, MAP_SHARED, directory->token_fd, 0);
    directory->token = mapped != MAP_FAILED ? (const volatile uint64_t *)mapped : NULL;
    return directory->token != NULL;
}

static void close_directory(struct directory *directory) {
    if (directory->token != NULL)
        munmap((void *)(uintptr_t)directory->token, 8);
    if (directory->token_fd >= 0)
        close(directory->token_fd);
    if (directory->fd >= 0)
        close(directory->fd);
}

/* Open a bus directory, creating what is missing. The caller closes it, also if that fails. */
static int open_directory(struct directory *out, const char *path, bool is_default, zev_error *err) {
    if (make_path(path, is_default, &out->rights, err) != 0)
        return -1;
    out->fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (out->fd < 0)
        return system_error(err, "open", path, errno);
    flock(out->fd, LOCK_SH | LOCK_NB);
    return map_token(out) ? 0 : system_error(err, "open the token in", path, errno);
}

/* --- names of files, and what dead processes leave (R5, R6, R26 to R34) --- */

/* A file in the directory that concerns an ingress or a process. */
struct listed {
    char type; /* 'e' an entry, 's' a socket, 'm' a member file, 'n' about to be renamed, 't' the token */
    char name[NAME], id[ID];
    uint64_t epoch;
    bool block;
};

/* Read "ID.EPOCH"; return what follows, NULL if it is none (R6). */
static const char *read_epoch(const char *text, char id[ID], uint64_t *epoch) {
    size_t size = id_size(text, 32);
    if (size == 0 || text[size] != '.')
        return NULL;
    memcpy(id, text, size);
    id[size] = '\0';
    text += size + 1;
    size = strspn(text, "0123456789");
    if (size == 0 || size > 18 || *text == '0')
        return NULL;
    *epoch = read_number(text, size);
    return text + size;
}

/* Read the name of a file; return whether it is one of those of R5. */
static bool read_name(const char *name, struct listed *out) {
    static const char *const suffixes[] = {".sock", ".member", ".new"};
    memset(out, 0, sizeof *out);
    if (strlen(name) >= NAME)
        return false;
    strcpy(out->name, name);
    if (strcmp(name, "token") == 0)
        return (out->type = 't');
    const char *rest = read_epoch(name, out->id, &out->epoch);
    if (rest != NULL) {
        out->block = strcmp(rest, ".block") == 0;
        out->type = out->block || strcmp(rest, ".drop") == 0 ? 'e' : '\0';
        return out->type != '\0';
    }
    size_t size = id_size(name, 32);
    if (size == 0)
        return false;
    memcpy(out->id, name, size);
    for (int i = 0; i < 3 && out->type == '\0'; i++)
        if (strcmp(name + size, suffixes[i]) == 0)
            out->type = suffixes[i][1];
    return out->type != '\0';
}

/* Read a sentinel (W26). */
static bool read_sentinel(const void *topic, size_t size, char id[ID], uint64_t *epoch) {
    char text[NAME];
    if (size < 2 || size >= sizeof text || *(const char *)topic != '\xff')
        return false;
    memcpy(text, topic, size);
    text[size] = '\0';
    return read_epoch(text + 1, id, epoch) == text + size;
}

/* Connect to a socket without blocking; return the descriptor, or -1 with errno. */
static int connect_to(const char *path, int type) {
    struct sockaddr_un address;
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    snprintf(address.sun_path, sizeof address.sun_path, "%.107s", path);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof address) != 0) {
        int code = errno;
        close(fd);
        errno = code;
        return -1;
    }
    return fd;
}

/* Return whether a process listens at a path; in doubt, it does (R26). */
static bool answers(const char *path) {
    int fd = connect_to(path, SOCK_DGRAM);
    if (fd < 0)
        return errno != ECONNREFUSED && errno != ENOENT;
    close(fd);
    return true;
}

/* Remove a regular file or a socket; return whether it was removed (R32). */
static bool remove_file(const struct directory *directory, const char *name) {
    struct stat info;
    return fstatat(directory->fd, name, &info, AT_SYMLINK_NOFOLLOW) == 0 &&
           (S_ISREG(info.st_mode) || S_ISSOCK(info.st_mode)) && unlinkat(directory->fd, name, 0) == 0;
}

/* Return whether no live process holds the lock of a member file (R31). */
static bool is_unlocked(const struct directory *directory, const char *name) {
    struct stat info;
    int fd = openat(directory->fd, name, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool unlocked = fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && flock(fd, LOCK_SH | LOCK_NB) == 0;
    close(fd);
    return unlocked;
}

/* List the directory in `*files`, which the caller frees; return how many there are, -1 for an error. */
static int list_directory(const struct directory *directory, struct listed **files) {
    int fd = openat(directory->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = fd >= 0 ? fdopendir(fd) : NULL;
    struct text list = {NULL, 0, 0};
    struct listed file;
    if (stream == NULL)
        return -1;
    for (struct dirent *found; (found = readdir(stream)) != NULL;)
        if (read_name(found->d_name, &file))
            put(&list, &file, sizeof file);
    closedir(stream);
    *files = (struct listed *)(void *)list.at;
    return (int)(list.size / sizeof file);
}

/* Remove the entries of a dead ingress, then its socket (R27); return whether anything was removed. */
static bool bury(const struct directory *directory, const struct listed *files, int count, const char *id) {
    bool removed = false;
    for (const char *type = "es"; *type != '\0'; type++)
        for (int i = 0; i < count; i++)
            if (files[i].type == *type && strcmp(files[i].id, id) == 0)
                removed |= remove_file(directory, files[i].name);
    return removed;
}

static void socket_path(char to[PATH], const char *dir, const char *id) {
    snprintf(to, PATH, "%.107s/%.32s.sock", dir, id);
}

/* Remove what dead processes left, for 0.2 s at most (R28, R34). */
static void reap(const struct directory *directory, const char *dir) {
    char path[PATH];
    struct listed *files = NULL;
    struct stat info;
    bool removed = false;
    double deadline = now_seconds() + 0.2;
    int count = list_directory(directory, &files);
    for (int i = 0; i < count && now_seconds() < deadline; i++) {
        const struct listed *file = &files[i];
        socket_path(path, dir, file->id);
        if (file->type == 'm' && is_unlocked(directory, file->name))
            remove_file(directory, file->name);
        else if (file->type == 'n' && fstatat(directory->fd, file->name, &info, AT_SYMLINK_NOFOLLOW) == 0 &&
                 time(NULL) - info.st_mtime > 86400)
            remove_file(directory, file->name);
        else if ((file->type == 'e' || file->type == 's') && !answers(path))
            removed |= bury(directory, files, count, file->id);
    }
    free(files);
    if (removed)
        write_token(directory->token_fd);
}

/* --- 6  receiving --- */

struct zev_bus {
    pid_t pid;                             /* handles do not survive a fork */
    char path[PATH], id[ID], member[NAME]; /* the member file is ID.member */
    struct text process;                   /* `"process":...,"pid":...,"language":"c"` (R8) */
    zev_options options;
    void *context;
    int thread_prefix; /* of the names of the context's threads */
    bool clock_known;
    pthread_t housekeeper;
    struct zev_bus *next; /* of the open ones */

    pthread_mutex_t lock; /* guards the rest */
    pthread_cond_t tick;  /* the housekeeper is to look now */
    bool closing;
    bool sent, resting; /* since the housekeeper looked; it may look as late as it likes */
    double pause;       /* between two looks for those in doubt */
    struct directory directory;
    int member_fd;
    uint64_t counters[4], written[4]; /* of R30, in the order of the file; of closed subscriptions only */
    zev_sub *subs;

    void *lanes[2]; /* the XPUB for `drop`, and that for `block`; NULL if there is none */
    struct link *links;
    uint64_t listed, known; /* the tokens as of which links were listed and settled */
    uint64_t settled;       /* as of when (W37) */
    double answered_at;     /* when a joiner last answered, */
    double slow_at;         /* and when one, or this process, last waited for a CPU */
    char origin[ID];
    void *topics; /* the tree of those of this origin */
    size_t topic_count;
    struct topic *all, **all_end; /* the oldest first; those of former origins, too */
    struct topic **cursor;        /* into `all`: where to go on sending marks, NULL for nowhere */
    size_t retired;               /* how many of them are */
    int refusals;                 /* of a mark in a row */
    struct text frame, key;
};

struct zev_sub {
    pid_t pid;
    zev_bus *bus; /* NULL once it is closed */
    struct zev_sub *next;
    char scratch[NAME], socket_name[NAME], entry[NAME]; /* its files */
    char sentinel[NAME], endpoint[PATH + 8];
    zev_overflow overflow;
    size_t capacity, capacity_bytes;
    void *socket;            /* the thread's */
    struct decoder *decoder; /* the thread's, once joined */
    pthread_t thread;
    int wake; /* an eventfd that ends the thread's wait */

    pthread_mutex_t lock; /* guards the rest */
    pthread_cond_t changed;
    bool joined, stopping, ended, holding;
    struct frame *head, **tail;
    size_t frames, bytes, news;
    uint64_t received, lost, dropped, malformed, lost_told;
};

/* Return the machine's CLOCK_MONOTONIC in microseconds, UNTOLD if it cannot be determined (W8). */
static uint64_t machine_clock(const zev_bus *bus) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return bus->clock_known ? (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000 : UNTOLD;
}

/* Wait for a condition until a time of now_seconds(); return false if that is over. */
static bool wait_for(pthread_cond_t *condition, pthread_mutex_t *lock, double until) {
    struct timespec t;
    until = until < 4e9 ? until : 4e9; /* more than a century */
    t.tv_sec = (time_t)until;
    t.tv_nsec = (long)((until - (double)t.tv_sec) * 1e9);
    return pthread_cond_clockwait(condition, lock, CLOCK_MONOTONIC, &t) != ETIMEDOUT;
}

/* Start a thread that blocks all signals: they are the user's. */
static int start_thread(pthread_t *thread, void *(*run)(void *), void *argument, zev_error *err) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = pthread_create(thread, NULL, run, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code == 0 ? 0 : system_error(err, "start", "a thread", code);
}

/* --- the member file (R29 to R31, R53) --- */

enum { MEMBER_HEAD = 128 }; /* the counters; then the text, which is always as long */

static void put_member(struct text *to, const zev_bus *bus) {
    put_format(to, "{%s,\"origins\":[\"%s\"]}", bus->process.at, bus->origin);
}

static void write_member(zev_bus *bus) {
    struct text text = {NULL, 0, 0};
    put_member(&text, bus);
    write_whole(bus->member_fd, text.at, text.size, MEMBER_HEAD);
    free(text.at);
}

static int create_member(zev_bus *bus, zev_error *err) {
    static const char head[MEMBER_HEAD] = {0};
    struct text text = {NULL, 0, 0};
    put(&text, head, sizeof head);
    put_member(&text, bus);
    int fd = publish_file(&bus->directory, bus->member, &text, LOCK_EX), code = errno;
    free(text.at);
    if (fd < 0)
        return system_error(err, "write a member file in", bus->path, code);
    if (bus->member_fd >= 0)
        close(bus->member_fd);
    bus->member_fd = fd;
    memset(bus->written, 0, sizeof bus->written);
    return 0;
}

void zev_event_clear(zev_event *evt) {
    static const zev_event empty = ZEV_EVENT_INIT;
    release((struct frame *)evt->memory);
    *evt = empty;
}

static bool is_full(const zev_sub *sub) {
    return sub->frames >= sub->capacity || (sub->frames > 0 && sub->bytes >= sub->capacity_bytes);
}

/* Wake readers. Hold the lock. To do that for each frame of a burst costs more than the frames do, and takes the
 * processor from who still sends. */
static void tell_readers(zev_sub *sub) {
    sub->news = 0;
    pthread_cond_broadcast(&sub->changed);
}

/* Decode a frame that has arrived, and queue it, or count its events as lost if there is no room. */
static void take_frame(zev_sub *sub, zmq_msg_t *message, bool anyway) {
    struct frame *frame = new_frame(zmq_msg_data(message), zmq_msg_size(message));
    decode(sub->decoder, frame);
    pthread_mutex_lock(&sub->lock);
    if (frame->events > 0 && !anyway && is_full(sub)) {
        sub->dropped += frame->events;
        frame->events = 0;
    }
    sub->lost = sub->decoder->lost + sub->dropped;
    sub->malformed = sub->decoder->malformed;
    frame->lost = sub->lost;
    if (frame->events > 0) {
        *sub->tail = frame;
        sub->tail = &frame->next;
        sub->frames++;
        sub->bytes += frame->size;
        sub->news++;
    } else {
        release(frame);
    }
    if (sub->news >= FRAMES_AT_ONCE)
        tell_readers(sub);
    pthread_mutex_unlock(&sub->lock);
}

/* What the thread is to do next. */
enum task { RECEIVE, HOLD, STOP };

static enum task next_task(zev_sub *sub) {
    pthread_mutex_lock(&sub->lock);
    sub->holding = !sub->joined || (sub->overflow == ZEV_BLOCK && is_full(sub));
    enum task task = sub->stopping ? STOP : sub->holding ? HOLD : RECEIVE;
    pthread_mutex_unlock(&sub->lock);
    return task;
}

/* Wait until libzmq has something to do, or someone else has, or `timeout` milliseconds are over. */
static void wait_for_work(zev_sub *sub, int timeout) {
    struct pollfd fds[2] = {{-1, POLLIN, 0}, {sub->wake, POLLIN, 0}};
    size_t size = sizeof fds[0].fd;
    eventfd_t ignored;
    pthread_mutex_lock(&sub->lock);
    if (sub->news > 0)
        tell_readers(sub);
    pthread_mutex_unlock(&sub->lock);
    zmq_getsockopt(sub->socket, ZMQ_FD, &fds[0].fd, &size);
    if (poll(fds, 2, timeout) > 0 && fds[1].revents != 0)
        eventfd_read(sub->wake, &ignored);
}

/* Receive until the subscription is closed. This thread is always in a call on the socket, or about to be. It
 * does not touch `sub->bus`, which may be closed before it has even begun. */
static void *receive_frames(void *argument) {
    zev_sub *sub = (zev_sub *)argument;
    zmq_msg_t message;
    enum task task;
    int events;
    size_t size = sizeof events;
    zmq_msg_init(&message);
    while ((task = next_task(sub)) != STOP) {
        if (task == HOLD) { /* only serve joins */
            wait_for_work(sub, 10);
            zmq_getsockopt(sub->socket, ZMQ_EVENTS, &events, &size);
        } else if (zmq_msg_recv(&message, sub->socket, ZMQ_DONTWAIT) >= 0) {
            take_frame(sub, &message, false);
        } else if (errno == EAGAIN) {
            wait_for_work(sub, 1000); /* its descriptor tells of changes only, and recv saw them all */
        }
    }
    /* What has arrived stays receivable. */
    for (int left = 2 * BLOCK_EVENTS; sub->joined && left > 0; left--) {
        if (zmq_msg_recv(&message, sub->socket, ZMQ_DONTWAIT) < 0)
            break;
        take_frame(sub, &message, sub->overflow == ZEV_BLOCK);
    }
    zmq_msg_close(&message);
    zmq_close(sub->socket);
    pthread_mutex_lock(&sub->lock);
    sub->ended = true;
    pthread_cond_broadcast(&sub->changed);
    pthread_mutex_unlock(&sub->lock);
    return NULL;
}

/* --- the join (R16) --- */

static int set_int(void *socket, int option, int value) {
    return zmq_setsockopt(socket, option, &value, sizeof value);
}

/* Create the SUB, subscribe, bind it (R16, steps 1, 2 and 5; W24, W53). */
static int open_ingress(zev_bus *bus, zev_sub *sub, zev_error *err) {
    struct heads prefixes;
    const int64_t largest = (int64_t)bus->options.max_event_bytes;
    int frames = sub->overflow == ZEV_BLOCK && sub->capacity < BLOCK_EVENTS ? (int)sub->capacity : BLOCK_EVENTS;
    sub->socket = zmq_socket(bus->context, ZMQ_SUB);
    if (sub->socket == NULL)
        return system_error(err, "listen in", bus->path, zmq_errno());
    int bad = set_int(sub->socket, ZMQ_SNDHWM, 0) | set_int(sub->socket, ZMQ_RCVHWM, frames) |
              set_int(sub->socket, ZMQ_LINGER, 0) | set_int(sub->socket, ZMQ_BACKLOG, 4096) |
              zmq_setsockopt(sub->socket, ZMQ_MAXMSGSIZE, &largest, sizeof largest);
    find_prefixes(sub->decoder->system.at, sub->decoder->kind.at, &prefixes);
    for (size_t i = 0; i < prefixes.count; i++)
        bad |= zmq_setsockopt(sub->socket, ZMQ_SUBSCRIBE, prefixes.text[i].at, prefixes.text[i].size);
    free_heads(&prefixes);
    bad |= zmq_setsockopt(sub->socket, ZMQ_SUBSCRIBE, sub->sentinel, strlen(sub->sentinel));
    if (bad == 0 && zmq_bind(sub->socket, sub->endpoint) == 0)
        return 0;
    system_error(err, "listen in", bus->path, zmq_errno());
    zmq_close(sub->socket);
    return -1;
}

/* Give the socket its name (R9); it has the rights of its directory before. */
static int name_socket(zev_bus *bus, zev_sub *sub, zev_error *err) {
    int fd = bus->directory.fd;
    if ((bus->directory.rights.group && fchmodat(fd, sub->scratch, 0660, 0) != 0) ||
        renameat(fd, sub->scratch, fd, sub->socket_name) != 0)
        return system_error(err, "create a socket in", bus->path, errno);
    return 0;
}

static int write_entry(zev_bus *bus, zev_sub *sub, zev_error *err) {
    struct text text = {NULL, 0, 0};
    put_format(&text, "{%s,\"member\":\"%s\",\"channels\":1,\"patterns\":[[", bus->process.at, bus->id);
    put_quoted(&text, sub->decoder->system.at);
    put_string(&text, ",");
    put_quoted(&text, sub->decoder->kind.at);
    put_string(&text, sub->overflow == ZEV_BLOCK ? ",\"block\"]]}" : ",\"drop\"]]}");
    int fd = publish_file(&bus->directory, sub->entry, &text, LOCK_UN), code = errno;
    free(text.at);
    if (fd < 0)
        return system_error(err, "write an entry in", bus->path, code);
    close(fd);
    return 0;
}

/* Leave the directory (R18): the entry, the socket, the token. */
static void withdraw(zev_bus *bus, const zev_sub *sub) {
    bool removed = remove_file(&bus->directory, sub->entry);
    removed |= remove_file(&bus->directory, sub->socket_name);
    removed |= remove_file(&bus->directory, sub->scratch);
    if (removed)
        write_token(bus->directory.token_fd);
}

static void end_thread(zev_sub *sub) {
    pthread_mutex_lock(&sub->lock);
    sub->stopping = true;
    pthread_mutex_unlock(&sub->lock);
    eventfd_write(sub->wake, 1);
    pthread_join(sub->thread, NULL);
}

static int announce(zev_bus *bus, zev_sub *sub, zev_error *err) {
    if (name_socket(bus, sub, err) != 0 || write_entry(bus, sub, err) != 0)
        return -1;
    uint64_t announced = machine_clock(bus);
    if (write_token(bus->directory.token_fd) != 0)
        return system_error(err, "write the token in", bus->path, errno);
    set_joined(sub->decoder, announced, machine_clock(bus));
    pthread_mutex_lock(&sub->lock);
    sub->joined = true;
    pthread_mutex_unlock(&sub->lock);
    eventfd_write(sub->wake, 1);
    return 0;
}

static int join_bus(zev_bus *bus, zev_sub *sub, zev_error *err) {
    if (open_ingress(bus, sub, err) != 0)
        return -1;
    if (start_thread(&sub->thread, receive_frames, sub, err) != 0) {
        zmq_close(sub->socket);
        return -1;
    }
    if (announce(bus, sub, err) == 0)
        return 0;
    withdraw(bus, sub);
    end_thread(sub);
    return -1;
}

static void free_sub(zev_sub *sub) {
    for (struct frame *frame = sub->head, *next; frame != NULL; frame = next) {
        next = frame->next;
        release(frame);
    }
    free_decoder(sub->decoder);
    if (sub->wake >= 0)
        close(sub->wake);
    pthread_mutex_destroy(&sub->lock);
    pthread_cond_destroy(&sub->changed);
    free(sub);
}

/* Return a subscription that has not joined yet. */
static zev_sub *new_sub(zev_bus *bus, const char *system, const char *kind, zev_sub_options options,
                        zev_error *err) {
    struct decoder *decoder = new_decoder(system, kind, MAX_TOPICS, err);
    if (decoder == NULL)
        return NULL;
    zev_sub *sub = NEW(zev_sub);
    char id[ID];
    pthread_mutex_init(&sub->lock, NULL);
    pthread_cond_init(&sub->changed, NULL);
    new_id(id);
    sub->pid = bus->pid;
    sub->bus = bus;
    sub->decoder = decoder;
    sub->overflow = options.overflow;
    sub->capacity = options.capacity > 0 ? options.capacity : bus->options.capacity;
    sub->capacity_bytes = options.capacity_bytes > 0 ? options.capacity_bytes : bus->options.capacity_bytes;
    sub->tail = &sub->head;
    sub->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    put_name(sub->scratch, id, "new");
    put_name(sub->socket_name, id, "sock");
    put_name(sub->entry, id, sub->overflow == ZEV_BLOCK ? "1.block" : "1.drop");
    snprintf(sub->sentinel, sizeof sub->sentinel, "\xff%s.1", id);
    snprintf(sub->endpoint, sizeof sub->endpoint, "ipc://%.107s/%.40s", bus->path, sub->scratch);
    return sub;
}

static int check_usable(const zev_bus *bus, zev_error *err) {
    if (bus->pid == getpid())
        return 0;
    return fail(err, ZEV_CANCELED, "this bus belongs to the parent of this forked process: open another");
}

/* Return whether enough descriptors are left: libzmq aborts a process that has none to accept with. */
static bool may_listen(int lowest_free) {
    struct rlimit limit;
    return lowest_free >= 0 &&
           (getrlimit(RLIMIT_NOFILE, &limit) != 0 || (rlim_t)lowest_free + 32 <= limit.rlim_cur);
}

zev_sub *zev_subscribe(zev_bus *bus, const char *system, const char *kind, const zev_sub_options *options,
                       zev_error *err) {
    zev_sub_options chosen = {ZEV_DROP, 0, 0};
    if (options != NULL)
        chosen = *options;
    if (check_usable(bus, err) != 0)
        return NULL;
    if (chosen.overflow != ZEV_DROP && chosen.overflow != ZEV_BLOCK) {
        fail(err, ZEV_INVALID, "overflow is ZEV_DROP or ZEV_BLOCK, not %d", (int)chosen.overflow);
        return NULL;
    }
    zev_sub *sub = new_sub(bus, system, kind, chosen, err);
    if (sub == NULL)
        return NULL;
    pthread_mutex_lock(&bus->lock);
    bool good = may_listen(sub->wake) ? join_bus(bus, sub, err) == 0
                                      : system_error(err, "subscribe to", bus->path, EMFILE) == 0;
    if (good) {
        if (bus->subs == NULL)
            reap(&bus->directory, bus->path);
        sub->next = bus->subs;
        bus->subs = sub;
    }
    pthread_mutex_unlock(&bus->lock);
    if (good)
        return sub;
    free_sub(sub);
    return NULL;
}

/* --- what the user calls --- */

/* Hand the next event of the queue over; the lock is held, and there is one. */
static void pop_event(zev_sub *sub, zev_event *evt) {
    struct frame *frame = sub->head;
    next_event(frame, evt);
    evt->memory = frame;
    evt->lost = frame->lost - sub->lost_told;
    sub->lost_told = frame->lost;
    sub->received++;
    if (frame->left > 0) {
        __atomic_add_fetch(&frame->references, 1, __ATOMIC_RELAXED);
        return;
    }
    sub->head = frame->next;
    if (sub->head == NULL)
        sub->tail = &sub->head;
    sub->frames--;
    sub->bytes -= frame->size;
    if (sub->holding && sub->frames <= sub->capacity / 2 && !is_full(sub)) {
        sub->holding = false;
        eventfd_write(sub->wake, 1);
    }
}

int zev_receive(zev_sub *sub, zev_event *evt, double timeout, zev_error *err) {
    if (sub->pid != getpid())
        return fail(err, ZEV_CANCELED, "this subscription belongs to the parent of this forked process");
    zev_event_clear(evt);
    pthread_mutex_lock(&sub->lock);
    if (sub->head == NULL && !sub->ended) {
        double until = timeout >= 0 ? now_seconds() + timeout : DBL_MAX;
        while (sub->head == NULL && !sub->ended && wait_for(&sub->changed, &sub->lock, until)) {
        }
    }
    int result = sub->head != NULL ? 1 : sub->ended ? 0 : -1;
    if (result == 1)
        pop_event(sub, evt);
    pthread_mutex_unlock(&sub->lock);
    return result >= 0 ? result : fail(err, ZEV_TIMEOUT, "no event within %g s: receive again", timeout);
}

zev_stats zev_sub_stats(zev_sub *sub) {
    zev_stats stats;
    pthread_mutex_lock(&sub->lock);
    stats.received = sub->received;
    stats.lost = sub->lost;
    stats.malformed = sub->malformed;
    stats.waiting = sub->frames;
    stats.open = !sub->ended || sub->head != NULL;
    pthread_mutex_unlock(&sub->lock);
    return stats;
}

/* Leave the bus; its lock is held. */
static void close_sub(zev_bus *bus, zev_sub *sub) {
    zev_sub **at = &bus->subs;
    while (*at != sub)
        at = &(*at)->next;
    *at = sub->next;
    withdraw(bus, sub);
    sub->bus = NULL;
    end_thread(sub);
    bus->counters[0] += sub->lost;
    bus->counters[1] += sub->malformed;
}

void zev_sub_close(zev_sub *sub) {
    zev_bus *bus = sub->bus;
    if (bus == NULL || sub->pid != getpid())
        return;
    pthread_mutex_lock(&bus->lock);
    if (sub->bus != NULL)
        close_sub(bus, sub);
    pthread_mutex_unlock(&bus->lock);
}

void zev_sub_free(zev_sub *sub) {
    if (sub == NULL || sub->pid != getpid())
        return;
    zev_sub_close(sub);
    free_sub(sub);
}

/* --- 7  processes --- */

enum run_state { UNKNOWN, STOPPED, READY, ASLEEP };

/* Read a small file; "" if that fails. */
static void read_file(const char *path, char *text, size_t room) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd >= 0 ? read(fd, text, room - 1) : 0;
    text[size > 0 ? size : 0] = '\0';
    if (fd >= 0)
        close(fd);
}

/* Return the next number in a directory of /proc; after the last one, close it and return -1. */
static int next_number(DIR *stream) {
    if (stream == NULL)
        return -1;
    for (struct dirent *found; (found = readdir(stream)) != NULL;)
        if (found->d_name[0] != '.')
            return atoi(found->d_name);
    closedir(stream);
    return -1;
}

/* Return what another process does: is it stopped, or could it run and gets no CPU (R40)? */
static enum run_state look_at_process(pid_t pid) {
    char path[64], text[512];
    enum run_state state = UNKNOWN;
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *tasks = pid > 0 && pid != getpid() ? opendir(path) : NULL;
    for (int task; (task = next_number(tasks)) >= 0;) {
        snprintf(path, sizeof path, "/proc/%d/task/%d/stat", (int)pid, task);
        read_file(path, text, sizeof text);
        const char *bracket = strrchr(text, ')'); /* the name before may hold any character */
        char letter = bracket != NULL && bracket[1] == ' ' ? bracket[2] : '\0';
        if (letter == 'R' || letter == 'D')
            state = READY;
        else if (letter != '\0' && strchr("TtXZ", letter) == NULL && state != READY)
            state = ASLEEP;
        else if (letter != '\0' && state == UNKNOWN)
            state = STOPPED;
    }
    return state;
}

/* Return which process listens at a path, 0 if that is unknown. */
static pid_t listening_process(const char *path) {
    struct ucred peer;
    socklen_t size = sizeof peer;
    int fd = connect_to(path, SOCK_STREAM);
    if (fd < 0)
        return 0;
    bool known = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0;
    close(fd);
    return known ? peer.pid : 0;
}

/* Return how often the I/O thread of a context has fallen asleep, if it sleeps now; -1 otherwise. What has been
 * sent wakes it, so once it sleeps it has written all it could. */
static long long io_thread_sleeps(const zev_bus *bus) {
    char path[64], name[64], text[2048];
    long long sleeps = -1;
    DIR *tasks = opendir("/proc/self/task");
    snprintf(name, sizeof name, "Name:\t%d/ZMQbg/IO/0\n", bus->thread_prefix);
    for (int task; (task = next_number(tasks)) >= 0;) {
        snprintf(path, sizeof path, "/proc/self/task/%d/status", task);
        read_file(path, text, sizeof text);
        const char *count = strstr(text, "\nvoluntary_ctxt_switches:");
        if (strncmp(text, name, strlen(name)) == 0 && strstr(text, "State:\tS") != NULL && count != NULL)
            sleeps = atoll(strchr(count, ':') + 1);
    }
    return sleeps;
}

/* Read the id in the name of the socket that a descriptor is connected with, or bound to (R25). */
static bool read_socket_id(int fd, bool peer, char id[ID]) {
    struct sockaddr_un address;
    struct listed file;
    socklen_t size = sizeof address - 1;
    memset(&address, 0, sizeof address);
    struct sockaddr *name = (struct sockaddr *)&address;
    int done = peer ? getpeername(fd, name, &size) : getsockname(fd, name, &size);
    const char *slash = strrchr(address.sun_path, '/');
    if (done != 0 || address.sun_family != AF_UNIX || slash == NULL || !read_name(slash + 1, &file))
        return false;
    memcpy(id, file.id, ID);
    return file.type == 's' || file.type == 'n';
}

static int unread_bytes(int fd) {
    int pending = 0;
    return ioctl(fd, TIOCOUTQ, &pending) == 0 ? pending : 0;
}

/* --- 8  sending --- */

enum { SENT = 0, JOINING, FULL }; /* what became of an attempt; -1 if it failed */

/* The connection to one ingress. */
struct link {
    struct link *next;
    char id[ID], path[PATH];
    uint64_t epoch, shown; /* awaited, and seen */
    bool block, awaited, listed;
    bool missing;        /* it was given up, and has not shown the epoch since (R42) */
    bool full;           /* a frame may have been dropped for it (R57) */
    bool unread;         /* of those that are full: it has not read everything */
    double first, since; /* when the wait for it began, and where its time counts from (R21) */
    double due;          /* when to look at it again */
    bool stopped;
};

struct topic {
    struct text key; /* "system NUL kind NUL" */
    struct topic *next;
    char origin[ID];
    uint64_t born, settled, first, seq;
    uint64_t marked; /* the number that the last mark told; UNTOLD: one is due anyway */
    bool doubted;    /* that mark may have been dropped */
    bool retired;    /* it is of a former origin or settling: only a mark is owed */
    char since[72];  /* ".born.settled.first." */
};

static struct link *find_link(const zev_bus *bus, const char *id) {
    struct link *link = bus->links;
    while (link != NULL && strcmp(link->id, id) != 0)
        link = link->next;
    return link;
}

static bool in_doubt(const zev_bus *bus) {
    for (const struct link *link = bus->links; link != NULL; link = link->next)
        if (link->full || link->missing)
            return true;
    return false;
}

/* --- marks: who is owed one --- */

static bool needs_mark(const struct topic *topic) {
    return topic->seq != topic->marked && topic->first <= topic->seq;
}

/* Someone who was in doubt is so no longer: send all marks again. */
static void end_doubt(zev_bus *bus) {
    bus->cursor = &bus->all;
    for (struct topic *topic = bus->all; topic != NULL; topic = topic->next)
        if (topic->doubted)
            topic->marked = UNTOLD;
    if (bus->resting)
        pthread_cond_signal(&bus->tick);
}

static void expect(struct link *link, uint64_t epoch) {
    link->epoch = epoch;
    link->awaited = link->shown < epoch;
    link->first = link->since = now_seconds();
    link->due = link->since + 0.005;
}

static void note_subscription(zev_bus *bus, const char *message, size_t size) {
    char id[ID];
    uint64_t epoch;
    bool sentinel = size > 0 && read_sentinel(message + 1, size - 1, id, &epoch);
    struct link *link = sentinel ? find_link(bus, id) : NULL;
    if (link == NULL)
        return;
    if (*message == 1) {
        link->shown = link->shown > epoch ? link->shown : epoch;
        link->awaited = link->awaited && link->shown < link->epoch;
        bus->answered_at = now_seconds();
        if (link->missing && link->shown >= link->epoch) {
            link->missing = false;
            end_doubt(bus);
        }
    } else if (epoch == link->shown) { /* the connection has ended: wait for the next one */
        link->shown = 0;
        expect(link, link->epoch);
    }
}

/* Read what peers have subscribed to (W25), so that libzmq also learns of room. */
static void read_subscriptions(zev_bus *bus) {
    char message[NAME]; /* a sentinel fits */
    for (int i = 0; i < 2; i++)
        for (int size; bus->lanes[i] != NULL;) {
            size = zmq_recv(bus->lanes[i], message, sizeof message, ZMQ_DONTWAIT);
            if (size < 0 && zmq_errno() != EINTR)
                break;
            if (size > 0 && size <= (int)sizeof message)
                note_subscription(bus, message, (size_t)size);
        }
}

/* --- frames to the sockets --- */

/* Send the frame to every link of a socket, or to none. */
static int send_strictly(zev_bus *bus, void *socket) {
    for (int tries = 0; socket != NULL && tries < 3;) {
        if (zmq_send(socket, bus->frame.at, bus->frame.size, ZMQ_DONTWAIT) >= 0)
            return SENT;
        if (zmq_errno() == EAGAIN) {
            read_subscriptions(bus);
            tries++;
        } else if (zmq_errno() != EINTR) {
            return -1;
        }
    }
    return socket == NULL ? SENT : FULL;
}

/* Send the frame to the `drop` ingresses; those that have no room do not get it, and are in doubt (R57). */
static int send_drop(zev_bus *bus) {
    void *socket = bus->lanes[ZEV_DROP];
    int sent = send_strictly(bus, socket);
    if (sent != FULL)
        return sent;
    for (struct link *link = bus->links; link != NULL; link = link->next)
        link->full |= !link->block;
    set_int(socket, ZMQ_XPUB_NODROP, 0);
    do
        sent = zmq_send(socket, bus->frame.at, bus->frame.size, ZMQ_DONTWAIT);
    while (sent < 0 && zmq_errno() == EINTR);
    set_int(socket, ZMQ_XPUB_NODROP, 1);
    return sent < 0 ? -1 : SENT;
}

/* Make the next frame of a topic in `bus->frame`. */
static void make_frame(zev_bus *bus, const struct topic *topic, const struct body *body, bool twin) {
    struct timespec now;
    struct text *frame = &bus->frame;
    clock_gettime(CLOCK_REALTIME, &now);
    frame->size = 0;
    put_string(frame, twin ? "\xff#" : "");
    put(frame, topic->key.at, topic->key.size);
    put(frame, body->path, strlen(body->path) + 1);
    put_string(frame, topic->origin);
    put_string(frame, ".");
    put_number(frame, topic->seq + 1);
    put_string(frame, topic->since);
    put_number(frame, (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000);
    put(frame, "", 1);
    put_data(frame, body);
}

/* Send a mark and its twin (W46, W47), or only the twin (W48); `force` says to drop it for those without room.
 * Return whether it was sent. */
static bool send_mark(zev_bus *bus, const struct topic *topic, bool twin_only, bool force) {
    static const zev_item none = {"", NULL};
    static const struct body body = {"", NULL, 0, &none, 0, ZEV_NONE};
    int sent = SENT;
    for (int twin = twin_only; sent != FULL && twin < 2; twin++) {
        make_frame(bus, topic, &body, twin != 0);
        sent = force ? send_drop(bus) : send_strictly(bus, bus->lanes[ZEV_DROP]);
    }
    bus->refusals = sent == FULL ? bus->refusals + 1 : 0;
    return sent != FULL;
}

/* Send marks that are due, `limit` at most; return whether none is left. A mark for which there is no room
 * several looks in a row is dropped for those who have none (R58). */
static bool send_marks(zev_bus *bus, size_t limit) {
    while (bus->cursor != NULL && *bus->cursor != NULL) {
        struct topic *topic = *bus->cursor;
        if (needs_mark(topic)) {
            if (limit-- == 0 || !send_mark(bus, topic, false, bus->refusals >= 10))
                return false;
            topic->marked = topic->seq;
            topic->doubted = in_doubt(bus);
        }
        if (topic->retired && (!topic->doubted || bus->retired > MAX_MARKS)) {
            *bus->cursor = topic->next;
            if (topic->next == NULL)
                bus->all_end = bus->cursor;
            bus->retired--;
            free(topic);
        } else {
            bus->cursor = &topic->next;
        }
    }
    bus->cursor = NULL;
    return true;
}

/* Return the publishing socket of an overflow policy, made with the options of W24 and W53. */
static void *open_lane(zev_bus *bus, bool block) {
    size_t capacity = bus->options.capacity;
    int frames = block && capacity > BLOCK_EVENTS ? BLOCK_EVENTS : capacity < INT_MAX ? (int)capacity : INT_MAX;
    if (bus->lanes[block] != NULL)
        return bus->lanes[block];
    void *socket = zmq_socket(bus->context, ZMQ_XPUB);
    if (socket == NULL)
        return NULL;
    set_int(socket, ZMQ_XPUB_NODROP, 1);
    set_int(socket, ZMQ_IMMEDIATE, 1);
    set_int(socket, ZMQ_SNDHWM, frames);
    set_int(socket, ZMQ_RECONNECT_IVL_MAX, 5000);
    set_int(socket, ZMQ_LINGER, 0);
    return bus->lanes[block] = socket;
}

static int add_link(zev_bus *bus, const struct listed *entry, const char *path, zev_error *err) {
    char endpoint[PATH + 8];
    void *socket = open_lane(bus, entry->block);
    snprintf(endpoint, sizeof endpoint, "ipc://%.150s", path);
    if (socket == NULL || zmq_connect(socket, endpoint) != 0)
        return system_error(err, "connect to", path, zmq_errno());
    struct link *link = NEW(struct link);
    memcpy(link->id, entry->id, ID);
    snprintf(link->path, sizeof link->path, "%s", path);
    link->block = entry->block;
    link->listed = true;
    expect(link, entry->epoch);
    link->next = bus->links;
    bus->links = link;
    return 0;
}

static void remove_link(zev_bus *bus, struct link **at) {
    char endpoint[PATH + 8];
    struct link *link = *at;
    snprintf(endpoint, sizeof endpoint, "ipc://%.150s", link->path);
    zmq_disconnect(bus->lanes[link->block], endpoint);
    *at = link->next;
    free(link);
}

/* Link what is listed (R20, step 2); bury what is dead. */
static int link_listed(zev_bus *bus, const struct listed *files, int count, zev_error *err) {
    char path[PATH];
    bool removed = false;
    int result = 0;
    for (struct link *link = bus->links; link != NULL; link = link->next)
        link->listed = false;
    for (int i = 0; i < count && result == 0; i++) {
        const struct listed *entry = &files[i];
        socket_path(path, bus->path, entry->id);
        struct link *link = entry->type == 'e' ? find_link(bus, entry->id) : NULL;
        if (link != NULL) {
            link->listed = true;
            if (entry->epoch > link->epoch)
                expect(link, entry->epoch);
        } else if (entry->type == 'e' && answers(path)) {
            result = add_link(bus, entry, path, err);
        } else if (entry->type == 'e') {
            removed |= bury(&bus->directory, files, count, entry->id);
        }
    }
    for (struct link **at = &bus->links; *at != NULL;) {
        if ((*at)->listed)
            at = &(*at)->next;
        else
            remove_link(bus, at);
    }
    if (removed)
        write_token(bus->directory.token_fd);
    return result;
}

/* List the roster until the token is the same before and after it (R13). */
static int list_roster(zev_bus *bus, zev_error *err) {
    struct listed *files = NULL;
    int count;
    do {
        free(files);
        bus->listed = *bus->directory.token;
        count = list_directory(&bus->directory, &files);
        if (count < 0)
            return system_error(err, "list", bus->path, errno);
    } while (*bus->directory.token != bus->listed);
    int result = link_listed(bus, files, count, err);
    free(files);
    return result;
}

/* Return whether there is no point in waiting for a joiner any longer: slow is not stopped (R21, R40). A
 * `block` ingress that says nothing may be full, so its publishers wait (R22). */
static bool is_hopeless(zev_bus *bus, struct link *link, double now) {
    const double timeout = bus->options.join_timeout;
    if (now < link->since + timeout / 2)
        return false;
    enum run_state state = look_at_process(listening_process(link->path));
    if (link->stopped && state != STOPPED) /* it runs again: its time begins now */
        link->since = now;
    link->stopped = state == STOPPED;
    if (state == READY)
        bus->slow_at = now;
    if (link->block || now < link->since + timeout)
        return false;
    return link->stopped || now >= link->first + 30 * timeout || now >= bus->slow_at + timeout / 2;
}

/* Look at a few of those that are awaited (R20, step 4); return how many are awaited after that. */
static size_t check_awaited(zev_bus *bus, uint64_t token) {
    size_t awaited = 0;
    int looks = 4;
    double now = now_seconds();
    for (struct link **at = &bus->links, *link; (link = *at) != NULL;) {
        if (link->awaited && link->due <= now && looks-- > 0) {
            link->due = now + MIN(0.05, now - link->since + 0.005);
            if (!answers(link->path)) { /* dead: the next listing finds out, and buries it */
                remove_link(bus, at);
                bus->listed = ~token;
                continue;
            }
            if (is_hopeless(bus, link, now)) {
                link->awaited = false;
                link->missing = true;
                bus->counters[2]++;
            }
        }
        awaited += link->awaited;
        at = &link->next;
    }
    return awaited;
}

/* Bring the links up to date as far as possible (R20); return JOINING if someone has yet to answer. */
static int settle(zev_bus *bus, zev_error *err) {
    for (;;) {
        uint64_t asof = machine_clock(bus), token = *bus->directory.token;
        if (token != bus->listed && list_roster(bus, err) != 0)
            return -1;
        read_subscriptions(bus);
        size_t awaited = check_awaited(bus, token);
        if (*bus->directory.token != token || bus->listed != token)
            continue;
        if (awaited > 0)
            return JOINING;
        bus->settled = asof;
        bus->known = token;
        return SENT;
    }
}

/* Begin again under a new origin if there are as many topics as a channel can count (W35). */
static void make_room(zev_bus *bus) {
    if (bus->topic_count >= MAX_TOPICS) {
        for (struct topic *topic = bus->all; topic != NULL; topic = topic->next) {
            bus->retired += !topic->retired;
            topic->retired = true;
        }
        tdestroy(bus->topics, keep);
        bus->topics = NULL;
        bus->topic_count = 0;
        bus->cursor = &bus->all;
        new_id(bus->origin);
        write_member(bus);
    }
    send_marks(bus, 1);
}

/* Add the topic of `bus->key`. */
static struct topic *add_topic(zev_bus *bus, uint64_t born) {
    struct topic *topic = (struct topic *)new_keyed(sizeof *topic, &bus->key);
    memcpy(topic->origin, bus->origin, ID);
    topic->born = born;
    topic->first = 1;
    add_key(&bus->topics, topic);
    bus->topic_count++;
    *bus->all_end = topic;
    bus->all_end = &topic->next;
    return topic;
}

/* Keep what a mark of this settling would tell, because it may have been dropped (R57). */
static void retire_copy(zev_bus *bus, const struct topic *topic) {
    struct topic *copy = (struct topic *)new_keyed(sizeof *copy, &topic->key);
    const struct text key = copy->key;
    *copy = *topic;
    copy->key = key;
    copy->doubted = copy->retired = true;
    copy->next = NULL;
    *bus->all_end = copy;
    bus->all_end = &copy->next;
    bus->retired++;
}

/* Stamp a topic with the latest settling; what was sent with the one before is told by a twin (W48). */
static void renew_topic(zev_bus *bus, struct topic *topic) {
    bool untold = needs_mark(topic);
    if (untold)
        send_mark(bus, topic, true, true);
    if (topic->doubted || (untold && in_doubt(bus)))
        retire_copy(bus, topic);
    topic->doubted = false;
    topic->marked = topic->seq;
    topic->settled = bus->settled;
    topic->first = topic->seq + 1;
    if (topic->born == UNTOLD || topic->settled == UNTOLD)
        strcpy(topic->since, "....");
    else
        snprintf(topic->since, sizeof topic->since, ".%llu.%llu.%llu.", (unsigned long long)topic->born,
                 (unsigned long long)topic->settled, (unsigned long long)topic->first);
}

/* Try to send once (R24). */
static int try_send(zev_bus *bus, const char *system, const char *kind, const struct body *body,
                    zev_error *err) {
    uint64_t born = 0;
    bus->key.size = 0;
    put(&bus->key, system, strlen(system) + 1);
    put(&bus->key, kind, strlen(kind) + 1);
    struct topic *topic = (struct topic *)find_key(&bus->topics, &bus->key);
    if (topic == NULL) {
        make_room(bus);
        born = machine_clock(bus); /* before the token is compared (W8) */
    }
    int result = *bus->directory.token != bus->known ? settle(bus, err) : SENT;
    if (result != SENT)
        return result;
    if (topic == NULL)
        topic = add_topic(bus, born);
    if (topic->settled != bus->settled || topic->since[0] == '\0')
        renew_topic(bus, topic);
    if (body->size <= bus->options.max_event_bytes)
        make_frame(bus, topic, body, false);
    if (MAX(body->size, bus->frame.size) > bus->options.max_event_bytes)
        return fail(err, ZEV_INVALID, "the event has more than max_event_bytes, %zu, as a frame",
                    bus->options.max_event_bytes);
    result = send_strictly(bus, bus->lanes[ZEV_BLOCK]);
    if (result == SENT)
        result = send_drop(bus);
    if (result < 0)
        return system_error(err, "send", "the event", zmq_errno());
    if (result == SENT)
        topic->seq += body->events;
    return result;
}

/* Wait until a peer may have said something; other threads may send meanwhile. */
static void wait_for_peers(zev_bus *bus, double seconds) {
    struct pollfd fds[2];
    nfds_t count = 0;
    double begun = now_seconds();
    for (int i = 0; i < 2; i++) {
        size_t size = sizeof fds[0].fd;
        if (bus->lanes[i] != NULL && zmq_getsockopt(bus->lanes[i], ZMQ_FD, &fds[count].fd, &size) == 0)
            fds[count++].events = POLLIN;
    }
    pthread_mutex_unlock(&bus->lock);
    poll(fds, count, (int)(seconds * 1000));
    pthread_mutex_lock(&bus->lock);
    if (now_seconds() > begun + 2 * seconds) /* this process was kept waiting, too (R40) */
        bus->slow_at = now_seconds();
}

/* Say which `block` subscriber is in the way, as far as one can know. */
static int send_timed_out(zev_bus *bus, int obstacle, double seconds, zev_error *err) {
    const struct link *found = NULL;
    for (const struct link *link = bus->links; link != NULL; link = link->next)
        if (link->awaited || (link->block && found == NULL))
            found = link;
    bus->counters[3]++;
    const char *what = obstacle == JOINING ? "did not finish joining" : "or another one made no room";
    return fail(err, ZEV_TIMEOUT,
                "subscriber %s (process %d) %s within %g s: the event went to nobody, try again",
                found != NULL ? found->id : "?", found != NULL ? (int)listening_process(found->path) : 0, what,
                seconds);
}

/* Send until it is done or the send timeout is over (R24, R43). */
static int send_body(zev_bus *bus, const char *system, const char *kind, const struct body *body,
                     zev_error *err) {
    const double timeout = bus->options.send_timeout;
    double begun = 0, until = 0;
    int result;
    if (check_usable(bus, err) != 0 || check_body(system, kind, body, err) != 0)
        return -1;
    if (body->events == 0)
        return 0;
    pthread_mutex_lock(&bus->lock);
    while ((result = try_send(bus, system, kind, body, err)) > SENT) {
        double now = now_seconds();
        begun = begun > 0 ? begun : now;
        double progress = MAX(bus->answered_at, MIN(bus->slow_at, begun + 30 * timeout));
        until = MAX(until, MAX(begun, progress) + timeout);
        if (now >= until) {
            result = send_timed_out(bus, result, timeout, err);
            break;
        }
        wait_for_peers(bus, result == FULL ? 0.02 : MIN(MAX(0.005, (now - begun) / 8), 0.05));
    }
    bus->sent = true;
    if (bus->resting) {
        bus->resting = false;
        pthread_cond_signal(&bus->tick);
    }
    pthread_mutex_unlock(&bus->lock);
    return result;
}

int zev_send(zev_bus *bus, const char *system, const char *kind, const char *path, const char *json,
             zev_error *err) {
    const struct body body = {path, json, 0, NULL, 1, json != NULL ? ZEV_JSON : ZEV_NONE};
    return send_body(bus, system, kind, &body, err);
}

int zev_send_bytes(zev_bus *bus, const char *system, const char *kind, const char *path, const void *bytes,
                   size_t size, zev_error *err) {
    const struct body body = {path, bytes, size, NULL, 1, ZEV_BYTES};
    return send_body(bus, system, kind, &body, err);
}

int zev_send_many(zev_bus *bus, const char *system, const char *kind, const zev_item *items, size_t count,
                  zev_error *err) {
    static const zev_item none = {"", NULL};
    const struct body body = {"", NULL, 0, items != NULL ? items : &none, items != NULL ? count : 0, ZEV_NONE};
    return send_body(bus, system, kind, &body, err);
}

/* --- 9  the bus --- */

/* Return the next connection with an ingress that this bus sends to, NULL after the last one. */
static struct link *next_connection(const zev_bus *bus, DIR *descriptors, int *fd) {
    char id[ID];
    while ((*fd = next_number(descriptors)) >= 0) {
        struct link *link = read_socket_id(*fd, true, id) ? find_link(bus, id) : NULL;
        if (link != NULL)
            return link;
    }
    return NULL;
}

/* Find out which links have taken all they were sent, so that libzmq uses them again (R57). */
static void check_full_links(zev_bus *bus) {
    bool full = false, emptied = false;
    int fd;
    for (struct link *link = bus->links; link != NULL; link = link->next) {
        full |= link->full;
        link->unread = false;
    }
    long long sleeps = full ? io_thread_sleeps(bus) : -1;
    if (sleeps < 0)
        return;
    DIR *descriptors = opendir("/proc/self/fd");
    for (struct link *link; (link = next_connection(bus, descriptors, &fd)) != NULL;)
        link->unread |= unread_bytes(fd) > 0;
    if (io_thread_sleeps(bus) != sleeps)
        return;
    for (struct link *link = bus->links; link != NULL; link = link->next) {
        emptied |= link->full && !link->unread;
        link->full &= link->unread;
    }
    if (emptied) {
        read_subscriptions(bus);
        end_doubt(bus);
    }
}

/* Send marks if nothing was sent since the last look; return when to look again, in seconds from now. */
static double look_whether_at_rest(zev_bus *bus) {
    bool sent = bus->sent;
    bus->sent = false;
    read_subscriptions(bus);
    check_full_links(bus);
    if (!sent && !bus->resting)
        bus->cursor = &bus->all;
    bus->resting = !sent;
    if (sent)
        bus->pause = 0.1;
    if (!send_marks(bus, 1000))
        return 0.005;
    if (sent)
        return 0.2;
    bus->pause = MIN(2 * bus->pause, 1);
    return in_doubt(bus) ? bus->pause : 1;
}

/* Send the last marks, as far as there is room by `deadline` (R59). */
static void send_last_marks(zev_bus *bus, double deadline) {
    for (;;) {
        bool full = false;
        read_subscriptions(bus);
        check_full_links(bus);
        for (const struct link *link = bus->links; link != NULL; link = link->next)
            full |= link->full;
        bus->cursor = &bus->all;
        if ((send_marks(bus, SIZE_MAX) && !full) || now_seconds() >= deadline)
            return;
        poll(NULL, 0, 5);
    }
}

/* Write the counters if they have changed. */
static void write_counters(zev_bus *bus) {
    uint64_t now[4];
    memcpy(now, bus->counters, sizeof now);
    for (zev_sub *sub = bus->subs; sub != NULL; sub = sub->next) {
        zev_stats stats = zev_sub_stats(sub);
        now[0] += stats.lost;
        now[1] += stats.malformed;
    }
    for (int i = 0; i < 4; i++)
        now[i] = htole64(now[i]);
    if (memcmp(now, bus->written, sizeof now) != 0 && write_whole(bus->member_fd, now, sizeof now, 0) == 0)
        memcpy(bus->written, now, sizeof now);
}

static void *keep_house(void *argument) {
    zev_bus *bus = (zev_bus *)argument;
    double every_second = now_seconds() + 1;
    pthread_mutex_lock(&bus->lock);
    while (!bus->closing) {
        if (now_seconds() >= every_second) {
            write_counters(bus);
            every_second = now_seconds() + 1;
        }
        wait_for(&bus->tick, &bus->lock, now_seconds() + look_whether_at_rest(bus));
    }
    pthread_mutex_unlock(&bus->lock);
    return NULL;
}

/* --- fork: the only state of the library that is not in a handle --- */

static pthread_mutex_t buses_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;
static zev_bus *open_buses;

static void before_fork(void) {
    pthread_mutex_lock(&buses_lock);
}

static void after_fork_in_parent(void) {
    pthread_mutex_unlock(&buses_lock);
}

/* Close what would keep the parent's files locked and its sockets alive (R31, R35). */
static void after_fork_in_child(void) {
    char id[ID];
    for (zev_bus *bus = open_buses; bus != NULL; bus = bus->next) {
        close(bus->member_fd);
        close(bus->directory.fd);
        close(bus->directory.token_fd);
    }
    for (int fd = 3; open_buses != NULL && fd < 65536; fd++)
        if (read_socket_id(fd, false, id) || read_socket_id(fd, true, id))
            close(fd);
    open_buses = NULL;
    pthread_mutex_unlock(&buses_lock);
}

static void prepare_for_fork(void) {
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

/* --- opening and closing --- */

zev_options zev_defaults(void) {
    zev_options options = {NULL, NULL, 65536, 64u << 20, 16u << 20, 1, 5, 1};
    return options;
}

static int check_options(const zev_options *options, zev_error *err) {
    if (options->capacity == 0 || options->capacity_bytes == 0 || options->max_event_bytes < LEAST_EVENT_BYTES)
        return fail(err, ZEV_INVALID, "a capacity is 0, or max_event_bytes below %d", LEAST_EVENT_BYTES);
    if (!(options->join_timeout >= 0 && options->send_timeout >= 0 && options->linger >= 0))
        return fail(err, ZEV_INVALID, "join_timeout, send_timeout and linger are seconds, at least 0");
    return 0;
}

/* Return whether CLOCK_MONOTONIC is that of the machine, not of a time namespace (W8). */
static bool has_machine_clock(void) {
    char text[256];
    long long seconds = 0, nanos = 0;
    read_file("/proc/self/timens_offsets", text, sizeof text);
    sscanf(text, "monotonic %lld %lld", &seconds, &nanos);
    return seconds == 0 && nanos == 0;
}

/* Free what a bus holds; it is closed, or was never open. */
static void free_bus(zev_bus *bus) {
    while (bus->context != NULL && zmq_ctx_term(bus->context) != 0 && zmq_errno() == EINTR) {
    }
    if (bus->member_fd >= 0) {
        remove_file(&bus->directory, bus->member);
        close(bus->member_fd);
    }
    close_directory(&bus->directory);
    for (struct topic *topic = bus->all, *next; topic != NULL; topic = next) {
        next = topic->next;
        free(topic);
    }
    for (struct link *link = bus->links, *next; link != NULL; link = next) {
        next = link->next;
        free(link);
    }
    tdestroy(bus->topics, keep);
    free(bus->process.at);
    free(bus->frame.at);
    free(bus->key.at);
    pthread_mutex_destroy(&bus->lock);
    pthread_cond_destroy(&bus->tick);
    free(bus);
}

static int open_bus(zev_bus *bus, zev_error *err) {
    const zev_options *options = &bus->options;
    bool is_default = options->dir == NULL && set_variable("ZBUS_DIR") == NULL;
    const char *name = options->name != NULL ? options->name : set_variable("ZBUS_BUS");
    if (check_options(options, err) != 0 ||
        find_path(bus->path, options->dir, name != NULL ? name : "default", err) != 0 ||
        open_directory(&bus->directory, bus->path, is_default, err) != 0)
        return -1;
    bus->listed = bus->known = ~*bus->directory.token; /* list and settle before the first send */
    if (create_member(bus, err) != 0)
        return -1;
    reap(&bus->directory, bus->path);
    bus->context = zmq_ctx_new();
    if (bus->context == NULL)
        return system_error(err, "use ZeroMQ for", bus->path, zmq_errno());
    zmq_ctx_set(bus->context, ZMQ_THREAD_NAME_PREFIX, bus->thread_prefix);
    return start_thread(&bus->housekeeper, keep_house, bus, err);
}

zev_bus *zev_open(const zev_options *options, zev_error *err) {
    zev_bus *bus = NEW(zev_bus);
    bus->pid = getpid();
    bus->options = options != NULL ? *options : zev_defaults();
    bus->clock_known = has_machine_clock();
    bus->thread_prefix = (int)(random_number() % 10000); /* the kernel cuts the name of a thread at 15 bytes */
    bus->member_fd = bus->directory.fd = bus->directory.token_fd = -1;
    bus->all_end = &bus->all;
    new_id(bus->id);
    new_id(bus->origin);
    put_name(bus->member, bus->id, "member");
    put_string(&bus->process, "\"process\":");
    put_quoted(&bus->process, program_invocation_short_name);
    put_format(&bus->process, ",\"pid\":%ld,\"language\":\"c\"", (long)getpid());
    pthread_mutex_init(&bus->lock, NULL);
    pthread_cond_init(&bus->tick, NULL);
    pthread_once(&fork_once, prepare_for_fork);
    if (open_bus(bus, err) != 0) {
        free_bus(bus);
        return NULL;
    }
    pthread_mutex_lock(&buses_lock);
    bus->next = open_buses;
    open_buses = bus;
    pthread_mutex_unlock(&buses_lock);
    return bus;
}

/* Duplicate the connections, so that they live until the peers have read everything (R25). */
static struct text hold_connections(const zev_bus *bus) {
    struct text held = {NULL, 0, 0};
    DIR *descriptors = opendir("/proc/self/fd");
    int fd;
    for (struct link *link; (link = next_connection(bus, descriptors, &fd)) != NULL;)
        if (link->shown > 0)
            put(&held, &fd, sizeof fd);
    for (size_t i = 0; i < held.size / sizeof fd; i++)
        ((int *)(void *)held.at)[i] = fcntl(((int *)(void *)held.at)[i], F_DUPFD_CLOEXEC, 0);
    return held;
}

static void await_readers(struct text *held, double deadline) {
    const int *fds = (const int *)(void *)held->at;
    for (size_t i = 0; i < held->size / sizeof *fds; i++) {
        while (unread_bytes(fds[i]) > 0 && now_seconds() < deadline)
            poll(NULL, 0, 1);
        close(fds[i]);
    }
    free(held->at);
}

static void forget_bus(const zev_bus *bus) {
    pthread_mutex_lock(&buses_lock);
    zev_bus **at = &open_buses;
    while (*at != bus)
        at = &(*at)->next;
    *at = bus->next;
    pthread_mutex_unlock(&buses_lock);
}

void zev_close(zev_bus *bus) {
    if (bus == NULL || bus->pid != getpid())
        return;
    double deadline = now_seconds() + bus->options.linger;
    forget_bus(bus);
    pthread_mutex_lock(&bus->lock);
    bus->closing = true;
    pthread_cond_signal(&bus->tick);
    pthread_mutex_unlock(&bus->lock);
    pthread_join(bus->housekeeper, NULL);
    for (zev_sub *sub = bus->subs; sub != NULL; sub = sub->next)
        withdraw(bus, sub);
    send_last_marks(bus, deadline);
    struct text held = hold_connections(bus);
    for (int i = 0; i < 2; i++)
        if (bus->lanes[i] != NULL) {
            set_int(bus->lanes[i], ZMQ_LINGER, (int)(MAX(0, MIN(2e6, deadline - now_seconds())) * 1000));
            zmq_close(bus->lanes[i]);
        }
    while (bus->subs != NULL)
        close_sub(bus, bus->subs);
    free_bus(bus);
    await_readers(&held, deadline);
}
