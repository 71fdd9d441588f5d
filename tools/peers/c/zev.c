/* zev.c: see zev.h. A peer of zbus, in the order of its specification (docs/spec/wire.md, docs/spec/roster.md):
 *
 *     1  texts          UTF-8, JSON                           W9, W10, W51
 *     2  frames         names, stamps, batches                W1 to W15
 *     3  patterns       what they select, what to subscribe   W16 to W22
 *     4  loss           which numbers are due                 W27 to W41
 *     5  the directory  root, rights, token, files            R1 to R13, R26 to R34, R46 to R53
 *     6  receiving      a thread and a queue for each subscription      R14 to R18
 *     7  processes      does a joiner that says nothing run?  R40
 *     8  sending        links, settling, marks, the frame     R19 to R25, R57 to R59, W46 to W48
 *     9  the bus        opening, housekeeping, fork, closing  R35 to R39, R60
 *
 * How it receives. A subscription is a "simple peer": one SUB, bound to a unix socket in the bus directory, and
 * one thread that is always in a call on it. So joins go on whatever the user does. The thread checks, counts and
 * queues frames. If the queue of a `drop` subscription is full, the frame is thrown away and counted at once.
 * If that of a `block` subscription is, the thread no longer receives, but has libzmq do its housework every
 * few milliseconds. Marks reach the thread in band, so it needs no twins.
 *
 * Locks, outermost first: zev_bus.send_lock (the publisher), zev_bus.lock (the directory and the list of
 * subscriptions), zev_sub.lock (a queue).
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "zev.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <pwd.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

enum {
    MAX_TOPICS = 65536, /* of an origin (W35), and streams that a subscription knows (W34) */
    MAX_MARKS = 65536,  /* that wait (R57) */
    MAX_DEPTH = 1024,
    MAX_PREFIXES = 16,
    GAPS_KEPT = 1000,
    LARGE_BYTES = 1024,
    NOTICE_BYTES = 256 * 1024,
    LEAST_EVENT_BYTES = 276,
    BLOCK_EVENTS = 1000, /* that wait on each side of a `block` connection, besides the queue */
    ID = 40,             /* bytes for an id of up to 32 digits */
    PATH = 4096
};

#define UNTOLD ZEV_UNTOLD
#define MAX_GAP (UINT64_C(1) << 40)
#define WHOLE(limit) ((limit) > INT_MAX ? INT_MAX : (int)(limit))

/* Return how many bytes the UTF-8 character at `at` has, 0 if it is none: too long, a surrogate, too high. */
static size_t utf8_char(const unsigned char *at, const unsigned char *end) {
    size_t left = (size_t)(end - at);
    unsigned char first = at[0];
    if (first < 0x80)
        return 1;
    if (first < 0xc2 || first > 0xf4 || left < 2)
        return 0;
    unsigned char low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    unsigned char high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    if (at[1] < low || at[1] > high)
        return 0;
    size_t size = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    if (left < size)
        return 0;
    for (size_t i = 2; i < size; i++)
        if ((at[i] & 0xc0) != 0x80)
            return 0;
    return size;
}

/* Replace what is not UTF-8 in a message, which may quote anything. */
static void keep_utf8(char *text) {
    unsigned char *at = (unsigned char *)text, *end = at + strlen(text);
    while (at < end) {
        size_t step = utf8_char(at, end);
        if (step == 0)
            *at = '?';
        at += step > 0 ? step : 1;
    }
}

static int fail(zev_error *err, zev_kind kind, bool retryable, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static int fail(zev_error *err, zev_kind kind, bool retryable, const char *format, ...) {
    if (err != NULL) {
        va_list args;
        err->kind = kind;
        err->retryable = retryable;
        va_start(args, format);
        vsnprintf(err->message, sizeof err->message, format, args);
        va_end(args);
        keep_utf8(err->message);
    }
    return -1;
}

static int invalid(zev_error *err, const char *what, const char *value, const char *advice) {
    return fail(err, ZEV_INVALID, false, "%s '%.200s' %s", what, value, advice);
}

static int no_memory(zev_error *err) {
    return fail(err, ZEV_UNAVAILABLE, true, "this process may have no more memory: raise its limits, or use less");
}

/* Say why the system refused to `what` a file, and what to do. */
static int system_error(zev_error *err, const char *what, const char *path, int code) {
    const char *why = strerror(code);
    switch (code) {
    case ENOSPC:
    case EDQUOT: why = "the disk is full or the quota used up: free some space and try again"; break;
    case EROFS: why = "it is on a read-only file system: set ZBUS_DIR to a writable directory"; break;
    case EACCES:
    case EPERM:
        why = "permission denied: ZBUS_DIR has to name a directory that all who are to meet may write to; for"
              " several users: install -d -g GROUP -m 2770 DIRECTORY";
        break;
    case EMFILE: why = "out of file descriptors: raise the limit (ulimit -n) or close some"; break;
    default: break;
    }
    return fail(err, code == EACCES || code == EPERM ? ZEV_PERMISSION_DENIED : ZEV_UNAVAILABLE,
                code != EACCES && code != EPERM && code != EROFS, "cannot %s %s: %s", what, path, why);
}

const char *zev_kind_name(zev_kind kind) {
    switch (kind) {
    case ZEV_INVALID: return "Invalid";
    case ZEV_TIMEOUT: return "Timeout";
    case ZEV_CANCELED: return "Canceled";
    case ZEV_PERMISSION_DENIED: return "PermissionDenied";
    case ZEV_UNAVAILABLE: return "Unavailable";
    case ZEV_OK: break;
    }
    return "";
}

/* --- 1  texts ------------------------------------------------------------------------------------------------ */

static bool is_utf8(const unsigned char *at, size_t size) {
    const unsigned char *end = at + size;
    while (at < end) {
        size_t step = utf8_char(at, end);
        if (step == 0)
            return false;
        at += step;
    }
    return true;
}

static bool is_digit(unsigned char c) {
    return c >= '0' && c <= '9';
}

static int hex_value(unsigned char c) {
    return is_digit(c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Read the four hex digits at `at`; -1 if there are fewer. */
static int hex4(const unsigned char *at, const unsigned char *end) {
    int value = 0;
    if (end - at < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        int digit = hex_value(at[i]);
        if (digit < 0)
            return -1;
        value = value * 16 + digit;
    }
    return value;
}

static const unsigned char *json_space(const unsigned char *at, const unsigned char *end) {
    while (at < end && (*at == ' ' || *at == '\n' || *at == '\t' || *at == '\r'))
        at++;
    return at;
}

/* Return what follows an escape sequence, NULL if it is none or half a pair of surrogates. */
static const unsigned char *json_escape(const unsigned char *at, const unsigned char *end) {
    if (end - at < 2)
        return NULL;
    if (at[1] != 'u')
        return memchr("\"\\/bfnrt", at[1], 8) != NULL ? at + 2 : NULL;
    int code = hex4(at + 2, end);
    if (code < 0 || (code >= 0xdc00 && code <= 0xdfff))
        return NULL;
    at += 6;
    if (code < 0xd800 || code > 0xdbff)
        return at;
    if (end - at < 6 || at[0] != '\\' || at[1] != 'u')
        return NULL;
    code = hex4(at + 2, end);
    return code >= 0xdc00 && code <= 0xdfff ? at + 6 : NULL;
}

/* Return what follows the string whose opening quote is before `at`, NULL if it is malformed. */
static const unsigned char *json_string(const unsigned char *at, const unsigned char *end) {
    while (at < end) {
        if (*at == '"')
            return at + 1;
        if (*at == '\\') {
            at = json_escape(at, end);
            if (at == NULL)
                return NULL;
        } else if (*at < 0x20) {
            return NULL;
        } else {
            size_t step = utf8_char(at, end);
            if (step == 0)
                return NULL;
            at += step;
        }
    }
    return NULL;
}

/* Return whether a number, given by its digits, point and exponent, rounds to infinity as a double.
 *
 * The least that does is 2^1024 - 2^970, half way between the largest double and the next power of two. */
static bool json_overflows(const unsigned char *at, const unsigned char *point_or_end, const unsigned char *exponent,
                           const unsigned char *end) {
    static const char least[] =
        "179769313486231580793728971405303415079934132710037826936173778980444968292764750946649017977587207096330286"
        "416692887910946555547851940402630657488671505820681908902000708383676273854845817711531764475730270069855571"
        "366959622842914819860834936475292719074168444365510704342711559699508093042880";
    const unsigned char *significant = at;
    int64_t power = 0; /* the value is 0.DIGITS times ten to this power */
    bool negative = false;
    if (exponent < end) {
        const unsigned char *digit = exponent + 1;
        negative = *digit == '-';
        if (*digit == '-' || *digit == '+')
            digit++;
        for (; digit < end; digit++)
            if (power < 100000000)
                power = power * 10 + (*digit - '0');
        if (negative)
            power = -power;
    }
    while (significant < exponent && (*significant == '0' || *significant == '.'))
        significant++;
    if (significant == exponent)
        return false;
    power += significant < point_or_end ? point_or_end - significant : point_or_end - significant + 1;
    if (power != 309)
        return power > 309;
    const char *limit = least;
    for (; significant < exponent; significant++) {
        if (*significant == '.')
            continue;
        if (*limit == '\0')
            return true;
        if (*significant != (unsigned char)*limit)
            return *significant > (unsigned char)*limit;
        limit++;
    }
    while (*limit == '0')
        limit++;
    return *limit == '\0';
}

static const unsigned char *digits_end(const unsigned char *at, const unsigned char *end) {
    while (at < end && is_digit(*at))
        at++;
    return at;
}

/* Return what follows the number at `at`, NULL if it is malformed or infinite as a double. */
static const unsigned char *json_number(const unsigned char *at, const unsigned char *end) {
    if (at < end && *at == '-')
        at++;
    const unsigned char *first = at;
    at = digits_end(at, end);
    if (at == first || (*first == '0' && at > first + 1))
        return NULL;
    const unsigned char *point = at;
    if (at < end && *at == '.') {
        at = digits_end(at + 1, end);
        if (at == point + 1)
            return NULL;
    }
    const unsigned char *exponent = at;
    if (at < end && (*at == 'e' || *at == 'E')) {
        at++;
        if (at < end && (*at == '+' || *at == '-'))
            at++;
        const unsigned char *digits = at;
        at = digits_end(at, end);
        if (at == digits)
            return NULL;
    }
    bool suspicious = at - exponent >= 4 || exponent - first >= 200;
    return suspicious && json_overflows(first, point, exponent, at) ? NULL : at;
}

/* Return what follows the literal, number or string at `at`, NULL if it is malformed. */
static const unsigned char *json_scalar(const unsigned char *at, const unsigned char *end) {
    size_t left = (size_t)(end - at);
    if (*at == '"')
        return json_string(at + 1, end);
    if (left >= 4 && (memcmp(at, "true", 4) == 0 || memcmp(at, "null", 4) == 0))
        return at + 4;
    if (left >= 5 && memcmp(at, "false", 5) == 0)
        return at + 5;
    return json_number(at, end);
}

/* Return what follows a key and its colon, NULL if they are malformed. */
static const unsigned char *json_key(const unsigned char *at, const unsigned char *end) {
    at = json_space(at, end);
    if (at == end || *at != '"')
        return NULL;
    at = json_string(at + 1, end);
    if (at == NULL)
        return NULL;
    at = json_space(at, end);
    return at < end && *at == ':' ? at + 1 : NULL;
}

/* Return whether this is JSON as every receiver takes it (W51), at most `most` levels deep. */
static bool is_json(const unsigned char *at, size_t size, unsigned most) {
    unsigned char object[MAX_DEPTH + 1]; /* what each open level is */
    const unsigned char *end = at + size;
    unsigned depth = 0;
    for (;;) { /* a value */
        at = json_space(at, end);
        if (at == end)
            return false;
        if (*at == '[' || *at == '{') {
            unsigned char closing = *at == '{' ? '}' : ']';
            if (depth >= most)
                return false;
            object[depth++] = closing == '}';
            at = json_space(at + 1, end);
            if (at == end || *at != closing) {
                if (closing == '}' && (at = json_key(at, end)) == NULL)
                    return false;
                continue;
            }
        } else {
            at = json_scalar(at, end);
            if (at == NULL)
                return false;
        }
        for (;;) { /* what follows it; an empty container is at its closing bracket */
            at = json_space(at, end);
            if (depth == 0)
                return at == end;
            if (at == end)
                return false;
            if (*at == (object[depth - 1] ? '}' : ']')) {
                depth--;
                at++;
                continue;
            }
            if (*at != ',')
                return false;
            at++;
            if (object[depth - 1] && (at = json_key(at, end)) == NULL)
                return false;
            break;
        }
    }
}

/* Return what follows a value of JSON text that has been checked. */
static unsigned char *json_skip(unsigned char *at) {
    unsigned depth = 0;
    do {
        if (*at == '"') {
            for (at++; *at != '"'; at++)
                if (*at == '\\')
                    at++;
        } else if (*at == '[' || *at == '{') {
            depth++;
        } else if (*at == ']' || *at == '}') {
            depth--;
        } else if (depth == 0) {
            while (*at != ',' && *at != ']' && *at != '}' && *at > ' ')
                at++;
            return at;
        }
        at++;
    } while (depth > 0);
    return at;
}

static unsigned char *put_utf8(unsigned char *to, unsigned code) {
    if (code < 0x80) {
        *to++ = (unsigned char)code;
    } else if (code < 0x800) {
        *to++ = (unsigned char)(0xc0 | code >> 6);
        *to++ = (unsigned char)(0x80 | (code & 0x3f));
    } else if (code < 0x10000) {
        *to++ = (unsigned char)(0xe0 | code >> 12);
        *to++ = (unsigned char)(0x80 | (code >> 6 & 0x3f));
        *to++ = (unsigned char)(0x80 | (code & 0x3f));
    } else {
        *to++ = (unsigned char)(0xf0 | code >> 18);
        *to++ = (unsigned char)(0x80 | (code >> 12 & 0x3f));
        *to++ = (unsigned char)(0x80 | (code >> 6 & 0x3f));
        *to++ = (unsigned char)(0x80 | (code & 0x3f));
    }
    return to;
}

/* Unescape a checked string in place and end it with NUL; `at` is behind the opening quote. Return what follows
 * the closing one. */
static unsigned char *json_unescape(unsigned char *at) {
    static const char escapes[] = "bfnrt", meant[] = "\b\f\n\r\t";
    unsigned char *to = at;
    while (*at != '"') {
        if (*at != '\\') {
            *to++ = *at++;
        } else if (at[1] != 'u') {
            const char *which = strchr(escapes, at[1]);
            *to++ = which != NULL ? (unsigned char)meant[which - escapes] : at[1];
            at += 2;
        } else {
            unsigned code = (unsigned)hex4(at + 2, at + 6);
            at += 6;
            if (code >= 0xd800 && code <= 0xdbff) {
                code = 0x10000 + ((code - 0xd800) << 10) + ((unsigned)hex4(at + 2, at + 6) - 0xdc00);
                at += 6;
            }
            to = put_utf8(to, code);
        }
    }
    *to = '\0';
    return at + 1;
}

/* --- 2  frames ----------------------------------------------------------------------------------------------- */

/* Return what is wrong with a name (W3), NULL if nothing is. */
static const char *wrong_name(const char *name, size_t size) {
    if (size == 0)
        return "is required";
    if (!is_utf8((const unsigned char *)name, size))
        return "is not UTF-8";
    bool empty = true;
    for (size_t i = 0; i < size; i++) {
        char c = name[i];
        if (c == '*' || c == '(' || c == ')' || c == '|')
            return "contains one of *()|, which only a subscription may use: send a literal name";
        if (c == '.' && empty)
            return "has an empty segment: use single dots between words";
        empty = c == '.';
    }
    return empty ? "has an empty segment: use single dots between words" : NULL;
}

/* Refuse what no user may send to (W3, W4, W11). */
static int check_topic(const char *system, const char *kind, zev_error *err) {
    const char *wrong;
    if (system == NULL || kind == NULL)
        return fail(err, ZEV_INVALID, false, "%s is required", system == NULL ? "system" : "kind");
    if ((wrong = wrong_name(system, strlen(system))) != NULL)
        return invalid(err, "system", system, wrong);
    if ((wrong = wrong_name(kind, strlen(kind))) != NULL)
        return invalid(err, "kind", kind, wrong);
    if (strncmp(system, "zbus", 4) == 0 && (system[4] == '\0' || system[4] == '.'))
        return invalid(err, "system", system, "is reserved for the bus's own events: choose another");
    return 0;
}

static int check_path(const char *path, zev_error *err) {
    if (path == NULL || *path == '\0')
        return fail(err, ZEV_INVALID, false, "path is required");
    if (!is_utf8((const unsigned char *)path, strlen(path)))
        return invalid(err, "path", path, "is not UTF-8");
    return 0;
}

static int check_json(const char *json, unsigned most, zev_error *err) {
    if (is_json((const unsigned char *)json, strlen(json), most))
        return 0;
    return fail(err, ZEV_INVALID, false,
                "data is not JSON that every receiver takes: '%.100s'; no data is NULL, and NaN, infinities, lone"
                " surrogates and more than 1,024 levels cannot be sent",
                json);
}

/* Read a decimal number of at most 19 digits; anything else is untold (W7, W8). */
static uint64_t read_number(const unsigned char *at, size_t size) {
    uint64_t value = 0;
    if (size == 0 || size > 19)
        return UNTOLD;
    for (size_t i = 0; i < size; i++) {
        if (!is_digit(at[i]))
            return UNTOLD;
        value = value * 10 + (uint64_t)(at[i] - '0');
    }
    return value;
}

static bool is_hex_id(const char *text, size_t size, size_t least, size_t most) {
    if (size < least || size > most)
        return false;
    for (size_t i = 0; i < size; i++)
        if (!is_digit((unsigned char)text[i]) && (text[i] < 'a' || text[i] > 'f'))
            return false;
    return true;
}

/* Read a stamp (W5 to W8, W37); return false if it is malformed. */
static bool read_stamp(const unsigned char *stamp, size_t size, zev_frame *out) {
    out->origin[0] = '\0';
    out->seq = 0;
    out->born = out->settled = out->first = out->time = UNTOLD;
    if (size == 0)
        return true;
    uint64_t *const fields[] = {&out->seq, &out->born, &out->settled, &out->first, &out->time};
    const unsigned char *end = stamp + size;
    const unsigned char *dot = (const unsigned char *)memchr(stamp, '.', size);
    if (dot == NULL || !is_hex_id((const char *)stamp, (size_t)(dot - stamp), 8, 16))
        return false;
    memcpy(out->origin, stamp, (size_t)(dot - stamp));
    out->origin[dot - stamp] = '\0';
    for (size_t i = 0; i < 5 && dot != NULL; i++) {
        const unsigned char *at = dot + 1;
        dot = (const unsigned char *)memchr(at, '.', (size_t)(end - at));
        *fields[i] = read_number(at, (size_t)((dot != NULL ? dot : end) - at));
    }
    return out->seq != UNTOLD && out->seq > 0;
}

/* Return how many items a batch has whose JSON was checked (W12), or -1 if it is none. */
static long count_items(unsigned char *at) {
    long count = 0;
    while (*at <= ' ')
        at++;
    if (*at++ != '[')
        return -1;
    for (;;) {
        while (*at <= ' ' || *at == ',')
            at++;
        if (*at == ']')
            return count;
        if (*at++ != '[')
            return -1;
        while (*at <= ' ')
            at++;
        if (at[0] != '"' || at[1] == '"')
            return -1;
        unsigned char *path = at;
        at = json_skip(at);
        for (unsigned char *c = path; c < at; c++)
            if (*c == '\\' && *++c == 'u' && hex4(c + 1, at) == 0)
                return -1;
        while (*at <= ' ')
            at++;
        if (*at == ',') {
            do
                at++;
            while (*at <= ' ');
            at = json_skip(at);
            while (*at <= ' ')
                at++;
        }
        if (*at++ != ']')
            return -1;
        count++;
    }
}

/* Look at path and data, which begin at `out->path` and `out->data`; set the number of events (W4, W9, W12). */
static bool read_events(const unsigned char *frame, size_t path_size, zev_frame *out) {
    const unsigned char *data = frame + out->data;
    size_t size = out->size - out->data;
    out->batch = path_size == 0;
    if (!is_utf8(frame + out->path, path_size))
        return false;
    if (!out->batch) {
        out->events = 1;
        return size == 0 || data[0] == '\0' || is_json(data, size, MAX_DEPTH);
    }
    if (size == 0 || !is_json(data, size, MAX_DEPTH))
        return false;
    long items = count_items((unsigned char *)data);
    out->events = items > 0 ? (size_t)items : 0;
    return items > 0 || (items == 0 && out->seq > 0);
}

static void put_event(zev_event *evt, const unsigned char *data, size_t size) {
    evt->type = size == 0 ? ZEV_NONE : data[0] == '\0' ? ZEV_BYTES : ZEV_JSON;
    evt->data = (const char *)data + (evt->type == ZEV_BYTES);
    evt->size = size - (evt->type == ZEV_BYTES);
}

bool zev_next_item(unsigned char *bytes, const zev_frame *frame, size_t *at, zev_event *evt) {
    unsigned char *c = bytes + (*at > 0 ? *at : frame->data);
    while (*c <= ' ' || *c == ',' || (*at == 0 && *c == '[')) {
        if (*c == '[')
            *at = 1;
        c++;
    }
    if (*c != '[')
        return false;
    while (*c != '"')
        c++;
    evt->path = (const char *)c + 1;
    c = json_unescape(c + 1);
    while (*c <= ' ')
        c++;
    unsigned char *begin = c, *end = c;
    if (*c == ',') {
        do
            c++;
        while (*c <= ' ');
        begin = c;
        end = c = json_skip(c);
        while (*c != ']')
            c++;
    }
    *at = (size_t)(c + 1 - bytes);
    *end = '\0';
    put_event(evt, begin, (size_t)(end - begin));
    return true;
}

/* Return whether a frame begins like a topic: two names and a NUL behind each. Set `out->kind` and `out->path`. */
static bool read_topic(const unsigned char *frame, size_t size, zev_frame *out) {
    const unsigned char *end = frame + size, *fields[4];
    const unsigned char *at = frame;
    for (int i = 0; i < 4; i++) {
        fields[i] = (const unsigned char *)memchr(at, '\0', (size_t)(end - at));
        if (fields[i] == NULL)
            return false;
        at = fields[i] + 1;
    }
    out->kind = (size_t)(fields[0] + 1 - frame);
    out->path = (size_t)(fields[1] + 1 - frame);
    out->data = (size_t)(fields[3] + 1 - frame);
    return true;
}

static size_t put(unsigned char *to, const void *from, size_t size) {
    if (size > 0)
        memcpy(to, from, size);
    return size;
}

static size_t put_number(unsigned char *to, uint64_t number) {
    unsigned char digits[20];
    size_t count = 0, at;
    do
        digits[count++] = (unsigned char)('0' + number % 10);
    while ((number /= 10) > 0);
    for (at = 0; at < count; at++)
        to[at] = digits[count - 1 - at];
    return count;
}

/* The data field of a batch: how large it is, and the text itself. */
static size_t batch_size(const zev_item *items, size_t count) {
    size_t size = 2;
    for (size_t i = 0; i < count; i++) {
        const char *c = items[i].path;
        for (; *c != '\0'; c++)
            size += *c == '"' || *c == '\\' ? 2 : (unsigned char)*c < 0x20 ? 6 : 1;
        size += 5 + (items[i].json != NULL ? 1 + strlen(items[i].json) : 0); /* brackets, quotes, comma */
    }
    return size - (count > 0);
}

static void put_batch(unsigned char *to, const zev_item *items, size_t count) {
    static const char hex[] = "0123456789abcdef";
    *to++ = '[';
    for (size_t i = 0; i < count; i++) {
        if (i > 0)
            *to++ = ',';
        *to++ = '[';
        *to++ = '"';
        for (const unsigned char *c = (const unsigned char *)items[i].path; *c != '\0'; c++) {
            if (*c < 0x20) {
                memcpy(to, "\\u00", 4);
                to[4] = (unsigned char)hex[*c >> 4];
                to[5] = (unsigned char)hex[*c & 15];
                to += 6;
                continue;
            }
            if (*c == '"' || *c == '\\')
                *to++ = '\\';
            *to++ = *c;
        }
        *to++ = '"';
        if (items[i].json != NULL) {
            *to++ = ',';
            to += put(to, items[i].json, strlen(items[i].json));
        }
        *to++ = ']';
    }
    *to = ']';
}

/* What a user sends, checked: one event, or a batch. */
struct body {
    const char *path;
    const void *data; /* JSON, or bytes, or items */
    size_t size, path_size, events;
    bool bytes, batch;
};

static int read_body(struct body *body, const char *path, const void *data, uint64_t size, const zev_item *items,
                     size_t count, zev_error *err) {
    memset(body, 0, sizeof *body);
    if (items != NULL) {
        for (size_t i = 0; i < count; i++) {
            if (check_path(items[i].path, err) != 0)
                return -1;
            if (items[i].json != NULL && check_json(items[i].json, MAX_DEPTH - 2, err) != 0)
                return -1;
        }
        body->data = items;
        body->path = "";
        body->batch = true;
        body->events = count;
        body->size = batch_size(items, count);
        return 0;
    }
    if (check_path(path, err) != 0)
        return -1;
    body->path = path;
    body->path_size = strlen(path);
    body->events = 1;
    body->bytes = size != UNTOLD;
    body->data = data;
    if (body->bytes)
        body->size = (size_t)size + 1;
    else if (data != NULL)
        body->size = strlen((const char *)data);
    return body->bytes || data == NULL ? 0 : check_json((const char *)data, MAX_DEPTH, err);
}

static void put_body(unsigned char *to, const struct body *body) {
    if (body->batch) {
        put_batch(to, (const zev_item *)body->data, body->events);
    } else if (body->bytes) {
        *to = '\0';
        put(to + 1, body->data, body->size - 1);
    } else {
        put(to, body->data, body->size);
    }
}

unsigned char *zev_encode(const char *system, const char *kind, const char *path, const void *data, uint64_t size,
                          const zev_item *items, size_t count, const char *stamp, size_t *frame_size,
                          zev_error *err) {
    struct body body;
    if (check_topic(system, kind, err) != 0 || read_body(&body, path, data, size, items, count, err) != 0)
        return NULL;
    size_t head = strlen(system) + strlen(kind) + body.path_size + strlen(stamp) + 4;
    unsigned char *frame = (unsigned char *)malloc(head + body.size + 1), *at = frame;
    if (frame == NULL) {
        no_memory(err);
        return NULL;
    }
    at += put(at, system, strlen(system) + 1);
    at += put(at, kind, strlen(kind) + 1);
    at += put(at, body.path, body.path_size + 1);
    at += put(at, stamp, strlen(stamp) + 1);
    put_body(at, &body);
    *frame_size = head + body.size;
    return frame;
}

/* --- 3  patterns --------------------------------------------------------------------------------------------- */

/* One segment of a pattern or a name, within its text. */
struct segment {
    const char *at;
    size_t size;
};

/* Return the segment at `at`; the next one begins behind its dot, if it has one. */
static struct segment segment_at(const char *at, const char *end) {
    const char *dot = (const char *)memchr(at, '.', (size_t)(end - at));
    struct segment found = {at, (size_t)((dot != NULL ? dot : end) - at)};
    return found;
}

static bool is_text(struct segment segment, const char *text) {
    return segment.size == strlen(text) && memcmp(segment.at, text, segment.size) == 0;
}

/* Take the next alternative of a bracket, or a literal segment as the only one; `*rest` begins with size 0. */
static bool next_option(struct segment segment, struct segment *option) {
    const char *end = segment.at + segment.size;
    bool bracket = segment.size > 0 && *segment.at == '(';
    if (option->at == NULL) {
        option->at = segment.at + bracket;
    } else {
        option->at += option->size + 1;
        if (!bracket || option->at >= end)
            return false;
    }
    const char *stop = option->at;
    while (stop < end && (!bracket || (*stop != '|' && *stop != ')')))
        stop++;
    option->size = (size_t)(stop - option->at);
    return true;
}

static const char *wrong_segment(struct segment segment) {
    bool star = memchr(segment.at, '*', segment.size) != NULL;
    if (segment.size == 0)
        return "has an empty segment: use single dots between words, or '**' for any depth";
    if (is_text(segment, "*") || is_text(segment, "**"))
        return NULL;
    if (is_text(segment, ">") || is_text(segment, "#"))
        return "uses a wildcard of another system: for everything below use '**'";
    if (is_text(segment, "+"))
        return "uses a wildcard of another system: for exactly one segment use '*'";
    if (segment.at[0] == '(' && segment.at[segment.size - 1] == ')') {
        struct segment option = {NULL, 0};
        for (size_t i = 1; i + 1 < segment.size; i++)
            if (segment.at[i] == '(' || segment.at[i] == ')')
                star = true;
        while (!star && next_option(segment, &option))
            star = option.size == 0 || is_text(option, ">") || is_text(option, "#") || is_text(option, "+");
        return star ? "is wrong in a bracket, which lists whole literal segments: use '(a|b)'" : NULL;
    }
    if (star)
        return "has a wildcard inside a segment: use 'orders.*' or 'orders.**'";
    for (size_t i = 0; i < segment.size; i++)
        if (memchr("()|", segment.at[i], 3) != NULL)
            return "has a bracket or a bar inside a segment: use '(a|b)' for a whole one";
    return NULL;
}

static int check_pattern(const char *pattern, const char *what, zev_error *err) {
    const char *wrong = NULL;
    if (pattern == NULL || *pattern == '\0')
        return fail(err, ZEV_INVALID, false, "%s pattern is required", what);
    const char *end = pattern + strlen(pattern);
    if (!is_utf8((const unsigned char *)pattern, (size_t)(end - pattern)))
        wrong = "is not UTF-8";
    for (const char *at = pattern; wrong == NULL && at <= end;) {
        struct segment segment = segment_at(at, end);
        wrong = wrong_segment(segment);
        at += segment.size + 1;
    }
    return wrong == NULL ? 0 : fail(err, ZEV_INVALID, false, "%s pattern '%.200s' %s", what, pattern, wrong);
}

static bool admits(struct segment segment, struct segment word) {
    if (is_text(segment, "*"))
        return true;
    for (struct segment option = {NULL, 0}; next_option(segment, &option);)
        if (option.size == word.size && memcmp(option.at, word.at, word.size) == 0)
            return true;
    return false;
}

/* Return whether a checked pattern selects a name (W16, W17).
 *
 * On a mismatch, it goes back to the last `**` and lets that take one more word; going back further is not
 * needed. */
static bool matches(const char *pattern, const char *name, size_t size) {
    const char *p = pattern, *p_end = pattern + strlen(pattern), *n = name, *n_end = name + size;
    const char *star = NULL, *mark = NULL;
    if (strcmp(pattern, "*") == 0)
        return true;
    while (n <= n_end) {
        struct segment word = segment_at(n, n_end), segment = {NULL, 0};
        if (p <= p_end)
            segment = segment_at(p, p_end);
        if (p <= p_end && is_text(segment, "**")) {
            p = star = p + 3;
            mark = n;
        } else if (p <= p_end && admits(segment, word)) {
            p += segment.size + 1;
            n += word.size + 1;
        } else if (star != NULL) {
            mark += segment_at(mark, n_end).size + 1;
            p = star;
            n = mark;
        } else {
            return false;
        }
    }
    while (p <= p_end && is_text(segment_at(p, p_end), "**"))
        p += 3;
    return p > p_end;
}

int zev_match(const char *pattern, const char *name, zev_error *err) {
    if (check_pattern(pattern, "system", err) != 0)
        return -1;
    return matches(pattern, name, strlen(name));
}

/* The texts with which what a pattern selects may begin. */
struct heads {
    size_t count;
    bool literal; /* there was no wildcard: they are whole names */
    char *text[MAX_PREFIXES];
};

static void clear_heads(struct heads *heads) {
    for (size_t i = 0; i < heads->count; i++)
        free(heads->text[i]);
    heads->count = 0;
}

static bool append_head(struct heads *heads, const char *head, const char *dot, struct segment more) {
    size_t size = strlen(head) + strlen(dot) + more.size;
    char *text = (char *)malloc(size + 1);
    if (text == NULL)
        return false;
    snprintf(text, size + 1, "%s%s%.*s", head, dot, (int)more.size, more.at);
    for (size_t i = 0; i < heads->count; i++)
        if (strcmp(heads->text[i], text) == 0) { /* (a|a) */
            free(text);
            return true;
        }
    if (heads->count == MAX_PREFIXES) {
        free(text);
        return false;
    }
    heads->text[heads->count++] = text;
    return true;
}

/* Multiply the heads with the alternatives of a segment; return false if that makes too many. */
static bool extend_heads(struct heads *heads, const char *dot, struct segment segment) {
    struct heads longer = {0, false, {NULL}};
    for (struct segment option = {NULL, 0}; next_option(segment, &option);)
        for (size_t i = 0; i < heads->count; i++)
            if (!append_head(&longer, heads->text[i], dot, option)) {
                clear_heads(&longer);
                return false;
            }
    clear_heads(heads);
    *heads = longer;
    return true;
}

static void find_heads(const char *pattern, struct heads *heads) {
    const char *end = pattern + strlen(pattern);
    const struct segment nothing = {"", 0};
    heads->count = 0;
    heads->literal = false;
    if (!append_head(heads, "", "", nothing))
        return;
    if (strcmp(pattern, "*") == 0)
        return;
    for (const char *at = pattern; at <= end;) {
        struct segment segment = segment_at(at, end);
        const char *dot = at > pattern ? "." : "";
        if (is_text(segment, "**"))
            return;
        if (is_text(segment, "*") || !extend_heads(heads, dot, segment)) {
            extend_heads(heads, dot, nothing);
            return;
        }
        at += segment.size + 1;
    }
    heads->literal = true;
}

static bool only_any_depth(const char *pattern) {
    const char *end = pattern + strlen(pattern);
    if (strcmp(pattern, "*") == 0)
        return true;
    for (const char *at = pattern; at <= end; at += 3)
        if (!is_text(segment_at(at, end), "**"))
            return false;
    return true;
}

static int compare_prefixes(const unsigned char *a, size_t a_size, const unsigned char *b, size_t b_size) {
    int order = memcmp(a, b, a_size < b_size ? a_size : b_size);
    return order != 0 ? order : (a_size > b_size) - (a_size < b_size);
}

/* Insert `head`, a NUL if `nul`, and `tail` with a NUL if `ended`, in order. */
static int add_prefix(zev_prefixes *out, const char *head, bool nul, const char *tail, bool ended) {
    size_t size = strlen(head) + nul + strlen(tail) + ended;
    unsigned char *bytes = (unsigned char *)calloc(1, size + 1);
    if (bytes == NULL)
        return -1;
    memcpy(bytes, head, strlen(head));
    if (*tail != '\0')
        memcpy(bytes + strlen(head) + 1, tail, strlen(tail));
    size_t at = out->count++;
    for (; at > 0 && compare_prefixes(bytes, size, out->prefix[at - 1].bytes, out->prefix[at - 1].size) < 0; at--)
        out->prefix[at] = out->prefix[at - 1];
    out->prefix[at].bytes = bytes;
    out->prefix[at].size = size;
    return 0;
}

int zev_prefixes_of(const char *system, const char *kind, zev_prefixes *out, zev_error *err) {
    struct heads heads, tails = {0, false, {NULL}};
    int bad = 0;
    out->count = 0;
    kind = kind != NULL && *kind != '\0' ? kind : "**";
    if (check_pattern(system, "system", err) != 0 || check_pattern(kind, "kind", err) != 0)
        return -1;
    find_heads(system, &heads);
    if (heads.literal)
        find_heads(kind, &tails);
    bool kinds = heads.literal && !only_any_depth(kind) && heads.count * tails.count <= MAX_PREFIXES;
    for (size_t i = 0; i < heads.count; i++) {
        for (size_t j = 0; kinds && j < tails.count; j++)
            bad |= add_prefix(out, heads.text[i], true, tails.text[j], tails.literal);
        if (!kinds)
            bad |= add_prefix(out, heads.text[i], heads.literal, "", false);
    }
    bad |= -(heads.count == 0);
    clear_heads(&heads);
    clear_heads(&tails);
    if (bad != 0) {
        zev_prefixes_clear(out);
        return no_memory(err);
    }
    return 0;
}

void zev_prefixes_clear(zev_prefixes *prefixes) {
    for (size_t i = 0; i < prefixes->count; i++)
        free(prefixes->prefix[i].bytes);
    prefixes->count = 0;
}

/* --- 4  loss ------------------------------------------------------------------------------------------------- */

/* One (system, kind, origin) in use. The key is the beginning of its frames, "system NUL kind NUL", and the
 * origin. */
struct stream {
    struct stream *next;            /* of the same hash */
    struct stream *newer, *older;   /* in the order of use */
    uint64_t hash, due, begin;
    size_t topic_size, origin_size; /* parts of the key */
    unsigned char *key;
};

struct zev_decoder {
    char *system, *kind;        /* patterns; kind NULL: every kind */
    uint64_t announced, joined; /* UNTOLD if unknown */
    bool forgetful;             /* `first` no longer counts (W34) */
    bool any_born;
    uint64_t latest_born, lost, malformed;
    size_t limit, known, slots;
    struct stream **table;
    struct stream *newest, *oldest;
};

static uint64_t hash_bytes(uint64_t hash, const unsigned char *at, size_t size) {
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ at[i]) * UINT64_C(0x100000001b3);
    return hash;
}

zev_decoder *zev_decoder_new(const char *system, const char *kind, uint64_t announced, uint64_t joined,
                             size_t limit, zev_error *err) {
    kind = kind != NULL && *kind != '\0' ? kind : NULL;
    if (check_pattern(system, "system", err) != 0 || (kind != NULL && check_pattern(kind, "kind", err) != 0))
        return NULL;
    zev_decoder *decoder = (zev_decoder *)calloc(1, sizeof *decoder);
    if (decoder != NULL) {
        decoder->slots = 64;
        decoder->limit = limit;
        decoder->table = (struct stream **)calloc(decoder->slots, sizeof *decoder->table);
        decoder->system = strdup(system);
        decoder->kind = kind != NULL ? strdup(kind) : NULL;
        decoder->announced = announced;
        decoder->joined = joined;
        decoder->forgetful = joined == UNTOLD;
    }
    if (decoder == NULL || decoder->table == NULL || decoder->system == NULL ||
        (kind != NULL && decoder->kind == NULL)) {
        zev_decoder_free(decoder);
        no_memory(err);
        return NULL;
    }
    return decoder;
}

void zev_decoder_free(zev_decoder *decoder) {
    if (decoder == NULL)
        return;
    for (struct stream *stream = decoder->newest, *older; stream != NULL; stream = older) {
        older = stream->older;
        free(stream);
    }
    free(decoder->table);
    free(decoder->system);
    free(decoder->kind);
    free(decoder);
}

static bool is_stream(const struct stream *stream, const unsigned char *frame, const zev_frame *in, size_t origin) {
    return stream->topic_size == in->path && stream->origin_size == origin &&
           memcmp(stream->key, frame, in->path) == 0 && memcmp(stream->key + in->path, in->origin, origin) == 0;
}

static void unlink_use(zev_decoder *decoder, struct stream *stream) {
    *(stream->newer != NULL ? &stream->newer->older : &decoder->newest) = stream->older;
    *(stream->older != NULL ? &stream->older->newer : &decoder->oldest) = stream->newer;
}

static void link_newest(zev_decoder *decoder, struct stream *stream) {
    stream->newer = NULL;
    stream->older = decoder->newest;
    *(decoder->newest != NULL ? &decoder->newest->newer : &decoder->oldest) = stream;
    decoder->newest = stream;
}

/* Return the stream of a frame, NULL if it is not known. */
static struct stream *find_stream(zev_decoder *decoder, const unsigned char *frame, const zev_frame *in) {
    size_t origin = strlen(in->origin);
    struct stream *stream = decoder->newest;
    if (stream == NULL || is_stream(stream, frame, in, origin))
        return stream; /* nearly always the one that was used last */
    uint64_t hash = hash_bytes(hash_bytes(0, frame, in->path), (const unsigned char *)in->origin, origin);
    stream = decoder->table[hash % decoder->slots];
    while (stream != NULL && (stream->hash != hash || !is_stream(stream, frame, in, origin)))
        stream = stream->next;
    if (stream != NULL) {
        unlink_use(decoder, stream);
        link_newest(decoder, stream);
    }
    return stream;
}

static void grow_table(zev_decoder *decoder) {
    size_t slots = decoder->slots * 4;
    struct stream **table = (struct stream **)calloc(slots, sizeof *table);
    if (table == NULL)
        return; /* the chains grow */
    for (struct stream *stream = decoder->newest; stream != NULL; stream = stream->older) {
        stream->next = table[stream->hash % slots];
        table[stream->hash % slots] = stream;
    }
    free(decoder->table);
    decoder->table = table;
    decoder->slots = slots;
}

static void forget_oldest(zev_decoder *decoder) {
    struct stream *stream = decoder->oldest, **at = &decoder->table[stream->hash % decoder->slots];
    while (*at != stream)
        at = &(*at)->next;
    *at = stream->next;
    unlink_use(decoder, stream);
    free(stream);
    decoder->known--;
    decoder->forgetful = true;
    if (decoder->any_born && decoder->joined != UNTOLD && decoder->latest_born > decoder->joined)
        decoder->joined = decoder->latest_born;
}

static struct stream *add_stream(zev_decoder *decoder, const unsigned char *frame, const zev_frame *in, uint64_t due) {
    size_t origin = strlen(in->origin);
    struct stream *stream = (struct stream *)malloc(sizeof *stream + in->path + origin);
    if (stream == NULL)
        return NULL; /* a first sight next time, too */
    if (decoder->known >= decoder->slots * 2)
        grow_table(decoder);
    stream->key = (unsigned char *)(stream + 1);
    stream->topic_size = in->path;
    stream->origin_size = origin;
    stream->due = stream->begin = due;
    memcpy(stream->key, frame, in->path);
    memcpy(stream->key + in->path, in->origin, origin);
    stream->hash = hash_bytes(0, stream->key, in->path + origin);
    stream->next = decoder->table[stream->hash % decoder->slots];
    decoder->table[stream->hash % decoder->slots] = stream;
    link_newest(decoder, stream);
    if (++decoder->known > decoder->limit)
        forget_oldest(decoder);
    return stream;
}

/* Return which number is due when a stream is first seen, UNTOLD for none (W29). */
static uint64_t first_due(const zev_decoder *decoder, const zev_frame *in) {
    if (in->born != UNTOLD && decoder->joined != UNTOLD && in->born > decoder->joined)
        return 1;
    if (in->settled == UNTOLD)
        return in->seq;
    if (decoder->announced != UNTOLD && in->settled <= decoder->announced)
        return UNTOLD;
    bool counts = in->first != UNTOLD && in->first > 0 && in->first <= in->seq && !decoder->forgetful;
    return counts ? in->first : in->seq;
}

static void lose(zev_decoder *decoder, zev_frame *out, uint64_t due, uint64_t seq) {
    if (due < seq) {
        out->gap[out->gaps].first = due;
        out->gap[out->gaps++].last = seq - 1;
        decoder->lost += seq - due;
    }
}

/* Count a well-formed frame with a stamp (W27 to W41); return false if its number cannot be (W41). */
static bool count_frame(zev_decoder *decoder, const unsigned char *frame, zev_frame *out) {
    struct stream *stream = find_stream(decoder, frame, out);
    bool known = stream != NULL;
    uint64_t due = known ? stream->due : first_due(decoder, out);
    if (due != UNTOLD && out->seq > due && out->seq - due > MAX_GAP)
        return false;
    if (!known && out->born != UNTOLD) {
        decoder->latest_born = decoder->any_born && decoder->latest_born > out->born ? decoder->latest_born : out->born;
        decoder->any_born = true;
    }
    if (due == UNTOLD)
        return true;
    if (!known && (stream = add_stream(decoder, frame, out, due)) == NULL)
        return true;
    if (known && out->events == 0) { /* a mark may tell that we should count from an earlier number (W40) */
        bool meant = out->settled != UNTOLD && (decoder->announced == UNTOLD || out->settled > decoder->announced);
        if (meant && out->first != UNTOLD && out->first > 0 && out->first < stream->begin &&
            stream->begin - out->first <= MAX_GAP && !decoder->forgetful) {
            lose(decoder, out, out->first, stream->begin);
            stream->begin = out->first;
        }
    }
    lose(decoder, out, due, out->seq);
    stream->due = out->events > 0 ? out->seq + out->events : due > out->seq ? due : out->seq;
    return true;
}

static bool selects(const zev_decoder *decoder, const unsigned char *frame, const zev_frame *in) {
    return matches(decoder->system, (const char *)frame, in->kind - 1) &&
           (decoder->kind == NULL || matches(decoder->kind, (const char *)frame + in->kind, in->path - in->kind - 1));
}

/* Return whether the topic of a frame is of two names; set whether the decoder selects it. */
static bool look_at_topic(const zev_decoder *decoder, const unsigned char *frame, const zev_frame *in, bool *selected) {
    const struct stream *last = decoder->newest;
    *selected = true;
    if (last != NULL && last->topic_size == in->path && memcmp(last->key, frame, in->path) == 0)
        return true; /* it was checked before, and is selected */
    if (wrong_name((const char *)frame, in->kind - 1) != NULL ||
        wrong_name((const char *)frame + in->kind, in->path - in->kind - 1) != NULL)
        return false;
    *selected = selects(decoder, frame, in);
    return true;
}

/* Decode a frame in the order of W15; return false if it is malformed. */
static bool decode(zev_decoder *decoder, const unsigned char *frame, size_t size, zev_frame *out) {
    bool selected;
    if (!read_topic(frame, size, out) || !look_at_topic(decoder, frame, out, &selected))
        return false;
    if (!selected)
        return true;
    size_t path_size = strlen((const char *)frame + out->path), stamp = out->path + path_size + 1;
    return read_stamp(frame + stamp, out->data - 1 - stamp, out) && read_events(frame, path_size, out) &&
           (out->seq == 0 || count_frame(decoder, frame, out));
}

void zev_decode(zev_decoder *decoder, const void *bytes, size_t size, zev_frame *out) {
    const unsigned char *frame = (const unsigned char *)bytes;
    out->events = 0;
    out->batch = false;
    out->gaps = 0;
    out->size = size;
    out->origin[0] = '\0';
    out->seq = 0;
    if ((size == 0 || frame[0] != 0xff) && !decode(decoder, frame, size, out)) {
        decoder->malformed++;
        out->events = 0;
    }
    out->lost = decoder->lost;
    out->malformed = decoder->malformed;
}

/* --- 5  the directory ---------------------------------------------------------------------------------------- */

static double now_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static uint64_t wall_micros(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static void random_bytes(void *to, size_t size) {
    int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, to, size);
    if (got != (ssize_t)size) { /* out of descriptors: what differs between processes and moments has to do */
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        uint64_t mixed = ((uint64_t)getpid() << 40) ^ (uint64_t)t.tv_sec << 30 ^ (uint64_t)t.tv_nsec ^ (uintptr_t)to;
        for (size_t i = 0; i < size; i++) {
            mixed = mixed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            ((unsigned char *)to)[i] = (unsigned char)(mixed >> 56);
        }
    }
    if (fd >= 0)
        close(fd);
}

static void new_id(char id[ID]) {
    unsigned char bytes[8];
    random_bytes(bytes, sizeof bytes);
    for (size_t i = 0; i < sizeof bytes; i++)
        snprintf(id + 2 * i, 3, "%02x", bytes[i]);
}

/* What the kernel adds to CLOCK_MONOTONIC in this process's time namespace, in microseconds; false if unknown
 * (W8). */
static bool clock_offset(int64_t *micros) {
    char own[64] = "", of_children[64] = "", line[128];
    long long seconds, nanos;
    bool known = false;
    *micros = 0;
    if (readlink("/proc/self/ns/time", own, sizeof own - 1) < 0 ||
        readlink("/proc/self/ns/time_for_children", of_children, sizeof of_children - 1) < 0)
        return true; /* no such namespaces here */
    if (strcmp(own, of_children) != 0)
        return false;
    FILE *file = fopen("/proc/self/timens_offsets", "re");
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "monotonic %lld %lld", &seconds, &nanos) == 2) {
            *micros = seconds * 1000000 + nanos / 1000;
            known = true;
        }
    if (file != NULL)
        fclose(file);
    return known;
}

bool zev_is_bus_name(const char *name) {
    size_t size = strlen(name);
    if (size == 0 || size > 64 || *name == '-' || *name == '.')
        return false;
    for (size_t i = 0; i < size; i++) {
        char c = name[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || strchr("_-.", c)))
            return false;
    }
    return true;
}

static const char *set_variable(const char *name) {
    const char *value = getenv(name);
    return value != NULL && *value != '\0' ? value : NULL;
}

int zev_root(char *path, size_t size, zev_error *err) {
    struct stat info;
    const char *chosen = set_variable("ZBUS_DIR"), *runtime = set_variable("XDG_RUNTIME_DIR");
    const char *temporary = set_variable("TMPDIR");
    int length;
    if (chosen != NULL)
        length = snprintf(path, size, "%s", chosen);
    else if (runtime != NULL && (stat(runtime, &info) != 0 || info.st_uid == geteuid()))
        length = snprintf(path, size, "%s/zbus", runtime);
    else
        length = snprintf(path, size, "%s/zbus-%lu", temporary != NULL ? temporary : "/tmp", (unsigned long)geteuid());
    if (length < 0 || (size_t)length >= size)
        return fail(err, ZEV_INVALID, false, "the bus directory has a path that is too long: set ZBUS_DIR");
    return 0;
}

/* Write the path of a bus directory (R1, R2, R4). */
static int locate(const char *dir, const char *name, char path[PATH], zev_error *err) {
    char root[PATH], here[PATH] = "";
    if (!zev_is_bus_name(name))
        return invalid(err, "bus name", name, "is none: use letters, digits, '_', '-', '.', at most 64");
    if (dir != NULL) {
        if (*dir == '\0')
            return fail(err, ZEV_INVALID, false, "dir is empty: name a directory, or leave it NULL");
        snprintf(root, sizeof root, "%s", dir);
    } else if (zev_root(root, sizeof root, err) != 0) {
        return -1;
    }
    if (root[0] != '/' && getcwd(here, sizeof here) == NULL)
        return fail(err, ZEV_UNAVAILABLE, false,
                    "the directory %.200s is relative to the working directory, which is gone: use an absolute path",
                    root);
    size_t end = strlen(root);
    while (end > 1 && root[end - 1] == '/')
        root[--end] = '\0';
    size_t size = strlen(here) + (*here != '\0') + end + strlen("/v1/") + strlen(name) + strlen("/0123456789abcdef.sock");
    size_t most = sizeof(((struct sockaddr_un *)0)->sun_path) - 1;
    if (size > most)
        return fail(err, ZEV_INVALID, false,
                    "%.500s/v1/%s is too long: its sockets would have %zu bytes of at most %zu; shorten ZBUS_DIR, or"
                    " the bus name",
                    root, name, size, most);
    snprintf(path, PATH, "%.120s%s%.120s/v1/%s", here, *here != '\0' ? "/" : "", root, name);
    return 0;
}

/* Who may use what is created in a directory (R48). */
struct rights {
    bool group; /* otherwise private */
    gid_t gid;
    mode_t mode; /* of a directory */
};

static mode_t file_mode(struct rights rights) {
    return rights.group ? 0660 : 0600;
}

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

static bool in_group(gid_t gid) {
    gid_t groups[512];
    int count = getgroups(512, groups);
    if (geteuid() == 0 || gid == getegid())
        return true;
    for (int i = 0; i < count; i++)
        if (groups[i] == gid)
            return true;
    return false;
}

static int refuse(zev_error *err, const char *path, const char *why) {
    return fail(err, ZEV_PERMISSION_DENIED, false, "%s %s", path, why);
}

#define TO_SHARE                                                                                                       \
    "Several users share a bus in a directory prepared for a group of theirs, with ZBUS_DIR set to it for all of"     \
    " them: install -d -g GROUP -m 2770 DIRECTORY"

/* Refuse a directory that another user controls or may write to (R46, R47, R49). */
static int check_directory(const char *path, bool is_default, bool last, struct rights *rights, zev_error *err) {
    struct stat info;
    if (lstat(path, &info) != 0)
        return system_error(err, "use", path, errno);
    *rights = rights_from(&info);
    if (S_ISLNK(info.st_mode))
        return refuse(err, path, "is a symbolic link: name the directory itself");
    if (!S_ISDIR(info.st_mode))
        return refuse(err, path, "is not a directory: remove it or set ZBUS_DIR");
    if ((info.st_mode & S_IWOTH) != 0)
        return refuse(err, path, "is writable by everybody, who could forge events: chmod o-w it");
    bool mine = info.st_uid == geteuid();
    if (!mine && is_default)
        return refuse(err, path, "is where you have buses of your own, and belongs to another user: remove it, or set"
                                 " ZBUS_DIR. " TO_SHARE);
    if (rights->group && !in_group(rights->gid))
        return refuse(err, path, "is for a group that this process is not in: add the user to it (usermod -aG) and"
                                 " log in again");
    if (rights->group && (info.st_mode & S_ISVTX) != 0)
        return refuse(err, path, "has the sticky bit, so nobody could clean up after another user: chmod -t it");
    bool way = !last && info.st_uid == 0 && (info.st_mode & S_IWGRP) == 0 && faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) == 0;
    if (!rights->group && !mine && !way)
        return refuse(err, path, "belongs to another user, for them alone: share another directory with them. " TO_SHARE);
    return 0;
}

/* As root, do not create anything that another user could then not use (R49). */
static int check_parent(const char *root, zev_error *err) {
    char parent[PATH];
    struct stat info;
    snprintf(parent, sizeof parent, "%s", root);
    for (char *slash; (slash = strrchr(parent, '/')) != NULL && slash > parent;) {
        *slash = '\0';
        if (lstat(parent, &info) == 0)
            break;
    }
    if (geteuid() != 0 || stat(parent, &info) != 0 || info.st_uid == 0 || (info.st_mode & S_IWOTH) != 0 ||
        rights_from(&info).group)
        return 0;
    return refuse(err, root, "would be root's, in a directory of another user, who could not use it: run this as that"
                             " user, or create it for them first. " TO_SHARE);
}

/* Create a directory for a group under another name: nobody finds it before it has its rights. */
static int make_group_directory(const char *path, struct rights rights) {
    char scratch[PATH + 64], id[ID];
    struct stat info;
    new_id(id);
    snprintf(scratch, sizeof scratch, "%.*s/.%s.new", (int)(strrchr(path, '/') - path), path, id);
    if (mkdir(scratch, rights.mode & 0777) != 0)
        return -1;
    int fd = open(scratch, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    bool good = fd >= 0 && fstat(fd, &info) == 0 &&
                (info.st_gid == rights.gid || fchown(fd, (uid_t)-1, rights.gid) == 0) && fstat(fd, &info) == 0 &&
                ((info.st_mode & 07777) == rights.mode || fchmod(fd, rights.mode) == 0) && fstat(fd, &info) == 0;
    if (good && (info.st_mode & 07777) != rights.mode) {
        good = false;
        errno = EPERM;
    }
    good = good && (rename(scratch, path) == 0 || errno == EEXIST || errno == ENOTEMPTY || errno == ENOTDIR);
    int code = errno;
    rmdir(scratch); /* gone already, if the rename has succeeded */
    if (fd >= 0)
        close(fd);
    errno = code;
    return good ? 0 : -1;
}

static int make_directory(const char *path, struct rights rights) {
    struct stat info;
    if (!rights.group)
        return mkdir(path, 0700) == 0 || errno == EEXIST ? 0 : -1;
    return lstat(path, &info) == 0 ? 0 : make_group_directory(path, rights);
}

/* Create the parents of the root that are missing (R3). */
static int make_parents(const char *root, zev_error *err) {
    char path[PATH];
    snprintf(path, sizeof path, "%s", root);
    for (char *slash = path + 1; (slash = strchr(slash, '/')) != NULL; slash++) {
        *slash = '\0';
        if (mkdir(path, 0777) != 0 && errno != EEXIST && access(path, F_OK) != 0)
            return system_error(err, "create", path, errno);
        *slash = '/';
    }
    return 0;
}

/* Create what is missing on the way to a bus directory, and check it. `was` are the rights that it had before
 * someone removed it, or NULL. */
static int make_path(const char *path, bool is_default, const struct rights *was, struct rights *rights,
                     zev_error *err) {
    char part[3][PATH];
    struct stat info;
    struct rights inherited = {false, 0, 0700};
    for (int i = 2; i >= 0; i--) { /* the root, v1, the bus */
        snprintf(part[i], PATH, "%s", path);
        for (int up = i; up < 2; up++)
            *strrchr(part[i], '/') = '\0';
    }
    if (lstat(part[0], &info) != 0 && check_parent(part[0], err) != 0)
        return -1;
    if (make_parents(part[0], err) != 0)
        return -1;
    char *slash = strrchr(part[0], '/');
    *slash = '\0';
    if (!is_default && lstat(slash > part[0] ? part[0] : "/", &info) == 0 && (info.st_mode & S_IRWXO) == 0)
        inherited = rights_from(&info);
    *slash = '/';
    for (int i = 0; i < 3; i++) {
        if (make_directory(part[i], was != NULL && was->group ? *was : inherited) != 0)
            return system_error(err, "create", part[i], errno);
        if (check_directory(part[i], is_default && i == 0, i == 2, &inherited, err) != 0)
            return -1;
    }
    *rights = inherited;
    return 0;
}

/* An open bus directory: its token is mapped for reading, and a shared lock keeps cleaners away (R35). */
struct directory {
    int fd, token_fd;
    const volatile uint64_t *token;
    struct rights rights;
    struct stat info, token_info;
    struct directory *previous; /* others may still look at the tokens of those that were here before */
};

static bool same_file(const struct stat *a, const struct stat *b) {
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

static int write_whole(int fd, const void *bytes, size_t size, off_t at) {
    const char *from = (const char *)bytes;
    while (size > 0) {
        ssize_t done = pwrite(fd, from, size, at);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return -1;
        from += done;
        at += done;
        size -= (size_t)done;
    }
    return 0;
}

static int write_token(int fd) {
    unsigned char bytes[8];
    random_bytes(bytes, sizeof bytes);
    return write_whole(fd, bytes, sizeof bytes, 0);
}

/* Create a file under `scratch` with exactly these rights; return its descriptor. */
static int create_file(const char *scratch, struct rights rights) {
    int fd = open(scratch, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, file_mode(rights));
    if (fd >= 0 && fchmod(fd, file_mode(rights)) != 0) {
        close(fd);
        unlink(scratch);
        return -1;
    }
    return fd;
}

/* Open the token, creating it complete and with its rights before it has the name (R10). */
static int open_token(const char *path, struct rights rights) {
    char token[PATH + 64], scratch[PATH + 64], id[ID];
    struct stat info;
    snprintf(token, sizeof token, "%s/token", path);
    for (int tries = 0; tries < 10; tries++) {
        int fd = open(token, O_RDWR | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
        if (fd >= 0) {
            if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && (info.st_size >= 8 || write_token(fd) == 0))
                return fd;
            int code = S_ISREG(info.st_mode) ? errno : EINVAL;
            close(fd);
            errno = code;
            return -1;
        }
        if (errno != ENOENT)
            return -1;
        new_id(id);
        snprintf(scratch, sizeof scratch, "%s/%s.new", path, id);
        fd = create_file(scratch, rights);
        if (fd < 0)
            return -1;
        bool good = write_token(fd) == 0 && (link(scratch, token) == 0 || errno == EEXIST);
        int code = errno;
        close(fd);
        unlink(scratch);
        errno = code;
        if (!good)
            return -1;
    }
    return -1;
}

static void close_directory(struct directory *directory) {
    if (directory == NULL)
        return;
    close_directory(directory->previous);
    if (directory->token != NULL)
        munmap((void *)(uintptr_t)directory->token, 8);
    if (directory->token_fd >= 0)
        close(directory->token_fd);
    if (directory->fd >= 0)
        close(directory->fd);
    free(directory);
}

static int fill_directory(struct directory *opened, const char *path, bool is_default, const struct rights *was,
                          zev_error *err) {
    if (make_path(path, is_default, was, &opened->rights, err) != 0)
        return -1;
    opened->fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (opened->fd < 0 || fstat(opened->fd, &opened->info) != 0)
        return system_error(err, "open", path, errno);
    flock(opened->fd, LOCK_SH | LOCK_NB);
    opened->token_fd = open_token(path, opened->rights);
    if (opened->token_fd < 0 || fstat(opened->token_fd, &opened->token_info) != 0)
        return system_error(err, "open the token in", path, errno);
    void *mapped = mmap(NULL, 8, PROT_READ, MAP_SHARED, opened->token_fd, 0);
    if (mapped == MAP_FAILED)
        return system_error(err, "map the token in", path, errno);
    opened->token = (const volatile uint64_t *)mapped;
    return 0;
}

/* Open a bus directory, creating what is missing. */
static struct directory *open_directory(const char *path, bool is_default, const struct rights *was, zev_error *err) {
    struct directory *opened = (struct directory *)calloc(1, sizeof *opened);
    if (opened == NULL) {
        no_memory(err);
        return NULL;
    }
    opened->fd = opened->token_fd = -1;
    if (fill_directory(opened, path, is_default, was, err) != 0) {
        close_directory(opened);
        return NULL;
    }
    return opened;
}

/* Return whether the paths still lead to this directory and this token (R36, R37). */
static bool is_current(const struct directory *directory, const char *path) {
    char token[PATH + 64];
    struct stat info;
    snprintf(token, sizeof token, "%s/token", path);
    return lstat(path, &info) == 0 && same_file(&info, &directory->info) && lstat(token, &info) == 0 &&
           same_file(&info, &directory->token_info);
}

/* --- names of files, and what dead processes leave (R5, R6, R26 to R34) --- */

int zev_parse_file(const char *name, char id[40], uint64_t *epoch, bool *block) {
    const char *dot = strchr(name, '.');
    *epoch = 0;
    *block = false;
    if (strcmp(name, "token") == 0)
        return 't';
    if (dot == NULL || !is_hex_id(name, (size_t)(dot - name), 8, 32))
        return 0;
    memcpy(id, name, (size_t)(dot - name));
    id[dot - name] = '\0';
    const char *rest = dot + 1, *end = strchr(rest, '.');
    if (end == NULL)
        return strcmp(rest, "sock") == 0 ? 's' : strcmp(rest, "member") == 0 ? 'm' : strcmp(rest, "new") == 0 ? 'n' : 0;
    size_t digits = (size_t)(end - rest);
    *block = strcmp(end + 1, "block") == 0;
    if (digits > 18 || *rest == '0' || (!*block && strcmp(end + 1, "drop") != 0))
        return 0;
    *epoch = read_number((const unsigned char *)rest, digits);
    return *epoch != UNTOLD ? 'e' : 0;
}

bool zev_parse_sentinel(const void *topic, size_t size, char id[40], uint64_t *epoch) {
    const char *at = (const char *)topic + 1;
    if (size < 2 || *(const unsigned char *)topic != 0xff)
        return false;
    const char *dot = (const char *)memchr(at, '.', size - 1), *end = at + size - 1;
    if (dot == NULL || !is_hex_id(at, (size_t)(dot - at), 8, 32) || end - dot < 2 || end - dot > 19 || dot[1] == '0')
        return false;
    memcpy(id, at, (size_t)(dot - at));
    id[dot - at] = '\0';
    *epoch = read_number((const unsigned char *)dot + 1, (size_t)(end - dot - 1));
    return *epoch != UNTOLD;
}

/* Return whether a process listens at a path; in doubt, it does (R26). */
static bool answers(const char *path) {
    struct stat info;
    struct sockaddr_un address;
    if (lstat(path, &info) != 0)
        return errno != ENOENT;
    if (!S_ISSOCK(info.st_mode))
        return false;
    int probe = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (probe < 0)
        return true;
    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    snprintf(address.sun_path, sizeof address.sun_path, "%.107s", path);
    int done = connect(probe, (const struct sockaddr *)&address, sizeof address);
    bool dead = done != 0 && (errno == ECONNREFUSED || errno == ENOENT);
    close(probe);
    return !dead;
}

/* Remove a regular file or a socket; return whether it was removed (R32). */
static bool remove_file(const char *path) {
    struct stat info;
    return lstat(path, &info) == 0 && (S_ISREG(info.st_mode) || S_ISSOCK(info.st_mode)) && unlink(path) == 0;
}

/* Return whether no live process holds the lock of a member file (R31). */
static bool is_unlocked(const char *path) {
    struct stat info;
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool unlocked = fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && flock(fd, LOCK_SH | LOCK_NB) == 0;
    close(fd);
    return unlocked;
}

/* A file in the directory that concerns an ingress or a process. */
struct listed {
    int type; /* as zev_parse_file says */
    char id[ID];
    uint64_t epoch;
    bool block;
};

struct listing {
    struct listed *files;
    size_t count, room;
};

/* List the directory; the caller frees `files`. */
static int list_directory(const char *path, struct listing *out) {
    DIR *stream = opendir(path);
    struct dirent *found;
    out->files = NULL;
    out->count = out->room = 0;
    if (stream == NULL)
        return -1;
    while ((found = readdir(stream)) != NULL) {
        struct listed file;
        file.type = zev_parse_file(found->d_name, file.id, &file.epoch, &file.block);
        if (file.type == 0)
            continue;
        if (out->count == out->room) {
            size_t room = out->room > 0 ? 2 * out->room : 64;
            struct listed *files = (struct listed *)realloc(out->files, room * sizeof *files);
            if (files == NULL) {
                closedir(stream);
                free(out->files);
                errno = ENOMEM;
                return -1;
            }
            out->files = files;
            out->room = room;
        }
        out->files[out->count++] = file;
    }
    closedir(stream);
    return 0;
}

static void file_path(char to[PATH + 64], const char *dir, const struct listed *file) {
    const char *suffix = file->type == 's' ? "sock" : file->type == 'm' ? "member" : "new";
    if (file->type == 'e')
        snprintf(to, PATH + 64, "%s/%s.%llu.%s", dir, file->id, (unsigned long long)file->epoch,
                 file->block ? "block" : "drop");
    else
        snprintf(to, PATH + 64, "%s/%s.%s", dir, file->id, suffix);
}

/* Remove the entries of a dead ingress, then its socket (R27); return whether anything was removed. */
static bool remove_ingress(const char *dir, const struct listing *listing, const char *id) {
    char path[PATH + 64];
    bool removed = false;
    for (size_t i = 0; i < listing->count; i++)
        if (listing->files[i].type == 'e' && strcmp(listing->files[i].id, id) == 0) {
            file_path(path, dir, &listing->files[i]);
            removed |= remove_file(path);
        }
    snprintf(path, sizeof path, "%s/%s.sock", dir, id);
    return remove_file(path) || removed;
}

/* Remove what dead processes left, for 0.2 s at most (R28, R34); return whether an ingress was. */
static bool reap(const char *dir) {
    char path[PATH + 64];
    struct listing listing;
    struct stat info;
    bool removed = false;
    double deadline = now_seconds() + 0.2;
    if (list_directory(dir, &listing) != 0)
        return false;
    for (size_t i = 0; i < listing.count && (i < 100 || now_seconds() < deadline); i++) {
        const struct listed *file = &listing.files[i];
        file_path(path, dir, file);
        if (file->type == 'm' && is_unlocked(path))
            remove_file(path);
        if (file->type == 'n' && lstat(path, &info) == 0 && time(NULL) - info.st_mtime > 86400)
            remove_file(path);
        if (file->type == 'e' || file->type == 's') {
            snprintf(path, sizeof path, "%s/%s.sock", dir, file->id);
            if (!answers(path))
                removed |= remove_ingress(dir, &listing, file->id);
        }
    }
    free(listing.files);
    return removed;
}

/* Return whether live members have no token, because someone removed it (R10). */
static bool lost_its_token(const char *dir) {
    char path[PATH + 64];
    struct listing listing;
    bool live = false, token = false;
    if (list_directory(dir, &listing) != 0)
        return false;
    for (size_t i = 0; i < listing.count; i++) {
        token = token || listing.files[i].type == 't';
        file_path(path, dir, &listing.files[i]);
        live = live || (listing.files[i].type == 'm' && access(path, R_OK) == 0 && !is_unlocked(path));
    }
    free(listing.files);
    snprintf(path, sizeof path, "%s/token", dir);
    return live && !token && access(path, F_OK) != 0;
}

/* --- what a process says about itself (R8, R30, R53) --- */

/* Append a text as JSON, its bad bytes escaped as R8 says. */
static size_t put_quoted(char *to, size_t room, const char *text) {
    const unsigned char *at = (const unsigned char *)text, *end = at + strlen(text);
    size_t size = 0;
    to[size++] = '"';
    while (at < end && size + 16 < room) {
        size_t step = utf8_char(at, end);
        if (step == 0)
            size += (size_t)snprintf(to + size, room - size, "\\\\x%02x", *at);
        else if (*at == '"' || *at == '\\' || *at < 0x20)
            size += (size_t)snprintf(to + size, room - size, "\\u%04x", *at);
        else
            size += put((unsigned char *)to + size, at, step);
        at += step > 0 ? step : 1;
    }
    to[size++] = '"';
    to[size] = '\0';
    return size;
}

/* Write `"process":...,"pid":...,"language":"c"`. */
static void describe_process(char *to, size_t room) {
    char name[256] = "";
    FILE *file = fopen("/proc/self/comm", "re");
    if (file != NULL) {
        if (fgets(name, sizeof name, file) != NULL)
            name[strcspn(name, "\n")] = '\0';
        fclose(file);
    }
    size_t size = (size_t)snprintf(to, room, "\"process\":");
    size += put_quoted(to + size, room - size - 64, *name != '\0' ? name : "?");
    snprintf(to + size, room - size, ",\"pid\":%ld,\"language\":\"c\"", (long)getpid());
}

/* --- 6  receiving -------------------------------------------------------------------------------------------- */

struct publisher;

struct zev_bus {
    pid_t pid; /* handles do not survive a fork */
    char path[PATH], member[ID], process[512];
    bool is_default;
    zev_options options;
    void *context;
    int thread_prefix; /* of the names of the context's threads */
    bool clock_known;
    int64_t clock_offset;

    pthread_mutex_t lock; /* guards what follows */
    bool closed;
    struct directory *directory;
    unsigned generation; /* one more each time others have replaced the directory */
    int member_fd;
    uint64_t lost, malformed, join_timeouts, send_timeouts; /* lost and malformed: of closed subscriptions */
    uint64_t written[4];                                    /* the counters in the member file */
    char origins[16][ID];
    int origin_count;
    zev_sub *subs;
    struct zev_bus *next_bus; /* guarded by `buses_lock` */

    pthread_mutex_t send_lock; /* guards the publisher */
    struct publisher *publisher;

    pthread_t housekeeper;
    pthread_mutex_t tick_lock; /* guards what follows */
    pthread_cond_t tick;
    bool ending;
    double look_at; /* when the publisher is to look whether it is at rest; 0 for not */
};

/* A frame in a queue, and what events refer to. */
struct frame {
    struct frame *next;
    zev_frame view;
    size_t at, left;     /* of a batch: where the next item is, and how many are left */
    uint64_t lost;       /* of the subscription when it was queued */
    unsigned references; /* atomic */
    unsigned char *bytes;
};

/* A gap that was not taken. */
struct gap {
    struct gap *next;
    char origin[20];
    uint64_t first, last;
    size_t topic_size, kind; /* "system NUL kind NUL" and where the kind begins */
    char *topic;
};

struct zev_sub {
    pid_t pid;
    zev_bus *bus; /* NULL once it is closed */
    char id[ID];
    zev_overflow overflow;
    size_t capacity, capacity_bytes;
    char *system, *kind;
    char endpoint[192];   /* where it is bound */
    void *socket;         /* the thread's */
    zev_decoder *decoder; /* the thread's, once joined */
    pthread_t thread;
    int wake[2];       /* a pipe that ends the thread's wait */
    int attention;     /* atomic: the thread is to look at the flags below */
    struct stat named; /* the socket's file */
    struct zev_sub *next;

    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t changed;
    bool joined, stopping, ended, holding, rebind;
    int rebound; /* 0 pending, 1 done, -1 failed */
    unsigned waiting;
    struct frame *head, *tail;
    size_t frames, bytes;
    uint64_t received, lost, dropped, malformed, lost_told;
    struct gap *gaps, *last_gap;
    size_t gap_count;
};

static const char *const overflow_names[] = {"drop", "block"};

/* Return the machine's CLOCK_MONOTONIC in microseconds, UNTOLD if it cannot be determined (W8). */
static uint64_t machine_clock(const zev_bus *bus) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    int64_t micros = (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000 - bus->clock_offset;
    return bus->clock_known && micros >= 0 ? (uint64_t)micros : UNTOLD;
}

static void init_condition(pthread_cond_t *condition) {
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
}

static struct timespec at_time(double seconds) {
    struct timespec t;
    if (seconds < 0)
        seconds = 0;
    if (seconds > 4e9) /* more than a century */
        seconds = 4e9;
    t.tv_sec = (time_t)seconds;
    t.tv_nsec = (long)((seconds - (double)t.tv_sec) * 1e9);
    return t;
}

/* Start a thread that blocks all signals: they are the user's. */
static int start_thread(pthread_t *thread, void *(*run)(void *), void *argument) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = pthread_create(thread, NULL, run, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code;
}

static void touch(zev_bus *bus) {
    write_token(bus->directory->token_fd);
}

/* --- the queue --- */

static void release(struct frame *frame) {
    if (frame != NULL && __atomic_sub_fetch(&frame->references, 1, __ATOMIC_ACQ_REL) == 0)
        free(frame);
}

void zev_event_clear(zev_event *evt) {
    static const zev_event empty = ZEV_EVENT_INIT;
    release((struct frame *)evt->memory);
    *evt = empty;
}

static bool is_full(const zev_sub *sub) {
    return sub->frames >= sub->capacity || (sub->frames > 0 && sub->bytes >= sub->capacity_bytes);
}

/* Note that numbers are lost; one that continues the latest gap makes it longer. */
static void note_gap(zev_sub *sub, const unsigned char *frame, const zev_frame *view, uint64_t first, uint64_t last) {
    struct gap *gap = sub->last_gap;
    if (gap != NULL && gap->last + 1 == first && gap->topic_size == view->path &&
        memcmp(gap->topic, frame, view->path) == 0 && strcmp(gap->origin, view->origin) == 0) {
        gap->last = last;
        return;
    }
    gap = (struct gap *)malloc(sizeof *gap + view->path);
    if (gap == NULL)
        return; /* the count of what is lost has it */
    memset(gap, 0, sizeof *gap);
    gap->topic = (char *)(gap + 1);
    memcpy(gap->topic, frame, view->path);
    memcpy(gap->origin, view->origin, sizeof gap->origin);
    gap->topic_size = view->path;
    gap->kind = view->kind;
    gap->first = first;
    gap->last = last;
    *(sub->last_gap != NULL ? &sub->last_gap->next : &sub->gaps) = gap;
    sub->last_gap = gap;
    if (++sub->gap_count > GAPS_KEPT) {
        struct gap *oldest = sub->gaps;
        sub->gaps = oldest->next;
        sub->gap_count--;
        free(oldest);
    }
}

/* Queue a frame, or count its events as lost if there is no room; return whether the queue is full by now. */
static bool queue_frame(zev_sub *sub, struct frame *frame, const unsigned char *bytes, const zev_frame *view,
                        bool anyway) {
    bool full;
    pthread_mutex_lock(&sub->lock);
    for (int i = 0; i < view->gaps; i++)
        note_gap(sub, bytes, view, view->gap[i].first, view->gap[i].last);
    if (view->events > 0 && (frame == NULL || (!anyway && is_full(sub)))) {
        sub->dropped += view->events;
        if (view->seq > 0)
            note_gap(sub, bytes, view, view->seq, view->seq + view->events - 1);
        release(frame);
        frame = NULL;
    }
    sub->lost = view->lost + sub->dropped;
    sub->malformed = view->malformed;
    if (frame != NULL) {
        frame->lost = sub->lost;
        *(sub->tail != NULL ? &sub->tail->next : &sub->head) = frame;
        sub->tail = frame;
        sub->frames++;
        sub->bytes += view->size;
        if (sub->waiting > 0)
            pthread_cond_signal(&sub->changed);
    }
    full = is_full(sub);
    sub->holding = full && sub->overflow == ZEV_BLOCK;
    pthread_mutex_unlock(&sub->lock);
    return full;
}

/* Decode a frame that has arrived and queue what it holds; return whether the queue is full by now. */
static bool take_frame(zev_sub *sub, zmq_msg_t *message, bool anyway) {
    const unsigned char *bytes = (const unsigned char *)zmq_msg_data(message);
    size_t size = zmq_msg_size(message);
    uint64_t malformed = sub->decoder->malformed;
    struct frame *frame = NULL;
    zev_frame view;
    if (size > 0 && bytes[0] == 0xff)
        return false;
    zev_decode(sub->decoder, bytes, size, &view);
    if (view.events == 0 && view.gaps == 0 && view.malformed == malformed)
        return false;
    if (view.events > 0 && (frame = (struct frame *)malloc(sizeof *frame + size + 1)) != NULL) {
        frame->next = NULL;
        frame->view = view;
        frame->at = 0;
        frame->left = view.events;
        frame->references = 1;
        frame->bytes = (unsigned char *)(frame + 1);
        memcpy(frame->bytes, bytes, size);
        frame->bytes[size] = '\0';
    }
    return queue_frame(sub, frame, bytes, &view, anyway);
}

/* --- the thread --- */

static void wake_thread(zev_sub *sub) {
    __atomic_store_n(&sub->attention, 1, __ATOMIC_RELEASE);
    while (write(sub->wake[1], "", 1) < 0 && errno == EINTR) {
    }
}

/* Do what others have asked for; return whether to go on. `*hold` says whether to leave frames where they are. */
static bool attend(zev_sub *sub, bool *hold) {
    __atomic_store_n(&sub->attention, 0, __ATOMIC_RELEASE);
    pthread_mutex_lock(&sub->lock);
    *hold = !sub->joined || (sub->overflow == ZEV_BLOCK && is_full(sub));
    sub->holding = *hold;
    if (sub->rebind) {
        sub->rebind = false;
        sub->rebound = zmq_bind(sub->socket, sub->endpoint) == 0 ? 1 : -1;
        pthread_cond_broadcast(&sub->changed);
    }
    bool go_on = !sub->stopping;
    pthread_mutex_unlock(&sub->lock);
    return go_on;
}

/* Wait until libzmq has something to do, or someone has, or `timeout` milliseconds are over. */
static void wait_for_work(zev_sub *sub, int zmq_fd, int timeout) {
    struct pollfd fds[2] = {{zmq_fd, POLLIN, 0}, {sub->wake[0], POLLIN, 0}};
    char bytes[64];
    if (poll(fds, 2, timeout) > 0 && fds[1].revents != 0)
        while (read(sub->wake[0], bytes, sizeof bytes) > 0) {
        }
}

/* Receive until the subscription is closed. This thread is always in a call on the socket, or about to be. It does not
 * touch `sub->bus`, which may be closed before it has even begun. */
static void *receive_frames(void *argument) {
    zev_sub *sub = (zev_sub *)argument;
    zmq_msg_t message;
    bool hold = true;
    int zmq_fd = -1, events;
    size_t fd_size = sizeof zmq_fd, events_size = sizeof events;
    zmq_getsockopt(sub->socket, ZMQ_FD, &zmq_fd, &fd_size);
    zmq_msg_init(&message);
    for (;;) {
        if (__atomic_load_n(&sub->attention, __ATOMIC_ACQUIRE) && !attend(sub, &hold))
            break;
        if (hold) { /* a `block` queue is full: only serve joins */
            wait_for_work(sub, zmq_fd, 10);
            zmq_getsockopt(sub->socket, ZMQ_EVENTS, &events, &events_size);
        } else if (zmq_msg_recv(&message, sub->socket, ZMQ_DONTWAIT) >= 0) {
            hold = take_frame(sub, &message, false) && sub->overflow == ZEV_BLOCK;
        } else if (errno == EAGAIN) {
            wait_for_work(sub, zmq_fd, 1000); /* its descriptor tells of changes only, and recv saw them all */
        } else if (errno != EINTR) {
            break;
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

static int zmq_failure(zev_error *err, const char *what, const char *path) {
    return system_error(err, what, path, zmq_errno());
}

/* Create the SUB, subscribe, bind it (R16, steps 1, 2 and 5; W24, W53). */
static int open_ingress(zev_bus *bus, zev_sub *sub, zev_error *err) {
    char text[PATH + 64];
    zev_prefixes prefixes;
    int bad = 0;
    if (zev_prefixes_of(sub->system, sub->kind, &prefixes, err) != 0)
        return -1;
    size_t frames = sub->overflow == ZEV_BLOCK && sub->capacity < BLOCK_EVENTS ? sub->capacity : (size_t)BLOCK_EVENTS;
    sub->socket = zmq_socket(bus->context, ZMQ_SUB);
    if (sub->socket == NULL) {
        zev_prefixes_clear(&prefixes);
        return zmq_failure(err, "make a socket in", bus->path);
    }
    bad |= set_int(sub->socket, ZMQ_SNDHWM, 0);
    bad |= set_int(sub->socket, ZMQ_RCVHWM, (int)frames);
    bad |= set_int(sub->socket, ZMQ_LINGER, 0);
    bad |= set_int(sub->socket, ZMQ_BACKLOG, 4096);
    int64_t largest = (int64_t)bus->options.max_event_bytes;
    bad |= zmq_setsockopt(sub->socket, ZMQ_MAXMSGSIZE, &largest, sizeof largest);
    for (size_t i = 0; i < prefixes.count; i++)
        bad |= zmq_setsockopt(sub->socket, ZMQ_SUBSCRIBE, prefixes.prefix[i].bytes, prefixes.prefix[i].size);
    zev_prefixes_clear(&prefixes);
    int size = snprintf(text, sizeof text, "\xff%s.1", sub->id);
    bad |= zmq_setsockopt(sub->socket, ZMQ_SUBSCRIBE, text, (size_t)size);
    snprintf(sub->endpoint, sizeof sub->endpoint, "ipc://%.110s/%s.new", bus->path, sub->id);
    if (bad != 0 || zmq_bind(sub->socket, sub->endpoint) != 0) {
        zmq_failure(err, "listen in", bus->path);
        zmq_close(sub->socket);
        return -1;
    }
    return 0;
}

/* Give the socket its name (R9); it has the rights of its directory before. */
static int name_socket(zev_bus *bus, zev_sub *sub, zev_error *err) {
    char scratch[PATH + 64], path[PATH + 64];
    snprintf(scratch, sizeof scratch, "%s/%s.new", bus->path, sub->id);
    snprintf(path, sizeof path, "%s/%s.sock", bus->path, sub->id);
    if ((bus->directory->rights.group && chmod(scratch, 0660) != 0) || rename(scratch, path) != 0 ||
        lstat(path, &sub->named) != 0)
        return system_error(err, "create", path, errno);
    return 0;
}

static void entry_path(const zev_bus *bus, const zev_sub *sub, char path[PATH + 64]) {
    snprintf(path, PATH + 64, "%s/%s.1.%s", bus->path, sub->id, overflow_names[sub->overflow]);
}

/* Write the entry: whole, then renamed (R8). */
static int write_entry(zev_bus *bus, zev_sub *sub, zev_error *err) {
    char text[2048], system[600], kind[600], scratch[PATH + 64], path[PATH + 64];
    put_quoted(system, sizeof system, sub->system);
    put_quoted(kind, sizeof kind, sub->kind != NULL ? sub->kind : "*");
    int size = snprintf(text, sizeof text, "{%s,\"member\":\"%s\",\"patterns\":[[%s,%s,\"%s\"]],\"channels\":1}",
                        bus->process, bus->member, system, kind, overflow_names[sub->overflow]);
    snprintf(scratch, sizeof scratch, "%s/%s.new", bus->path, sub->id);
    entry_path(bus, sub, path);
    int fd = create_file(scratch, bus->directory->rights);
    bool good = fd >= 0 && write_whole(fd, text, (size_t)size, 0) == 0 && rename(scratch, path) == 0;
    int code = errno;
    if (fd >= 0) {
        close(fd);
        if (!good)
            unlink(scratch);
    }
    return good ? 0 : system_error(err, "write", path, code);
}

/* Leave the directory (R18): the entry, the socket, the token. */
static void withdraw(zev_bus *bus, const zev_sub *sub) {
    char path[PATH + 64];
    entry_path(bus, sub, path);
    bool removed = remove_file(path);
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s.%s", bus->path, sub->id, i == 0 ? "sock" : "new");
        removed |= remove_file(path);
    }
    if (removed)
        touch(bus);
}

static void end_thread(zev_sub *sub) {
    pthread_mutex_lock(&sub->lock);
    sub->stopping = true;
    pthread_mutex_unlock(&sub->lock);
    wake_thread(sub);
    pthread_join(sub->thread, NULL);
}

static int announce(zev_bus *bus, zev_sub *sub, zev_error *err) {
    if (name_socket(bus, sub, err) != 0 || write_entry(bus, sub, err) != 0)
        return -1;
    sub->decoder->announced = machine_clock(bus);
    if (write_token(bus->directory->token_fd) != 0)
        return system_error(err, "write the token in", bus->path, errno);
    sub->decoder->joined = machine_clock(bus);
    sub->decoder->forgetful = sub->decoder->joined == UNTOLD;
    pthread_mutex_lock(&sub->lock);
    sub->joined = true;
    pthread_mutex_unlock(&sub->lock);
    wake_thread(sub);
    return 0;
}

static int join_bus(zev_bus *bus, zev_sub *sub, zev_error *err) {
    if (open_ingress(bus, sub, err) != 0)
        return -1;
    sub->attention = 1;
    int code = start_thread(&sub->thread, receive_frames, sub);
    if (code != 0) {
        zmq_close(sub->socket);
        return system_error(err, "start a thread for", bus->path, code);
    }
    if (announce(bus, sub, err) != 0) {
        withdraw(bus, sub);
        end_thread(sub);
        return -1;
    }
    return 0;
}

/* Refuse to listen when few descriptors are left: libzmq aborts a process that has none to accept with. */
static int check_descriptors(zev_error *err) {
    struct rlimit limit;
    size_t used = 0;
    DIR *stream = opendir("/proc/self/fd");
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || (stream == NULL && errno != EMFILE))
        return 0;
    while (stream != NULL && readdir(stream) != NULL)
        used++;
    if (stream != NULL)
        closedir(stream);
    else
        used = limit.rlim_cur;
    if (limit.rlim_cur < 128 || used + 16 + 16 > limit.rlim_cur)
        return fail(err, ZEV_UNAVAILABLE, limit.rlim_cur >= 128,
                    "%zu of %zu file descriptors are in use: too many to subscribe, since each publisher takes one:"
                    " raise the limit (ulimit -n) or close some",
                    used, (size_t)limit.rlim_cur);
    return 0;
}

static void free_sub(zev_sub *sub) {
    if (sub == NULL)
        return;
    for (struct frame *frame = sub->head, *next; frame != NULL; frame = next) {
        next = frame->next;
        release(frame);
    }
    for (struct gap *gap = sub->gaps, *next; gap != NULL; gap = next) {
        next = gap->next;
        free(gap);
    }
    zev_decoder_free(sub->decoder);
    for (int i = 0; i < 2; i++)
        if (sub->wake[i] >= 0)
            close(sub->wake[i]);
    pthread_mutex_destroy(&sub->lock);
    pthread_cond_destroy(&sub->changed);
    free(sub->system);
    free(sub->kind);
    free(sub);
}

static zev_sub *new_sub(zev_bus *bus, const char *system, const char *kind, const zev_sub_options *options,
                        zev_error *err) {
    zev_sub *sub = (zev_sub *)calloc(1, sizeof *sub);
    if (sub == NULL) {
        no_memory(err);
        return NULL;
    }
    sub->wake[0] = sub->wake[1] = -1;
    pthread_mutex_init(&sub->lock, NULL);
    init_condition(&sub->changed);
    sub->pid = bus->pid;
    sub->bus = bus;
    new_id(sub->id);
    if (options != NULL) {
        sub->overflow = options->overflow;
        sub->capacity = options->capacity;
        sub->capacity_bytes = options->capacity_bytes;
    }
    sub->capacity = sub->capacity > 0 ? sub->capacity : bus->options.capacity;
    sub->capacity_bytes = sub->capacity_bytes > 0 ? sub->capacity_bytes : bus->options.capacity_bytes;
    sub->decoder = zev_decoder_new(system, kind, UNTOLD, UNTOLD, MAX_TOPICS, err);
    sub->system = sub->decoder != NULL ? strdup(system) : NULL;
    sub->kind = sub->decoder != NULL && sub->decoder->kind != NULL ? strdup(kind) : NULL;
    bool good = sub->system != NULL && (sub->kind != NULL || sub->decoder->kind == NULL);
    if (good && pipe2(sub->wake, O_CLOEXEC | O_NONBLOCK) != 0) {
        system_error(err, "make a pipe for", bus->path, errno);
        good = false;
    } else if (!good && sub->decoder != NULL) {
        no_memory(err);
    }
    if (!good) {
        free_sub(sub);
        return NULL;
    }
    return sub;
}

static int check_usable(const zev_bus *bus, bool closed, zev_error *err) {
    if (bus->pid != getpid())
        return fail(err, ZEV_CANCELED, false, "this bus belongs to the parent of this forked process: open another");
    if (closed)
        return fail(err, ZEV_CANCELED, false, "the bus is closed: open another");
    return 0;
}

static int restore_presence(zev_bus *bus, bool create, zev_error *err);

zev_sub *zev_subscribe(zev_bus *bus, const char *system, const char *kind, const zev_sub_options *options,
                       zev_error *err) {
    if (check_usable(bus, false, err) != 0)
        return NULL;
    if (options != NULL && options->overflow != ZEV_DROP && options->overflow != ZEV_BLOCK) {
        fail(err, ZEV_INVALID, false, "overflow is ZEV_DROP or ZEV_BLOCK, not %d", (int)options->overflow);
        return NULL;
    }
    zev_sub *sub = new_sub(bus, system, kind, options, err);
    if (sub == NULL)
        return NULL;
    pthread_mutex_lock(&bus->lock);
    bool good = check_usable(bus, bus->closed, err) == 0 && check_descriptors(err) == 0 &&
                restore_presence(bus, true, err) == 0 && join_bus(bus, sub, err) == 0;
    if (good) {
        if (bus->subs == NULL && reap(bus->path))
            touch(bus);
        sub->next = bus->subs;
        bus->subs = sub;
    }
    pthread_mutex_unlock(&bus->lock);
    if (!good) {
        free_sub(sub);
        return NULL;
    }
    return sub;
}

/* --- what the user calls --- */

/* Hand the next event of the queue over; the lock is held, and there is one. */
static void pop_event(zev_sub *sub, zev_event *evt) {
    struct frame *frame = sub->head;
    const zev_frame *view = &frame->view;
    const char *text = (const char *)frame->bytes;
    memcpy(evt->origin, view->origin, sizeof evt->origin);
    evt->seq = view->seq > 0 ? view->seq + (view->events - frame->left) : 0;
    evt->time = view->seq > 0 ? view->time : UNTOLD;
    evt->lost = frame->lost - sub->lost_told;
    sub->lost_told = frame->lost;
    evt->system = text;
    evt->kind = text + view->kind;
    evt->memory = frame;
    if (view->batch) {
        zev_next_item(frame->bytes, view, &frame->at, evt);
    } else {
        evt->path = text + view->path;
        put_event(evt, frame->bytes + view->data, view->size - view->data);
    }
    sub->received++;
    if (--frame->left > 0) {
        __atomic_add_fetch(&frame->references, 1, __ATOMIC_RELAXED);
        return;
    }
    sub->head = frame->next;
    if (sub->head == NULL)
        sub->tail = NULL;
    sub->frames--;
    sub->bytes -= view->size;
    if (sub->holding && sub->frames <= sub->capacity / 2 && !is_full(sub)) {
        sub->holding = false;
        wake_thread(sub);
    }
}

int zev_receive(zev_sub *sub, zev_event *evt, double timeout, zev_error *err) {
    if (sub->pid != getpid())
        return fail(err, ZEV_CANCELED, false, "this subscription belongs to the parent of this forked process");
    zev_event_clear(evt);
    pthread_mutex_lock(&sub->lock);
    if (sub->head == NULL && !sub->ended) {
        struct timespec until = at_time(timeout >= 0 ? now_seconds() + timeout : 4e9);
        int code = 0;
        sub->waiting++;
        while (sub->head == NULL && !sub->ended && code != ETIMEDOUT)
            code = pthread_cond_timedwait(&sub->changed, &sub->lock, &until);
        sub->waiting--;
    }
    int result = sub->head != NULL ? 1 : sub->ended ? 0 : -1;
    if (result == 1)
        pop_event(sub, evt);
    pthread_mutex_unlock(&sub->lock);
    return result >= 0 ? result : fail(err, ZEV_TIMEOUT, true, "no event within %g s: receive again", timeout);
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

bool zev_next_gap(zev_sub *sub, zev_gap *gap) {
    pthread_mutex_lock(&sub->lock);
    struct gap *oldest = sub->gaps;
    if (oldest != NULL) {
        sub->gaps = oldest->next;
        sub->gap_count--;
        if (sub->gaps == NULL)
            sub->last_gap = NULL;
    }
    pthread_mutex_unlock(&sub->lock);
    if (oldest == NULL)
        return false;
    memcpy(gap->origin, oldest->origin, sizeof gap->origin);
    snprintf(gap->system, sizeof gap->system, "%s", oldest->topic);
    snprintf(gap->kind, sizeof gap->kind, "%s", oldest->topic + oldest->kind);
    gap->first = oldest->first;
    gap->last = oldest->last;
    free(oldest);
    return true;
}

/* Leave the bus; its lock is held. */
static void close_sub(zev_bus *bus, zev_sub *sub) {
    for (zev_sub **at = &bus->subs; *at != NULL; at = &(*at)->next)
        if (*at == sub) {
            *at = sub->next;
            withdraw(bus, sub);
            end_thread(sub);
            bus->lost += sub->lost;
            bus->malformed += sub->malformed;
            return;
        }
}

void zev_sub_close(zev_sub *sub) {
    zev_bus *bus = __atomic_exchange_n(&sub->bus, (zev_bus *)NULL, __ATOMIC_ACQ_REL);
    if (bus == NULL || sub->pid != getpid())
        return;
    pthread_mutex_lock(&bus->lock);
    close_sub(bus, sub);
    pthread_mutex_unlock(&bus->lock);
}

void zev_sub_free(zev_sub *sub) {
    if (sub == NULL)
        return;
    zev_sub_close(sub);
    if (sub->pid == getpid())
        free_sub(sub);
}

/* --- 7  processes -------------------------------------------------------------------------------------------- */

/* A process at one moment: is it stopped, or could it run and gets no CPU? */
struct process_state {
    bool known, ready, stopped;
    double at, cpu;
};

static char thread_state(const char *path) {
    char text[512];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd >= 0 ? read(fd, text, sizeof text - 1) : 0;
    if (fd >= 0)
        close(fd);
    text[size > 0 ? size : 0] = '\0';
    const char *bracket = strrchr(text, ')'); /* the name before may hold any character */
    return bracket != NULL && bracket[1] == ' ' ? bracket[2] : '\0';
}

/* Look at a process, this thread excepted. */
static struct process_state look_at_process(pid_t pid) {
    struct process_state state = {false, false, true, 0, 0};
    struct timespec cpu;
    char path[512];
    struct dirent *found;
    long self = syscall(SYS_gettid);
    int seen = 0;
    snprintf(path, sizeof path, "/proc/%ld/task", (long)pid);
    DIR *tasks = opendir(path);
    if (tasks == NULL)
        return state;
    /* The CPU clock of another process, as <linux/posix-timers.h> makes its id. */
    bool timed = clock_gettime((clockid_t)((~(unsigned)pid << 3) | 2U), &cpu) == 0;
    while (timed && (found = readdir(tasks)) != NULL) {
        if (found->d_name[0] == '.' || atol(found->d_name) == self)
            continue;
        snprintf(path, sizeof path, "/proc/%ld/task/%.20s/stat", (long)pid, found->d_name);
        char is = thread_state(path);
        seen += is != '\0';
        state.ready |= is == 'R' || is == 'D';
        state.stopped &= is == '\0' || strchr("TtXZ", is) != NULL;
    }
    closedir(tasks);
    state.stopped &= seen > 0;
    state.known = timed;
    state.at = now_seconds();
    state.cpu = timed ? (double)cpu.tv_sec + (double)cpu.tv_nsec / 1e9 : 0;
    return state;
}

static bool waits_for_cpu(const struct process_state *before, const struct process_state *after) {
    return before->known && after->known && after->ready && after->cpu - before->cpu < 0.8 * (after->at - before->at);
}

static int connect_to(const char *path, int flags) {
    struct sockaddr_un address;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    snprintf(address.sun_path, sizeof address.sun_path, "%.107s", path);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof address) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

/* Return which process listens at a path, 0 if that is unknown. */
static pid_t listening_process(const char *path) {
    struct ucred peer;
    socklen_t size = sizeof peer;
    int fd = connect_to(path, SOCK_NONBLOCK);
    if (fd < 0)
        return 0;
    bool known = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0;
    close(fd);
    return known ? peer.pid : 0;
}

/* Return whether the listener at a path greets a new connection, as ZeroMQ does even when its user is held up. */
static bool greets(const char *path) {
    char byte;
    int fd = connect_to(path, SOCK_NONBLOCK);
    if (fd < 0)
        return true;
    struct pollfd wait = {fd, POLLIN, 0};
    bool greeted = poll(&wait, 1, 250) > 0 && recv(fd, &byte, 1, MSG_DONTWAIT) > 0;
    close(fd);
    return greeted;
}

/* How often this process was seen to wait for a CPU. */
struct workload {
    int checks, busy;
    struct process_state last;
};

static bool check_workload(struct workload *own, bool overslept) {
    struct process_state before = own->last;
    own->last = look_at_process(getpid());
    bool waits = overslept || waits_for_cpu(&before, &own->last);
    own->checks++;
    own->busy += waits;
    return waits;
}

/* The wait for one joiner (R21, R40): slow is not stopped. */
struct join_wait {
    double first, since, due, pause;
    pid_t pid;
    struct process_state peer;
    bool stopped, cpu_short;
    int checks, busy, own_checks, own_busy;
};

static void reset_wait(struct join_wait *wait, double since) {
    wait->since = since;
    wait->peer.known = false;
    wait->checks = wait->busy = 0;
}

static void begin_wait(struct join_wait *wait, double now) {
    memset(wait, 0, sizeof *wait);
    wait->first = now;
    wait->pause = 0.005;
    wait->due = now + wait->pause;
    reset_wait(wait, now);
}

static void check_peer(struct join_wait *wait, const char *path) {
    if (wait->pid == 0)
        wait->pid = listening_process(path);
    wait->peer.known = false;
    if (wait->pid != 0 && wait->pid != getpid())
        wait->peer = look_at_process(wait->pid);
    wait->stopped = wait->peer.known && wait->peer.stopped;
}

/* Return whether `timeout` is over and there is no point in waiting. Called when `due`. */
static bool wait_is_over(struct join_wait *wait, const char *path, double now, double timeout,
                         const struct workload *own) {
    double longest = timeout / 10 > 0.005 ? timeout / 10 : 0.005;
    wait->pause = 2 * wait->pause < 0.05 ? 2 * wait->pause : 0.05;
    wait->pause = wait->pause < longest ? wait->pause : longest;
    wait->due = now + wait->pause;
    if (now < wait->since + timeout / 2)
        return false;
    if (wait->checks == 0) {
        wait->own_checks = own->checks;
        wait->own_busy = own->busy;
    }
    struct process_state before = wait->peer;
    bool was_stopped = wait->stopped;
    check_peer(wait, path);
    wait->checks++;
    wait->busy += waits_for_cpu(&before, &wait->peer);
    if (was_stopped && !wait->stopped) /* it runs again: its time begins now */
        reset_wait(wait, now);
    if (now < wait->since + timeout)
        return false;
    if (wait->stopped || timeout <= 0 || now >= wait->first + 30 * timeout)
        return true;
    if (wait->checks < 5)
        return false;
    if (3 * wait->busy <= wait->checks && 3 * (own->busy - wait->own_busy) <= own->checks - wait->own_checks)
        return true;
    wait->cpu_short = true;
    reset_wait(wait, now - timeout / 2);
    return false;
}

/* --- connections, as the kernel sees them --- */

static int next_descriptor(DIR *descriptors) {
    struct dirent *found;
    while ((found = readdir(descriptors)) != NULL)
        if (found->d_name[0] != '.')
            return atoi(found->d_name);
    return -1;
}

/* Read the id in the name of an ingress's socket (R25). */
static bool id_of_path(const char *path, char id[ID]) {
    uint64_t epoch;
    bool block;
    const char *slash = strrchr(path, '/');
    int type = zev_parse_file(slash != NULL ? slash + 1 : path, id, &epoch, &block);
    return type == 's' || type == 'n';
}

static bool peer_id(int fd, char id[ID]) {
    struct sockaddr_un name;
    socklen_t size = sizeof name;
    memset(&name, 0, sizeof name);
    if (getpeername(fd, (struct sockaddr *)&name, &size) != 0 || name.sun_family != AF_UNIX)
        return false;
    char path[sizeof name.sun_path + 1];
    memcpy(path, name.sun_path, sizeof name.sun_path);
    path[sizeof name.sun_path] = '\0';
    return id_of_path(path, id);
}

static int unread_bytes(int fd) {
    int pending = 0;
    return ioctl(fd, TIOCOUTQ, &pending) == 0 ? pending : 0;
}

/* Return how often the I/O thread of a context has fallen asleep, if it sleeps now; -1 otherwise. What has been
 * sent wakes it, so once it sleeps it has written all it could. */
static long long io_thread_sleeps(const zev_bus *bus) {
    char path[64], line[256], name[32];
    long long sleeps = -1;
    struct dirent *found;
    DIR *tasks = opendir("/proc/self/task");
    snprintf(name, sizeof name, "%d/ZMQbg/IO/0", bus->thread_prefix);
    while (tasks != NULL && sleeps < 0 && (found = readdir(tasks)) != NULL) {
        snprintf(path, sizeof path, "/proc/self/task/%.20s/status", found->d_name);
        FILE *file = fopen(path, "re");
        bool ours = false, asleep = false;
        while (file != NULL && fgets(line, sizeof line, file) != NULL) {
            if (strncmp(line, "Name:\t", 6) == 0) {
                line[strcspn(line, "\n")] = '\0';
                ours = strcmp(line + 6, name) == 0;
            }
            if (!ours)
                break;
            asleep = asleep || strncmp(line, "State:\tS", 8) == 0;
            if (asleep && strncmp(line, "voluntary_ctxt_switches:", 24) == 0)
                sleeps = atoll(line + 24);
        }
        if (file != NULL)
            fclose(file);
    }
    if (tasks != NULL)
        closedir(tasks);
    return sleeps;
}

/* --- 8  sending ---------------------------------------------------------------------------------------------- */

/* The connection to one ingress. */
struct link {
    struct link *next;
    char id[ID], path[PATH + 64];
    uint64_t epoch, shown; /* awaited, and seen */
    uint64_t missed;       /* the epoch for which it was given up, until that is shown */
    bool block, awaited, listed;
    bool full;             /* a frame may have been dropped for it (R57) */
    unsigned generation;   /* of the directory that listed it last */
    struct join_wait wait;
};

/* What an ingress that proved dead had at the path of its socket: it is not listed again (R33). */
struct dead {
    struct dead *next;
    char id[ID];
    bool there;
    struct stat socket;
};

struct topic;

/* A mark that is owed, or was sent while someone was in doubt (R57). */
struct mark {
    struct mark *next, *previous; /* in `owed` or `doubted` */
    struct mark *sibling;         /* of the same topic */
    struct topic *topic;
    uint64_t settled, first;
    bool owed;
};

struct marks {
    struct mark *head, *tail;
    size_t count;
};

struct topic {
    struct topic *next; /* of the same hash, or of all that are retired */
    uint64_t hash, born, settled, first, seq, marked, announced;
    bool retired;
    struct mark *marks;
    size_t head_size, kind, origin_size, since_size;
    char origin[ID + 1]; /* with a dot behind */
    char since[72];      /* ".born.settled.first." */
    char *head;          /* "system NUL kind NUL" */
};

struct publisher {
    void *lanes[2]; /* the XPUB for `drop`, and that for `block`; NULL if there is none */
    size_t links_of[2];
    struct link *links;
    struct dead *dead;
    const volatile uint64_t *token;
    uint64_t listed, known; /* the tokens as of which links were listed and settled */
    bool is_listed, is_known;
    unsigned generation;
    uint64_t settled; /* as of when (W37) */
    uint64_t settlings;
    double used_up_at, answered_at, cpu_short_at, check_returned_at;
    struct workload own;

    char origin[ID];
    struct topic **table;
    size_t slots, topics;

    struct marks owed, doubted;
    bool resting, any_full, left_out, returned, to_block;
    int tries;
    double pause;
};

static double least(double a, double b) {
    return a < b ? a : b;
}

static double most(double a, double b) {
    return a > b ? a : b;
}

static void look_again(zev_bus *bus, double seconds) {
    pthread_mutex_lock(&bus->tick_lock);
    double at = now_seconds() + seconds;
    if (bus->look_at <= 0 || at < bus->look_at) {
        bus->look_at = at;
        pthread_cond_signal(&bus->tick);
    }
    pthread_mutex_unlock(&bus->tick_lock);
}

/* --- marks that are owed --- */

static void unlink_mark(struct marks *marks, struct mark *mark) {
    *(mark->previous != NULL ? &mark->previous->next : &marks->head) = mark->next;
    *(mark->next != NULL ? &mark->next->previous : &marks->tail) = mark->previous;
    marks->count--;
}

static void link_mark(struct marks *marks, struct mark *mark) {
    mark->next = NULL;
    mark->previous = marks->tail;
    *(marks->tail != NULL ? &marks->tail->next : &marks->head) = mark;
    marks->tail = mark;
    marks->count++;
}

static void free_topic(struct topic *topic) {
    free(topic->head);
    free(topic);
}

static void forget_mark(struct publisher *publisher, struct mark *mark) {
    struct topic *topic = mark->topic;
    unlink_mark(mark->owed ? &publisher->owed : &publisher->doubted, mark);
    for (struct mark **at = &topic->marks; *at != NULL; at = &(*at)->sibling)
        if (*at == mark) {
            *at = mark->sibling;
            break;
        }
    free(mark);
    if (topic->retired && topic->marks == NULL)
        free_topic(topic);
}

/* Owe a mark for what was sent with this `settled` and `first`, or note that one is in doubt. */
static void keep_mark(struct publisher *publisher, struct topic *topic, uint64_t settled, uint64_t first, bool owed) {
    struct marks *marks = owed ? &publisher->owed : &publisher->doubted;
    struct mark *mark = topic->marks;
    while (mark != NULL && (mark->settled != settled || mark->first != first))
        mark = mark->sibling;
    if (mark != NULL) {
        if (mark->owed || !owed)
            return;
        unlink_mark(&publisher->doubted, mark);
        mark->owed = true;
        link_mark(&publisher->owed, mark);
        return;
    }
    mark = (struct mark *)calloc(1, sizeof *mark);
    if (mark == NULL)
        return;
    mark->topic = topic;
    mark->settled = settled;
    mark->first = first;
    mark->owed = owed;
    mark->sibling = topic->marks;
    topic->marks = mark;
    link_mark(marks, mark);
    if (marks->count > MAX_MARKS)
        forget_mark(publisher, marks->head);
}

static void owe_doubted(struct publisher *publisher) {
    for (struct mark *mark; (mark = publisher->doubted.head) != NULL;)
        keep_mark(publisher, mark->topic, mark->settled, mark->first, true);
}

static bool is_unmarked(const struct topic *topic) {
    return topic->first <= topic->seq && topic->seq != topic->marked;
}

static void owe_unmarked(struct publisher *publisher) {
    for (size_t i = 0; i < publisher->slots; i++)
        for (struct topic *topic = publisher->table[i]; topic != NULL; topic = topic->next)
            if (is_unmarked(topic))
                keep_mark(publisher, topic, topic->settled, topic->first, true);
}

/* --- frames to the sockets --- */

/* Have libzmq look at what peers have sent, such as news of room. */
static void process_commands(struct publisher *publisher) {
    int events;
    size_t size = sizeof events;
    for (int i = 0; i < 2; i++)
        if (publisher->lanes[i] != NULL)
            zmq_getsockopt(publisher->lanes[i], ZMQ_EVENTS, &events, &size);
}

/* Send to every link of a socket, or to none; return 1, 0 for want of room, -1 on failure. The message is used
 * up if it was sent. */
static int send_strictly(struct publisher *publisher, void *socket, zmq_msg_t *message) {
    for (int tries = 0; tries < 3;) {
        if (zmq_msg_send(message, socket, ZMQ_DONTWAIT) >= 0)
            return 1;
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN)
            return -1;
        process_commands(publisher);
        tries++;
    }
    return 0;
}

/* Send a frame to the `drop` ingresses; those that have no room do not get it, and are in doubt (R57). */
static int send_drop(struct publisher *publisher, zmq_msg_t *message) {
    void *socket = publisher->lanes[ZEV_DROP];
    int sent = 1;
    if (publisher->links_of[ZEV_DROP] == 0)
        return 1;
    sent = send_strictly(publisher, socket, message);
    if (sent != 0)
        return sent;
    for (struct link *link = publisher->links; link != NULL; link = link->next)
        link->full |= !link->block;
    publisher->any_full = true;
    set_int(socket, ZMQ_XPUB_NODROP, 0);
    while ((sent = zmq_msg_send(message, socket, ZMQ_DONTWAIT)) < 0 && errno == EINTR) {
    }
    set_int(socket, ZMQ_XPUB_NODROP, 1);
    return sent >= 0 ? 1 : -1;
}

/* Make a frame of a topic; `twin` puts `0xff #` before it. */
static int make_frame(zmq_msg_t *message, const struct topic *topic, const struct body *body, uint64_t settled,
                      uint64_t first, bool twin) {
    unsigned char stamp[160], *at = stamp;
    char since[72];
    size_t since_size = topic->since_size;
    const char *text = topic->since;
    if (settled != topic->settled || first != topic->first) { /* a mark of an earlier settling */
        since_size = (size_t)snprintf(since, sizeof since, ".%llu.%llu.%llu.", (unsigned long long)topic->born,
                                      (unsigned long long)settled, (unsigned long long)first);
        text = since;
    }
    at += put(at, topic->origin, topic->origin_size);
    at += put_number(at, topic->seq + 1);
    at += put(at, text, since_size);
    at += put_number(at, wall_micros());
    *at++ = '\0';
    size_t size = topic->head_size + body->path_size + 1 + (size_t)(at - stamp) + body->size + (twin ? 2 : 0);
    if (zmq_msg_init_size(message, size) != 0)
        return -1;
    unsigned char *to = (unsigned char *)zmq_msg_data(message);
    if (twin)
        to += put(to, "\xff#", 2);
    to += put(to, topic->head, topic->head_size);
    to += put(to, body->path, body->path_size + 1);
    to += put(to, stamp, (size_t)(at - stamp));
    put_body(to, body);
    return 0;
}

static const struct body mark_body = {"", NULL, 2, 0, 0, false, true};

/* Send a mark and its twin (W46, W47), or only the twin (W48); `force` says to drop it for those without room.
 * Return whether it was sent. */
static bool send_mark(zev_bus *bus, struct topic *topic, uint64_t settled, uint64_t first, bool twin_only, bool force) {
    struct publisher *publisher = bus->publisher;
    bool sent = true;
    for (int twin = twin_only; sent && twin < 2; twin++) {
        zmq_msg_t message;
        if (make_frame(&message, topic, &mark_body, settled, first, twin != 0) != 0)
            return true;
        if (twin == 0 && publisher->to_block && publisher->links_of[ZEV_BLOCK] > 0) {
            zmq_msg_t copy;
            zmq_msg_init(&copy);
            if (zmq_msg_copy(&copy, &message) == 0)
                send_strictly(publisher, publisher->lanes[ZEV_BLOCK], &copy);
            zmq_msg_close(&copy);
        }
        if (publisher->links_of[ZEV_DROP] > 0)
            sent = (force ? send_drop(publisher, &message)
                          : send_strictly(publisher, publisher->lanes[ZEV_DROP], &message)) != 0;
        zmq_msg_close(&message);
    }
    return sent;
}

static bool in_doubt(const struct publisher *publisher) {
    return publisher->any_full || publisher->left_out;
}

/* Send marks that are owed, `limit` at most; return whether none is left. A mark for which there is no room
 * several looks in a row is dropped for those who have none (R58). */
static bool send_marks(zev_bus *bus, size_t limit) {
    struct publisher *publisher = bus->publisher;
    for (; publisher->owed.head != NULL && limit > 0; limit--) {
        struct mark *mark = publisher->owed.head;
        struct topic *topic = mark->topic;
        if (!send_mark(bus, topic, mark->settled, mark->first, false, publisher->tries >= 10)) {
            publisher->tries++;
            return false;
        }
        publisher->tries = 0;
        if (mark->settled == topic->settled && mark->first == topic->first)
            topic->marked = topic->seq;
        if (in_doubt(publisher)) {
            unlink_mark(&publisher->owed, mark);
            mark->owed = false;
            link_mark(&publisher->doubted, mark);
            if (publisher->doubted.count > MAX_MARKS)
                forget_mark(publisher, publisher->doubted.head);
        } else {
            forget_mark(publisher, mark);
        }
    }
    if (publisher->owed.head == NULL)
        publisher->to_block = false;
    return publisher->owed.head == NULL;
}

/* --- links --- */

static struct link *find_link(struct publisher *publisher, const char *id) {
    struct link *link = publisher->links;
    while (link != NULL && strcmp(link->id, id) != 0)
        link = link->next;
    return link;
}

static void expect(struct link *link, uint64_t epoch) {
    link->epoch = epoch;
    begin_wait(&link->wait, now_seconds());
    link->awaited = link->shown < epoch;
}

static void note_subscription(struct publisher *publisher, const unsigned char *message, size_t size) {
    char id[ID];
    uint64_t epoch;
    if (size < 3 || !zev_parse_sentinel(message + 1, size - 1, id, &epoch))
        return;
    struct link *link = find_link(publisher, id);
    if (link == NULL)
        return;
    if (message[0] == 1) {
        link->shown = link->shown > epoch ? link->shown : epoch;
        link->awaited = link->awaited && link->shown < link->epoch;
        publisher->answered_at = now_seconds();
        if (link->missed > 0) {
            publisher->returned = true;
            publisher->to_block |= link->block;
            link->missed = link->missed > link->shown ? link->missed : 0;
        }
    } else if (epoch == link->shown) { /* the connection has ended: wait for the next one */
        link->shown = 0;
        expect(link, link->epoch);
    }
}

/* Read what peers have subscribed to (W25). */
static void read_subscriptions(struct publisher *publisher) {
    zmq_msg_t message;
    zmq_msg_init(&message);
    for (int i = 0; i < 2; i++)
        while (publisher->lanes[i] != NULL &&
               (zmq_msg_recv(&message, publisher->lanes[i], ZMQ_DONTWAIT) >= 0 || errno == EINTR))
            note_subscription(publisher, (const unsigned char *)zmq_msg_data(&message), zmq_msg_size(&message));
    zmq_msg_close(&message);
}

static void update_left_out(struct publisher *publisher) {
    publisher->left_out = false;
    for (struct link *link = publisher->links; link != NULL; link = link->next)
        publisher->left_out |= link->missed > 0;
}

static bool same_socket(const struct dead *dead, const char *path) {
    struct stat info;
    bool there = lstat(path, &info) == 0;
    return there == dead->there &&
           (!there || (same_file(&info, &dead->socket) && info.st_ctim.tv_sec == dead->socket.st_ctim.tv_sec &&
                       info.st_ctim.tv_nsec == dead->socket.st_ctim.tv_nsec));
}

/* Remember that an ingress is dead, and remove what it left (R27, R33). */
static void bury(zev_bus *bus, const char *id, const struct listing *listing) {
    struct publisher *publisher = bus->publisher;
    struct listing own = {NULL, 0, 0};
    char path[PATH + 64];
    struct dead *dead = (struct dead *)calloc(1, sizeof *dead);
    if (dead == NULL)
        return;
    snprintf(path, sizeof path, "%s/%s.sock", bus->path, id);
    snprintf(dead->id, sizeof dead->id, "%s", id);
    dead->there = lstat(path, &dead->socket) == 0;
    dead->next = publisher->dead;
    publisher->dead = dead;
    if (listing == NULL && list_directory(bus->path, &own) == 0)
        listing = &own;
    if (listing != NULL && remove_ingress(bus->path, listing, id)) {
        pthread_mutex_lock(&bus->lock);
        touch(bus);
        pthread_mutex_unlock(&bus->lock);
    }
    free(own.files);
}

/* Return whether an ingress is known to be dead; forget it if another socket has its name. */
static bool is_buried(struct publisher *publisher, const char *id, const char *path) {
    for (struct dead **at = &publisher->dead; *at != NULL; at = &(*at)->next)
        if (strcmp((*at)->id, id) == 0) {
            struct dead *dead = *at;
            if (same_socket(dead, path))
                return true;
            *at = dead->next;
            free(dead);
            return false;
        }
    return false;
}

static void forget_dead(struct publisher *publisher, const struct listing *listing) {
    for (struct dead **at = &publisher->dead; *at != NULL;) {
        struct dead *dead = *at;
        bool there = false;
        for (size_t i = 0; i < listing->count && !there; i++)
            there = listing->files[i].type == 'e' && strcmp(listing->files[i].id, dead->id) == 0;
        if (there) {
            at = &dead->next;
        } else {
            *at = dead->next;
            free(dead);
        }
    }
}

/* Return the publishing socket of an overflow policy, made with the options of W24 and W53. */
static void *open_lane(zev_bus *bus, bool block, zev_error *err) {
    struct publisher *publisher = bus->publisher;
    size_t frames = block && bus->options.capacity > BLOCK_EVENTS ? (size_t)BLOCK_EVENTS : bus->options.capacity;
    void *socket = publisher->lanes[block];
    if (socket != NULL)
        return socket;
    socket = zmq_socket(bus->context, ZMQ_XPUB);
    if (socket == NULL || set_int(socket, ZMQ_XPUB_NODROP, 1) != 0 || set_int(socket, ZMQ_IMMEDIATE, 1) != 0 ||
        set_int(socket, ZMQ_SNDHWM, WHOLE(frames)) != 0 || set_int(socket, ZMQ_SNDTIMEO, 0) != 0 ||
        set_int(socket, ZMQ_RECONNECT_IVL_MAX, 5000) != 0 || set_int(socket, ZMQ_LINGER, 0) != 0) {
        zmq_failure(err, "make a socket in", bus->path);
        if (socket != NULL)
            zmq_close(socket);
        return NULL;
    }
    publisher->lanes[block] = socket;
    return socket;
}

static int add_link(zev_bus *bus, const struct listed *entry, const char *path, zev_error *err) {
    struct publisher *publisher = bus->publisher;
    char endpoint[PATH + 80];
    void *socket = open_lane(bus, entry->block, err);
    if (socket == NULL)
        return -1;
    struct link *link = (struct link *)calloc(1, sizeof *link);
    if (link == NULL)
        return no_memory(err);
    snprintf(link->id, sizeof link->id, "%s", entry->id);
    snprintf(link->path, sizeof link->path, "%s", path);
    link->block = entry->block;
    link->listed = true;
    link->generation = publisher->generation;
    expect(link, entry->epoch);
    snprintf(endpoint, sizeof endpoint, "ipc://%s", path);
    if (zmq_connect(socket, endpoint) != 0) {
        free(link);
        return zmq_failure(err, "connect to", path);
    }
    publisher->links_of[link->block]++;
    link->next = publisher->links;
    publisher->links = link;
    return 0;
}

/* Disconnect the ingresses that are no longer listed, except those that have yet to move to a directory that
 * others have made (R39). */
static void drop_vanished(struct publisher *publisher) {
    char endpoint[PATH + 80];
    for (struct link **at = &publisher->links; *at != NULL;) {
        struct link *link = *at;
        if (link->listed || (link->generation != publisher->generation && link->shown > 0)) {
            at = &link->next;
            continue;
        }
        snprintf(endpoint, sizeof endpoint, "ipc://%s", link->path);
        zmq_disconnect(publisher->lanes[link->block], endpoint);
        publisher->links_of[link->block]--;
        *at = link->next;
        free(link);
    }
}

/* List the roster until the token is the same before and after (R13). */
static int list_roster(const zev_bus *bus, struct listing *listing, zev_error *err) {
    for (;;) {
        uint64_t before = *bus->publisher->token;
        if (list_directory(bus->path, listing) != 0)
            return system_error(err, "list", bus->path, errno);
        if (*bus->publisher->token == before)
            return 0;
        free(listing->files);
    }
}

/* Return whether another entry of the same ingress has a higher epoch (R7). */
static bool is_outdated(const struct listing *listing, const struct listed *entry) {
    for (size_t i = 0; i < listing->count; i++)
        if (listing->files[i].type == 'e' && listing->files[i].epoch > entry->epoch &&
            strcmp(listing->files[i].id, entry->id) == 0)
            return true;
    return false;
}

/* Link what is listed (R20, steps 1 and 2). */
static int list_links(zev_bus *bus, zev_error *err) {
    struct publisher *publisher = bus->publisher;
    struct listing listing;
    char path[PATH + 64];
    int result = 0;
    if (list_roster(bus, &listing, err) != 0)
        return -1;
    for (struct link *link = publisher->links; link != NULL; link = link->next)
        link->listed = false;
    forget_dead(publisher, &listing);
    for (size_t i = 0; i < listing.count && result == 0; i++) {
        const struct listed *entry = &listing.files[i];
        if (entry->type != 'e' || is_outdated(&listing, entry))
            continue;
        snprintf(path, sizeof path, "%s/%s.sock", bus->path, entry->id);
        if (is_buried(publisher, entry->id, path))
            continue;
        struct link *link = find_link(publisher, entry->id);
        if (link != NULL) {
            link->listed = true;
            link->generation = publisher->generation;
            if (entry->epoch > link->epoch)
                expect(link, entry->epoch);
        } else if (answers(path)) {
            result = add_link(bus, entry, path, err);
        } else {
            bury(bus, entry->id, &listing);
        }
    }
    free(listing.files);
    drop_vanished(publisher);
    return result;
}

/* Give a joiner up for its epoch (R21). */
static void give_up(zev_bus *bus, struct link *link, double now) {
    struct publisher *publisher = bus->publisher;
    link->awaited = false;
    link->missed = link->missed > link->epoch ? link->missed : link->epoch;
    if (now >= publisher->used_up_at + 60)
        publisher->used_up_at = now;
    pthread_mutex_lock(&bus->lock);
    bus->join_timeouts++;
    pthread_mutex_unlock(&bus->lock);
}

/* Return how long a joiner may take; for a minute after one has used that up, only a moment (R41). */
static double join_timeout(const zev_bus *bus, bool block, double now) {
    const zev_options *options = &bus->options;
    if (now >= bus->publisher->used_up_at + 60)
        return block ? options->send_timeout : options->join_timeout;
    return block ? least(options->join_timeout, options->send_timeout) : least(0.05, options->join_timeout);
}

/* Check a few of the links that are awaited (R20, step 4); return how many are awaited after that. */
static size_t check_awaited(zev_bus *bus, double now, bool overslept) {
    struct publisher *publisher = bus->publisher;
    size_t awaited = 0;
    int checked = 0;
    for (struct link *link = publisher->links; link != NULL; link = link->next) {
        if (link->awaited && link->wait.due <= now && checked < 4) {
            if (checked++ == 0 && check_workload(&publisher->own, overslept))
                publisher->cpu_short_at = now;
            double timeout = join_timeout(bus, link->block, now);
            if (!answers(link->path)) {
                link->wait.due = now + 0.05;
                publisher->is_listed = false;
                bury(bus, link->id, NULL);
            } else if (wait_is_over(&link->wait, link->path, now, timeout, &publisher->own)) {
                if (link->block && (link->wait.stopped || greets(link->path))) /* full, as it looks (R22) */
                    begin_wait(&link->wait, now);
                else
                    give_up(bus, link, now);
            } else if (link->wait.cpu_short) {
                publisher->cpu_short_at = now;
            }
        }
        awaited += link->awaited;
    }
    return awaited;
}

/* Wait until a socket has something to say, at most so long. */
static void wait_for_peers(struct publisher *publisher, double seconds) {
    zmq_pollitem_t items[2];
    int count = 0;
    for (int i = 0; i < 2; i++)
        if (publisher->lanes[i] != NULL) {
            memset(&items[count], 0, sizeof items[count]);
            items[count].socket = publisher->lanes[i];
            items[count++].events = ZMQ_POLLIN;
        }
    zmq_poll(items, count, (long)(seconds * 1000) + 1);
}

/* Look at the directory that is at the path now, and at its token (R37). */
static void follow_directory(zev_bus *bus) {
    struct publisher *publisher = bus->publisher;
    pthread_mutex_lock(&bus->lock);
    if (!is_current(bus->directory, bus->path))
        restore_presence(bus, false, NULL);
    if (publisher->token != bus->directory->token)
        publisher->is_listed = publisher->is_known = false;
    publisher->token = bus->directory->token;
    publisher->generation = bus->generation;
    pthread_mutex_unlock(&bus->lock);
}

/* Bring the links up to date (R20). Return 0; 1 if someone has not finished joining by `until`; -1 on failure. */
static int settle(zev_bus *bus, double until, zev_error *err) {
    struct publisher *publisher = bus->publisher;
    double begun = now_seconds(), now = begun;
    bool overslept = false;
    follow_directory(bus);
    for (;;) {
        uint64_t asof = machine_clock(bus), token = *publisher->token;
        if (!publisher->is_listed || token != publisher->listed) {
            if (list_links(bus, err) != 0)
                return -1;
            publisher->listed = token;
            publisher->is_listed = true;
        }
        read_subscriptions(publisher);
        size_t awaited = check_awaited(bus, now, overslept);
        if (awaited == 0 && publisher->is_listed && *publisher->token == token) {
            publisher->settled = asof;
            publisher->settlings++;
            publisher->known = token;
            publisher->is_known = true;
            update_left_out(publisher);
            return 0;
        }
        if (awaited == 0)
            continue;
        if (now >= until)
            return 1;
        double pause = least(most(0.005, (now - begun) / 8), 0.05);
        wait_for_peers(publisher, pause);
        overslept = now_seconds() > now + 2 * pause;
        now = now_seconds();
    }
}

/* --- topics --- */

static struct topic *find_topic(const struct publisher *publisher, const char *system, const char *kind,
                                uint64_t *hash) {
    size_t system_size = strlen(system) + 1, kind_size = strlen(kind) + 1;
    *hash = hash_bytes(hash_bytes(0, (const unsigned char *)system, system_size), (const unsigned char *)kind,
                       kind_size);
    struct topic *topic = publisher->table[*hash % publisher->slots];
    while (topic != NULL && (topic->hash != *hash || topic->head_size != system_size + kind_size ||
                             memcmp(topic->head, system, system_size) != 0 ||
                             memcmp(topic->head + system_size, kind, kind_size) != 0))
        topic = topic->next;
    return topic;
}

static void grow_topics(struct publisher *publisher) {
    size_t slots = publisher->slots * 4;
    struct topic **table = (struct topic **)calloc(slots, sizeof *table);
    if (table == NULL)
        return;
    for (size_t i = 0; i < publisher->slots; i++)
        for (struct topic *topic = publisher->table[i], *next; topic != NULL; topic = next) {
            next = topic->next;
            topic->next = table[topic->hash % slots];
            table[topic->hash % slots] = topic;
        }
    free(publisher->table);
    publisher->table = table;
    publisher->slots = slots;
}

static struct topic *add_topic(struct publisher *publisher, const char *system, const char *kind, uint64_t hash,
                               uint64_t born) {
    struct topic *topic = (struct topic *)calloc(1, sizeof *topic);
    size_t system_size = strlen(system) + 1, kind_size = strlen(kind) + 1;
    if (topic == NULL || (topic->head = (char *)malloc(system_size + kind_size)) == NULL) {
        free(topic);
        return NULL;
    }
    if (publisher->topics >= publisher->slots * 2)
        grow_topics(publisher);
    memcpy(topic->head, system, system_size);
    memcpy(topic->head + system_size, kind, kind_size);
    topic->head_size = system_size + kind_size;
    topic->kind = system_size;
    topic->origin_size = (size_t)snprintf(topic->origin, sizeof topic->origin, "%s.", publisher->origin);
    topic->born = born;
    topic->first = 1;
    topic->hash = hash;
    topic->next = publisher->table[hash % publisher->slots];
    publisher->table[hash % publisher->slots] = topic;
    publisher->topics++;
    return topic;
}

/* Stamp a topic with the latest settling; what was sent with the one before is told by a twin (W48). */
static void renew_topic(zev_bus *bus, struct topic *topic) {
    struct publisher *publisher = bus->publisher;
    if (topic->seq > 0 && is_unmarked(topic)) {
        topic->marked = topic->seq;
        send_mark(bus, topic, topic->settled, topic->first, true, true);
        if (in_doubt(publisher))
            keep_mark(publisher, topic, topic->settled, topic->first, false);
    }
    topic->settled = publisher->settled;
    topic->first = topic->seq + 1;
    if (topic->born == UNTOLD || topic->settled == UNTOLD)
        topic->since_size = (size_t)snprintf(topic->since, sizeof topic->since, "....");
    else
        topic->since_size = (size_t)snprintf(topic->since, sizeof topic->since, ".%llu.%llu.%llu.",
                                             (unsigned long long)topic->born, (unsigned long long)topic->settled,
                                             (unsigned long long)topic->first);
}

static void write_member(zev_bus *bus);

static void new_origin(zev_bus *bus) {
    struct publisher *publisher = bus->publisher;
    new_id(publisher->origin);
    pthread_mutex_lock(&bus->lock);
    if (bus->origin_count == 16)
        memmove(bus->origins, bus->origins + 1, 15 * sizeof bus->origins[0]);
    else
        bus->origin_count++;
    memcpy(bus->origins[bus->origin_count - 1], publisher->origin, ID);
    write_member(bus);
    pthread_mutex_unlock(&bus->lock);
}

/* Begin again under a new origin if there are as many topics as a channel can count (W35). */
static void make_room(zev_bus *bus) {
    struct publisher *publisher = bus->publisher;
    if (publisher->topics >= MAX_TOPICS) {
        owe_unmarked(publisher);
        for (size_t i = 0; i < publisher->slots; i++) {
            for (struct topic *topic = publisher->table[i], *next; topic != NULL; topic = next) {
                next = topic->next;
                topic->retired = true;
                if (topic->marks == NULL)
                    free_topic(topic);
            }
            publisher->table[i] = NULL;
        }
        publisher->topics = 0;
        new_origin(bus);
    }
    send_marks(bus, 1);
}

/* --- the send --- */

static bool is_settled(const struct publisher *publisher) {
    return publisher->is_known && *publisher->token == publisher->known;
}

/* Return the topic, up to date; or NULL, with `*obstacle` as settle() returns it. */
static struct topic *topic_to_send(zev_bus *bus, const char *system, const char *kind, double until, int *obstacle,
                                   zev_error *err) {
    struct publisher *publisher = bus->publisher;
    uint64_t hash, born = 0;
    struct topic *topic = find_topic(publisher, system, kind, &hash);
    *obstacle = -1;
    if (topic == NULL) {
        make_room(bus);
        born = machine_clock(bus); /* before the token is compared (W8) */
    }
    if (!is_settled(publisher)) {
        *obstacle = settle(bus, until, err);
        if (publisher->returned) {
            publisher->returned = false;
            owe_doubted(publisher);
            look_again(bus, 0.005);
        }
        if (*obstacle != 0)
            return NULL;
    }
    if (topic == NULL && (topic = add_topic(publisher, system, kind, hash, born)) == NULL) {
        no_memory(err);
        return NULL;
    }
    if (topic->settled != publisher->settled || topic->since_size == 0)
        renew_topic(bus, topic);
    *obstacle = 0;
    return topic;
}

/* Announce a large frame to every ingress (W42). */
static void send_notice(struct publisher *publisher, struct topic *topic, size_t size) {
    zmq_msg_t message;
    unsigned char number[20];
    if (topic->announced < size) {
        uint64_t more = size > NOTICE_BYTES ? size : (size_t)NOTICE_BYTES;
        size_t digits = put_number(number, more);
        if (zmq_msg_init_size(&message, 2 + topic->head_size + digits) != 0)
            return;
        unsigned char *to = (unsigned char *)zmq_msg_data(&message);
        to += put(to, "\xff!", 2);
        to += put(to, topic->head, topic->head_size);
        put(to, number, digits);
        if (publisher->links_of[ZEV_BLOCK] > 0) {
            zmq_msg_t copy;
            zmq_msg_init(&copy);
            if (zmq_msg_copy(&copy, &message) == 0)
                send_strictly(publisher, publisher->lanes[ZEV_BLOCK], &copy);
            zmq_msg_close(&copy);
        }
        send_drop(publisher, &message);
        zmq_msg_close(&message);
        topic->announced += more;
    }
    topic->announced -= size;
}

/* Hand a frame to the sockets: `block` first (R24). Return 0; 1 if a `block` subscriber has no room; -1. */
static int emit(struct publisher *publisher, zmq_msg_t *message, zev_error *err) {
    int sent = 1;
    if (publisher->links_of[ZEV_BLOCK] > 0) {
        zmq_msg_t copy;
        zmq_msg_init(&copy);
        if (zmq_msg_copy(&copy, message) != 0)
            return no_memory(err);
        sent = send_strictly(publisher, publisher->lanes[ZEV_BLOCK], &copy);
        zmq_msg_close(&copy);
        if (sent == 0)
            return 1;
    }
    if (sent < 0 || send_drop(publisher, message) < 0)
        return system_error(err, "send", "the event", zmq_errno());
    return 0;
}

/* Try to send once, under the lock. Return 0; 1 while someone joins, 2 for want of room; -1 on failure. */
static int try_send(zev_bus *bus, const char *system, const char *kind, const struct body *body, double until,
                    zev_error *err) {
    struct publisher *publisher = bus->publisher;
    zmq_msg_t message;
    int obstacle;
    if (publisher->resting) {
        publisher->resting = false;
        look_again(bus, 0.2);
    }
    struct topic *topic = topic_to_send(bus, system, kind, until, &obstacle, err);
    if (topic == NULL)
        return obstacle;
    if (make_frame(&message, topic, body, topic->settled, topic->first, false) != 0)
        return no_memory(err);
    size_t size = zmq_msg_size(&message);
    int result = 0;
    if (size > bus->options.max_event_bytes)
        result = fail(err, ZEV_INVALID, false,
                      "the event has %zu bytes as a frame, and max_event_bytes is %zu: send less, or raise the limit in"
                      " every process of the bus",
                      size, bus->options.max_event_bytes);
    if (result == 0 && size > LARGE_BYTES)
        send_notice(publisher, topic, size);
    if (result == 0)
        result = emit(publisher, &message, err);
    if (result == 0)
        topic->seq += body->events;
    else if (result == 1 && size > LARGE_BYTES)
        topic->announced += size;
    zmq_msg_close(&message);
    return result == 1 ? 2 : result;
}

/* Name a `block` subscriber that may be in the way. */
static void name_blocker(const struct publisher *publisher, char *to, size_t room) {
    const struct link *found = NULL;
    size_t blockers = 0;
    for (const struct link *link = publisher->links; link != NULL; link = link->next)
        if (link->block) {
            blockers++;
            if (found == NULL || link->awaited)
                found = link;
        }
    if (found == NULL)
        snprintf(to, room, "a subscriber");
    else
        snprintf(to, room, "%s'block' subscriber %s (process %ld)", blockers > 1 ? "one of several, perhaps " : "",
                 found->id, (long)listening_process(found->path));
}

static int send_timed_out(zev_bus *bus, int obstacle, double seconds, const char *system, const char *kind,
                          zev_error *err) {
    char who[256];
    name_blocker(bus->publisher, who, sizeof who);
    pthread_mutex_lock(&bus->lock);
    bus->send_timeouts++;
    pthread_mutex_unlock(&bus->lock);
    return fail(err, ZEV_TIMEOUT, true, "%s %s within %g s: the event of %.100s %.100s went to nobody, so try again", who,
                obstacle == 1 ? "did not finish joining" : "made no room", seconds, system, kind);
}

/* Wait a moment for room; other threads may send meanwhile. */
static void await_room(zev_bus *bus) {
    struct pollfd fds[2];
    nfds_t count = 0;
    for (int i = 0; i < 2; i++) {
        size_t size = sizeof fds[0].fd;
        if (bus->publisher->lanes[i] != NULL &&
            zmq_getsockopt(bus->publisher->lanes[i], ZMQ_FD, &fds[count].fd, &size) == 0)
            fds[count++].events = POLLIN;
    }
    pthread_mutex_unlock(&bus->send_lock);
    poll(fds, count, 20);
    pthread_mutex_lock(&bus->send_lock);
}

/* Send until it is done or the send timeout is over (R24, R43). */
static int send_body(zev_bus *bus, const char *system, const char *kind, const struct body *body, zev_error *err) {
    struct publisher *publisher = bus->publisher;
    double seconds = bus->options.send_timeout, begun = 0, until = 0;
    int result;
    pthread_mutex_lock(&bus->send_lock);
    for (;;) {
        if (begun <= 0 && !is_settled(publisher)) {
            begun = now_seconds();
            until = begun + seconds;
        }
        /* While joiners answer one after the other, settle on: it looks at the time itself. */
        result = try_send(bus, system, kind, body, until, err);
        if (result <= 0)
            break;
        if (begun <= 0) {
            begun = now_seconds();
            until = begun + seconds;
        }
        double cpu_short = least(publisher->cpu_short_at, begun + 30 * seconds);
        until = most(until, most(publisher->answered_at, cpu_short) + seconds);
        if (now_seconds() >= until) {
            result = send_timed_out(bus, result, seconds, system, kind, err);
            break;
        }
        if (result == 2)
            await_room(bus);
    }
    pthread_mutex_unlock(&bus->send_lock);
    return result;
}

static int send_checked(zev_bus *bus, const char *system, const char *kind, const struct body *body, zev_error *err) {
    if (check_usable(bus, false, err) != 0)
        return -1;
    if (body->size > bus->options.max_event_bytes || body->path_size > bus->options.max_event_bytes)
        return fail(err, ZEV_INVALID, false, "the event is larger than max_event_bytes, which is %zu",
                    bus->options.max_event_bytes);
    return send_body(bus, system, kind, body, err);
}

int zev_send(zev_bus *bus, const char *system, const char *kind, const char *path, const char *json, zev_error *err) {
    struct body body;
    if (check_topic(system, kind, err) != 0 || read_body(&body, path, json, UNTOLD, NULL, 0, err) != 0)
        return -1;
    return send_checked(bus, system, kind, &body, err);
}

int zev_send_bytes(zev_bus *bus, const char *system, const char *kind, const char *path, const void *bytes, size_t size,
                   zev_error *err) {
    struct body body;
    if (check_topic(system, kind, err) != 0 || read_body(&body, path, bytes, size, NULL, 0, err) != 0)
        return -1;
    return send_checked(bus, system, kind, &body, err);
}

int zev_send_many(zev_bus *bus, const char *system, const char *kind, const zev_item *items, size_t count,
                  zev_error *err) {
    static const zev_item none = {"", NULL};
    struct body body;
    if (check_topic(system, kind, err) != 0 ||
        read_body(&body, NULL, NULL, 0, items != NULL ? items : &none, items != NULL ? count : 0, err) != 0)
        return -1;
    return body.events > 0 ? send_checked(bus, system, kind, &body, err) : check_usable(bus, false, err);
}

/* --- 9  the bus ---------------------------------------------------------------------------------------------- */

/* --- when the publisher rests (R57 to R59) --- */

/* Find out which links have taken all they were sent, so that libzmq uses them again (R57). */
static void check_full_links(zev_bus *bus) {
    struct publisher *publisher = bus->publisher;
    char id[ID];
    long long sleeps = io_thread_sleeps(bus);
    DIR *descriptors = sleeps >= 0 ? opendir("/proc/self/fd") : NULL;
    if (descriptors == NULL)
        return;
    for (struct link *link = publisher->links; link != NULL; link = link->next)
        link->listed = true; /* until a connection says otherwise */
    for (int fd; (fd = next_descriptor(descriptors)) >= 0;)
        if (peer_id(fd, id) && unread_bytes(fd) > 0)
            for (struct link *link = publisher->links; link != NULL; link = link->next)
                if (strcmp(link->id, id) == 0)
                    link->listed = false;
    closedir(descriptors);
    if (io_thread_sleeps(bus) != sleeps)
        return;
    bool emptied = false;
    publisher->any_full = false;
    for (struct link *link = publisher->links; link != NULL; link = link->next) {
        emptied |= link->full && link->listed;
        link->full = link->full && !link->listed;
        publisher->any_full |= link->full;
    }
    if (emptied) {
        process_commands(publisher);
        owe_doubted(publisher);
    }
}

/* Look for those that are back: have answered after all (R42), or have room again. */
static void check_doubt(zev_bus *bus, bool now_or_never) {
    struct publisher *publisher = bus->publisher;
    double now = now_seconds();
    if (publisher->left_out && (now_or_never || now >= publisher->check_returned_at)) {
        publisher->check_returned_at = now + 0.9;
        read_subscriptions(publisher);
        update_left_out(publisher);
        if (publisher->returned) {
            publisher->returned = false;
            owe_doubted(publisher);
        }
    }
    if (publisher->any_full)
        check_full_links(bus);
}

/* Send the marks if nothing was sent since the last look. */
static void look_whether_at_rest(zev_bus *bus) {
    struct publisher *publisher = bus->publisher;
    double again = 0;
    pthread_mutex_lock(&bus->send_lock);
    bool idle = publisher->resting;
    publisher->resting = true;
    check_doubt(bus, false);
    if (idle)
        owe_unmarked(publisher);
    else
        publisher->pause = 0.2;
    if (!send_marks(bus, 1000)) {
        again = 0.005;
    } else if (!idle) {
        again = 0.2;
    } else if (in_doubt(publisher)) {
        again = publisher->pause;
        publisher->pause = least(2 * publisher->pause, 1);
    } else {
        while (publisher->doubted.head != NULL)
            forget_mark(publisher, publisher->doubted.head);
    }
    pthread_mutex_unlock(&bus->send_lock);
    if (again > 0)
        look_again(bus, again);
}

/* Send the last marks, as far as there is room by `deadline` (R59). */
static void send_last_marks(zev_bus *bus, double deadline) {
    struct publisher *publisher = bus->publisher;
    const struct timespec pause = {0, 5000000};
    for (;;) {
        pthread_mutex_lock(&bus->send_lock);
        check_doubt(bus, true);
        owe_unmarked(publisher);
        bool done = send_marks(bus, MAX_MARKS) && !publisher->any_full;
        pthread_mutex_unlock(&bus->send_lock);
        if (done || now_seconds() >= deadline)
            return;
        nanosleep(&pause, NULL);
    }
}

/* --- the member file (R29 to R31, R53) --- */

enum { MEMBER_HEAD = 128, MEMBER_TEXT = 1280 };

static void write_member(zev_bus *bus) {
    char text[MEMBER_TEXT + 1];
    int size = snprintf(text, sizeof text, "{%s,\"origins\":[", bus->process);
    for (int i = 0; i < bus->origin_count; i++)
        size += snprintf(text + size, sizeof text - (size_t)size, "%s\"%s\"", i > 0 ? "," : "", bus->origins[i]);
    size += snprintf(text + size, sizeof text - (size_t)size, "]}");
    memset(text + size, ' ', MEMBER_TEXT - (size_t)size); /* it never gets shorter */
    write_whole(bus->member_fd, text, MEMBER_TEXT, MEMBER_HEAD);
}

/* Write the counters that have changed; the lock is held. */
static void write_counters(zev_bus *bus, bool all) {
    uint64_t counters[4] = {bus->lost, bus->malformed, bus->join_timeouts, bus->send_timeouts};
    for (zev_sub *sub = bus->subs; sub != NULL; sub = sub->next) {
        pthread_mutex_lock(&sub->lock);
        counters[0] += sub->lost;
        counters[1] += sub->malformed;
        pthread_mutex_unlock(&sub->lock);
    }
    for (int i = 0; i < 4; i++) {
        unsigned char bytes[8];
        if (!all && counters[i] == bus->written[i])
            continue;
        for (int byte = 0; byte < 8; byte++)
            bytes[byte] = (unsigned char)(counters[i] >> 8 * byte);
        if (write_whole(bus->member_fd, bytes, 8, 8 * i) == 0)
            bus->written[i] = counters[i];
    }
}

static void member_path(const zev_bus *bus, char path[PATH + 64]) {
    snprintf(path, PATH + 64, "%s/%s.member", bus->path, bus->member);
}

static int create_member(zev_bus *bus, zev_error *err) {
    char scratch[PATH + 64], path[PATH + 64];
    const char zeros[MEMBER_HEAD] = {0};
    int before = bus->member_fd;
    snprintf(scratch, sizeof scratch, "%s/%s.new", bus->path, bus->member);
    member_path(bus, path);
    bus->member_fd = create_file(scratch, bus->directory->rights);
    bool good = bus->member_fd >= 0 && flock(bus->member_fd, LOCK_EX) == 0 &&
                write_whole(bus->member_fd, zeros, sizeof zeros, 0) == 0;
    if (good) {
        write_member(bus);
        write_counters(bus, true);
        good = rename(scratch, path) == 0;
    }
    if (before >= 0)
        close(before);
    if (good)
        return 0;
    int code = errno;
    unlink(scratch);
    return system_error(err, "write", path, code);
}

/* --- when others remove the directory (R36 to R38) --- */

static bool member_is_there(const zev_bus *bus) {
    char path[PATH + 64];
    struct stat there, open;
    member_path(bus, path);
    return lstat(path, &there) == 0 && fstat(bus->member_fd, &open) == 0 && same_file(&there, &open);
}

static bool socket_is_there(const zev_bus *bus, const zev_sub *sub) {
    char path[PATH + 64];
    struct stat info;
    snprintf(path, sizeof path, "%s/%s.sock", bus->path, sub->id);
    return lstat(path, &info) == 0 && same_file(&info, &sub->named);
}

static bool entry_is_there(const zev_bus *bus, const zev_sub *sub) {
    char path[PATH + 64];
    struct stat info;
    entry_path(bus, sub, path);
    return lstat(path, &info) == 0 && S_ISREG(info.st_mode);
}

/* Have the thread of a subscription bind its socket once more, and give that its name. */
static int bind_again(zev_bus *bus, zev_sub *sub, zev_error *err) {
    struct timespec until = at_time(now_seconds() + 2);
    int code = 0;
    pthread_mutex_lock(&sub->lock);
    sub->rebind = true;
    sub->rebound = 0;
    wake_thread(sub);
    while (sub->rebound == 0 && !sub->ended && code != ETIMEDOUT)
        code = pthread_cond_timedwait(&sub->changed, &sub->lock, &until);
    bool bound = sub->rebound > 0;
    pthread_mutex_unlock(&sub->lock);
    if (!bound)
        return fail(err, ZEV_UNAVAILABLE, true, "cannot listen in %s again: others have removed a socket", bus->path);
    return name_socket(bus, sub, err);
}

/* Move to the directory and the token that are at the path now; the lock is held. */
static int move_directory(zev_bus *bus, zev_error *err) {
    struct directory *opened = open_directory(bus->path, bus->is_default, &bus->directory->rights, err);
    if (opened == NULL)
        return -1;
    opened->previous = bus->directory;
    bus->directory = opened;
    bus->generation++;
    return 0;
}

/* Create the files of this process again that others have removed (R38); the lock is held. With `create`, also the
 * directory. */
static int restore_presence(zev_bus *bus, bool create, zev_error *err) {
    struct stat info;
    bool moved = !is_current(bus->directory, bus->path), missing = moved || !member_is_there(bus);
    if (moved && !create && lstat(bus->path, &info) != 0)
        return 0; /* no one has a use for a directory that was removed for good */
    for (zev_sub *sub = bus->subs; sub != NULL && !missing; sub = sub->next)
        missing = !socket_is_there(bus, sub) || !entry_is_there(bus, sub);
    if (!missing)
        return 0;
    if (moved && move_directory(bus, err) != 0)
        return -1;
    if (!member_is_there(bus) && create_member(bus, err) != 0)
        return -1;
    for (zev_sub *sub = bus->subs; sub != NULL; sub = sub->next) {
        if (!socket_is_there(bus, sub) && bind_again(bus, sub, err) != 0)
            return -1;
        if (!entry_is_there(bus, sub) && write_entry(bus, sub, err) != 0)
            return -1;
    }
    touch(bus);
    for (struct directory *old = bus->directory->previous; old != NULL && old->fd >= 0; old = old->previous) {
        write_token(old->token_fd); /* so that those who still look at it look again */
        close(old->token_fd);
        close(old->fd);
        old->token_fd = old->fd = -1;
    }
    return 0;
}

/* --- housekeeping --- */

static void look_at_everything(zev_bus *bus) {
    pthread_mutex_lock(&bus->lock);
    if (!bus->closed) {
        write_counters(bus, false);
        restore_presence(bus, false, NULL);
    }
    pthread_mutex_unlock(&bus->lock);
    if (pthread_mutex_trylock(&bus->send_lock) == 0) {
        process_commands(bus->publisher); /* libzmq frees what waited for peers that are gone */
        pthread_mutex_unlock(&bus->send_lock);
    }
}

static void *keep_house(void *argument) {
    zev_bus *bus = (zev_bus *)argument;
    double every_second = now_seconds() + 1;
    pthread_mutex_lock(&bus->tick_lock);
    while (!bus->ending) {
        double next = bus->look_at > 0 ? least(bus->look_at, every_second) : every_second;
        struct timespec until = at_time(next);
        pthread_cond_timedwait(&bus->tick, &bus->tick_lock, &until);
        double now = now_seconds();
        bool look = bus->look_at > 0 && now >= bus->look_at;
        if (bus->ending || now < next)
            continue;
        if (look)
            bus->look_at = 0;
        pthread_mutex_unlock(&bus->tick_lock);
        if (look)
            look_whether_at_rest(bus);
        if (now >= every_second) {
            look_at_everything(bus);
            every_second = now_seconds() + 1;
        }
        pthread_mutex_lock(&bus->tick_lock);
    }
    pthread_mutex_unlock(&bus->tick_lock);
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

/* Return whether a socket is bound to or connected with a socket of a bus: `.../v1/BUS/ID.new` or `.sock`. */
static bool is_bus_socket(int fd) {
    struct sockaddr_un name;
    char id[ID], *slash;
    for (int i = 0; i < 2; i++) {
        socklen_t size = sizeof name - 1;
        memset(&name, 0, sizeof name);
        if ((i == 0 ? getsockname(fd, (struct sockaddr *)&name, &size)
                    : getpeername(fd, (struct sockaddr *)&name, &size)) != 0 ||
            name.sun_family != AF_UNIX || !id_of_path(name.sun_path, id))
            continue;
        slash = strrchr(name.sun_path, '/');
        if (slash == NULL)
            continue;
        *slash = '\0';
        for (const zev_bus *bus = open_buses; bus != NULL; bus = bus->next_bus) {
            const char *ours = strrchr(bus->path, '/'), *theirs = strrchr(name.sun_path, '/');
            if (theirs != NULL && strcmp(ours, theirs) == 0)
                return true;
        }
    }
    return false;
}

/* Close what would keep the parent's files locked and its sockets alive (R31, R35). Only calls that are safe between
 * fork and exec: no memory is allocated. */
static void after_fork_in_child(void) {
    char entries[4096];
    for (zev_bus *bus = open_buses; bus != NULL; bus = bus->next_bus) {
        close(bus->member_fd);
        for (struct directory *directory = bus->directory; directory != NULL; directory = directory->previous)
            if (directory->fd >= 0) {
                close(directory->fd);
                close(directory->token_fd);
            }
    }
#ifdef SYS_getdents64
    int listing = open_buses != NULL ? open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    for (long size; listing >= 0 && (size = syscall(SYS_getdents64, listing, entries, sizeof entries)) > 0;)
        for (long at = 0; at < size;) {
            unsigned short length; /* struct linux_dirent64: 16 bytes, length, type, name */
            memcpy(&length, entries + at + 16, sizeof length);
            int fd = entries[at + 19] != '.' ? atoi(entries + at + 19) : -1;
            if (fd >= 0 && fd != listing && is_bus_socket(fd))
                close(fd);
            at += length;
        }
    if (listing >= 0)
        close(listing);
#endif
    open_buses = NULL;
    pthread_mutex_unlock(&buses_lock);
}

static void prepare_for_fork(void) {
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

/* --- opening and closing --- */

zev_options zev_defaults(void) {
    zev_options options;
    options.dir = options.name = NULL;
    options.capacity = 65536;
    options.capacity_bytes = 64u << 20;
    options.max_event_bytes = 16u << 20;
    options.join_timeout = 1;
    options.send_timeout = 5;
    options.linger = 1;
    return options;
}

static int check_options(const zev_options *options, zev_error *err) {
    if (options->capacity == 0 || options->capacity_bytes == 0)
        return fail(err, ZEV_INVALID, false, "capacity and capacity_bytes must be positive: begin with zev_defaults()");
    if (options->max_event_bytes < LEAST_EVENT_BYTES)
        return fail(err, ZEV_INVALID, false, "max_event_bytes must be at least %d", LEAST_EVENT_BYTES);
    if (!(options->join_timeout >= 0 && options->send_timeout >= 0 && options->linger >= 0))
        return fail(err, ZEV_INVALID, false, "join_timeout, send_timeout and linger are seconds, at least 0");
    return 0;
}

static void free_publisher(struct publisher *publisher) {
    if (publisher == NULL)
        return;
    while (publisher->owed.head != NULL)
        forget_mark(publisher, publisher->owed.head);
    while (publisher->doubted.head != NULL)
        forget_mark(publisher, publisher->doubted.head);
    for (size_t i = 0; publisher->table != NULL && i < publisher->slots; i++)
        for (struct topic *topic = publisher->table[i], *next; topic != NULL; topic = next) {
            next = topic->next;
            free_topic(topic);
        }
    for (struct link *link = publisher->links, *next; link != NULL; link = next) {
        next = link->next;
        free(link);
    }
    for (struct dead *dead = publisher->dead, *next; dead != NULL; dead = next) {
        next = dead->next;
        free(dead);
    }
    free(publisher->table);
    free(publisher);
}

static struct publisher *new_publisher(const struct directory *directory) {
    struct publisher *publisher = (struct publisher *)calloc(1, sizeof *publisher);
    if (publisher == NULL)
        return NULL;
    publisher->slots = 64;
    publisher->table = (struct topic **)calloc(publisher->slots, sizeof *publisher->table);
    if (publisher->table == NULL) {
        free(publisher);
        return NULL;
    }
    publisher->token = directory->token;
    publisher->resting = true;
    publisher->used_up_at = -60;
    publisher->pause = 0.2;
    return publisher;
}

/* Free what a bus holds, without anything that others could notice. */
static void free_bus(zev_bus *bus) {
    if (bus->context != NULL)
        while (zmq_ctx_term(bus->context) != 0 && zmq_errno() == EINTR) {
        }
    if (bus->member_fd >= 0) {
        char path[PATH + 64];
        member_path(bus, path);
        remove_file(path);
        close(bus->member_fd);
    }
    close_directory(bus->directory);
    free_publisher(bus->publisher);
    pthread_mutex_destroy(&bus->lock);
    pthread_mutex_destroy(&bus->send_lock);
    pthread_mutex_destroy(&bus->tick_lock);
    pthread_cond_destroy(&bus->tick);
    free(bus);
}

static int fill_bus(zev_bus *bus, zev_error *err) {
    const zev_options *options = &bus->options;
    const char *name = options->name != NULL ? options->name : set_variable("ZBUS_BUS");
    const struct timespec notice = {1, 250000000};
    if (check_options(options, err) != 0 || locate(options->dir, name != NULL ? name : "default", bus->path, err) != 0)
        return -1;
    bus->is_default = options->dir == NULL && set_variable("ZBUS_DIR") == NULL;
    bus->options.dir = bus->options.name = NULL; /* the caller's */
    bus->clock_known = clock_offset(&bus->clock_offset);
    describe_process(bus->process, sizeof bus->process);
    new_id(bus->member);
    bool lost = lost_its_token(bus->path);
    bus->directory = open_directory(bus->path, bus->is_default, NULL, err);
    if (bus->directory == NULL)
        return -1;
    if (lost) /* others would not see us, nor we them, until they have noticed (R10) */
        nanosleep(&notice, NULL);
    if (create_member(bus, err) != 0)
        return -1;
    bus->publisher = new_publisher(bus->directory);
    if (bus->publisher == NULL)
        return no_memory(err);
    new_origin(bus);
    bus->context = zmq_ctx_new();
    if (bus->context == NULL)
        return zmq_failure(err, "use ZeroMQ for", bus->path);
    bus->thread_prefix = (int)(hash_bytes(0, (const unsigned char *)bus->member, 16) % 10000);
    zmq_ctx_set(bus->context, ZMQ_THREAD_NAME_PREFIX, bus->thread_prefix);
    zmq_ctx_set(bus->context, ZMQ_MAX_SOCKETS, 1100);
    if (reap(bus->path))
        touch(bus);
    return 0;
}

zev_bus *zev_open(const zev_options *options, zev_error *err) {
    zev_bus *bus = (zev_bus *)calloc(1, sizeof *bus);
    if (bus == NULL) {
        no_memory(err);
        return NULL;
    }
    bus->pid = getpid();
    bus->options = options != NULL ? *options : zev_defaults();
    bus->member_fd = -1;
    pthread_mutex_init(&bus->lock, NULL);
    pthread_mutex_init(&bus->send_lock, NULL);
    pthread_mutex_init(&bus->tick_lock, NULL);
    init_condition(&bus->tick);
    if (fill_bus(bus, err) != 0) {
        free_bus(bus);
        return NULL;
    }
    int code = start_thread(&bus->housekeeper, keep_house, bus);
    if (code != 0) {
        system_error(err, "start a thread for", bus->path, code);
        free_bus(bus);
        return NULL;
    }
    pthread_once(&fork_once, prepare_for_fork);
    pthread_mutex_lock(&buses_lock);
    bus->next_bus = open_buses;
    open_buses = bus;
    pthread_mutex_unlock(&buses_lock);
    return bus;
}

/* Duplicates of connections, which keep them open until the peers have read everything (R25). */
struct pending {
    int *fds;
    size_t count;
};

static void hold_connections(const zev_bus *bus, struct pending *pending) {
    char id[ID];
    size_t links = bus->publisher->links_of[0] + bus->publisher->links_of[1];
    DIR *descriptors = links > 0 ? opendir("/proc/self/fd") : NULL;
    pending->count = 0;
    pending->fds = (int *)calloc(links + 1, sizeof *pending->fds);
    for (int fd; descriptors != NULL && pending->fds != NULL && (fd = next_descriptor(descriptors)) >= 0;) {
        if (!peer_id(fd, id))
            continue;
        const struct link *link = find_link(bus->publisher, id);
        if (link == NULL || link->shown == 0 || pending->count == links)
            continue;
        int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        if (copy >= 0)
            pending->fds[pending->count++] = copy;
    }
    if (descriptors != NULL)
        closedir(descriptors);
}

static void await_readers(struct pending *pending, double deadline) {
    const struct timespec pause = {0, 1000000};
    for (size_t i = 0; i < pending->count; i++) {
        while (unread_bytes(pending->fds[i]) > 0 && now_seconds() < deadline)
            nanosleep(&pause, NULL);
        close(pending->fds[i]);
    }
    free(pending->fds);
}

static void end_housekeeper(zev_bus *bus) {
    pthread_mutex_lock(&bus->tick_lock);
    bus->ending = true;
    pthread_cond_signal(&bus->tick);
    pthread_mutex_unlock(&bus->tick_lock);
    pthread_join(bus->housekeeper, NULL);
    pthread_mutex_lock(&buses_lock);
    for (zev_bus **at = &open_buses; *at != NULL; at = &(*at)->next_bus)
        if (*at == bus) {
            *at = bus->next_bus;
            break;
        }
    pthread_mutex_unlock(&buses_lock);
}

static void close_lanes(zev_bus *bus, double deadline) {
    double left = most(0, deadline - now_seconds());
    for (int i = 0; i < 2; i++)
        if (bus->publisher->lanes[i] != NULL) {
            set_int(bus->publisher->lanes[i], ZMQ_LINGER, left < 2e6 ? (int)(left * 1000) : INT_MAX);
            zmq_close(bus->publisher->lanes[i]);
            bus->publisher->lanes[i] = NULL;
        }
}

void zev_close(zev_bus *bus) {
    struct pending pending;
    if (bus == NULL || bus->pid != getpid())
        return;
    double deadline = now_seconds() + bus->options.linger;
    end_housekeeper(bus);
    pthread_mutex_lock(&bus->lock);
    bus->closed = true;
    for (zev_sub *sub = bus->subs; sub != NULL; sub = sub->next)
        withdraw(bus, sub);
    pthread_mutex_unlock(&bus->lock);
    send_last_marks(bus, deadline);
    hold_connections(bus, &pending);
    close_lanes(bus, deadline);
    pthread_mutex_lock(&bus->lock);
    while (bus->subs != NULL) {
        zev_sub *sub = bus->subs;
        __atomic_store_n(&sub->bus, (zev_bus *)NULL, __ATOMIC_RELEASE);
        close_sub(bus, sub);
    }
    write_counters(bus, false);
    pthread_mutex_unlock(&bus->lock);
    free_bus(bus);
    await_readers(&pending, deadline);
}
