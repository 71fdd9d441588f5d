/* The driver of the C peer for tools/conform: a JSON line is a request, and one is its answer. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "zev.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

#if defined(__SANITIZE_THREAD__)
/* The thread sanitizer does not see how libzmq, which is not built with it, keeps its threads apart. */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void) {
    return "called_from_lib:libzmq.so\nrace:libzmq.so\n";
}
#endif

/* --- JSON of the requests: trusted, small, and read into a tree --- */

struct value {
    struct value *next, *children; /* of an array or an object */
    char *key, *text;              /* a text; or the digits of a number */
    size_t size;
    char type; /* s, n, t, f, 0 (null), [, { */
};

static void *allocate(size_t size) {
    void *memory = calloc(1, size);
    if (memory == NULL)
        abort();
    return memory;
}

static void free_value(struct value *value) {
    while (value != NULL) {
        struct value *next = value->next;
        free_value(value->children);
        free(value->key);
        free(value->text);
        free(value);
        value = next;
    }
}

static const char *skip_space(const char *at) {
    return at + strspn(at, " \t\r\n");
}

static char *put_char(char *to, unsigned code) {
    if (code < 0x80) {
        *to++ = (char)code;
    } else if (code < 0x800) {
        *to++ = (char)(0xc0 | code >> 6);
        *to++ = (char)(0x80 | (code & 0x3f));
    } else if (code < 0x10000) {
        *to++ = (char)(0xe0 | code >> 12);
        *to++ = (char)(0x80 | (code >> 6 & 0x3f));
        *to++ = (char)(0x80 | (code & 0x3f));
    } else {
        *to++ = (char)(0xf0 | code >> 18);
        *to++ = (char)(0x80 | (code >> 12 & 0x3f));
        *to++ = (char)(0x80 | (code >> 6 & 0x3f));
        *to++ = (char)(0x80 | (code & 0x3f));
    }
    return to;
}

static unsigned read_hex4(const char *at) {
    unsigned value = 0;
    sscanf(at, "%4x", &value);
    return value;
}

static const char *read_text(const char *at, char **text, size_t *size) {
    const char *end = at;
    while (*end != '"')
        end += *end == '\\' ? 2 : 1;
    char *to = *text = (char *)allocate((size_t)(end - at) + 1);
    while (*at != '"') {
        static const char escapes[] = "bfnrt", meant[] = "\b\f\n\r\t";
        if (*at != '\\') {
            *to++ = *at++;
        } else if (at[1] == 'u') {
            unsigned code = read_hex4(at + 2);
            at += 6;
            if (code >= 0xd800 && code < 0xdc00 && at[0] == '\\' && at[1] == 'u') {
                code = 0x10000 + ((code - 0xd800) << 10) + (read_hex4(at + 2) - 0xdc00);
                at += 6;
            }
            to = put_char(to, code);
        } else {
            const char *which = strchr(escapes, at[1]);
            *to++ = which != NULL ? meant[which - escapes] : at[1];
            at += 2;
        }
    }
    *size = (size_t)(to - *text);
    return at + 1;
}

static const char *read_value(const char *at, struct value **out);

static const char *read_children(const char *at, struct value *parent) {
    char closing = parent->type == '{' ? '}' : ']';
    struct value **to = &parent->children;
    at = skip_space(at);
    while (*at != closing && *at != '\0') {
        char *key = NULL;
        size_t size;
        if (parent->type == '{')
            at = skip_space(skip_space(read_text(at + 1, &key, &size)) + 1);
        at = skip_space(read_value(at, to));
        (*to)->key = key;
        to = &(*to)->next;
        if (*at == ',')
            at = skip_space(at + 1);
    }
    return at + 1;
}

static const char *read_value(const char *at, struct value **out) {
    struct value *value = *out = (struct value *)allocate(sizeof *value);
    at = skip_space(at);
    if (*at == '"') {
        value->type = 's';
        return read_text(at + 1, &value->text, &value->size);
    }
    if (*at == '[' || *at == '{') {
        value->type = *at;
        return read_children(at + 1, value);
    }
    if (*at == 't' || *at == 'f' || *at == 'n') {
        value->type = *at == 'n' ? '0' : *at;
        return at + (*at == 'f' ? 5 : 4);
    }
    value->type = 'n';
    size_t size = strspn(at, "+-.0123456789eE");
    value->text = (char *)allocate(size + 1);
    memcpy(value->text, at, size);
    return at + (size > 0 ? size : 1);
}

static const struct value *get(const struct value *object, const char *key) {
    for (const struct value *child = object->children; child != NULL; child = child->next)
        if (strcmp(child->key, key) == 0 && child->type != '0')
            return child;
    return NULL;
}

static double get_number(const struct value *object, const char *key, double otherwise) {
    const struct value *found = get(object, key);
    return found != NULL && found->type == 'n' ? strtod(found->text, NULL) : otherwise;
}

static uint64_t get_count(const struct value *object, const char *key, uint64_t otherwise) {
    const struct value *found = get(object, key);
    return found != NULL && found->type == 'n' ? strtoull(found->text, NULL, 10) : otherwise;
}

static char *from_hex(const char *hex, size_t *size) {
    *size = strlen(hex) / 2;
    char *bytes = (char *)allocate(*size + 1);
    for (size_t i = 0; i < *size; i++) {
        char digits[3] = {hex[2 * i], hex[2 * i + 1], '\0'};
        bytes[i] = (char)strtoul(digits, NULL, 16);
    }
    return bytes;
}

/* Return a text, which the caller frees; NULL if there is none. A C string cannot hold a NUL: such a text is refused
 * here, as a program that has one must. */
static int get_text(const struct value *request, const char *key, char **text, zev_error *err) {
    char in_hex[64];
    const struct value *found = get(request, key);
    size_t size = 0;
    *text = NULL;
    snprintf(in_hex, sizeof in_hex, "%s_hex", key);
    const struct value *hex = get(request, in_hex);
    if (hex != NULL) {
        *text = from_hex(hex->text, &size);
    } else if (found != NULL && found->type == 's') {
        size = found->size;
        *text = (char *)allocate(size + 1);
        memcpy(*text, found->text, size);
    }
    if (*text == NULL || strlen(*text) == size)
        return 0;
    free(*text);
    *text = NULL;
    err->kind = ZEV_INVALID;
    err->retryable = false;
    snprintf(err->message, sizeof err->message, "%s contains NUL, which ends a C string", key);
    return -1;
}

/* --- answers --- */

static char *said;
static size_t said_size, said_room;

static void say(const char *format, ...) __attribute__((format(printf, 1, 2), nonnull(1)));

static void reserve(size_t more) {
    if (said_size + more < said_room)
        return;
    said_room = 2 * said_room + more + 1024;
    said = (char *)realloc(said, said_room);
    if (said == NULL)
        abort();
}

static void say(const char *format, ...) {
    va_list args;
    char probe[1];
    va_start(args, format);
    int size = vsnprintf(probe, sizeof probe, format, args);
    va_end(args);
    reserve((size_t)size + 1);
    va_start(args, format);
    vsnprintf(said + said_size, (size_t)size + 1, format, args);
    va_end(args);
    said_size += (size_t)size;
}

static void say_text(const char *text) {
    reserve(6 * strlen(text) + 3);
    said[said_size++] = '"';
    for (const char *c = text; *c != '\0'; c++) {
        if (*c == '"' || *c == '\\')
            said[said_size++] = '\\';
        if ((unsigned char)*c < 0x20)
            say("\\u%04x", (unsigned)*c);
        else
            said[said_size++] = *c;
    }
    said[said_size++] = '"';
    said[said_size] = '\0';
}

static void say_hex(const void *bytes, size_t size) {
    reserve(2 * size + 3);
    said[said_size++] = '"';
    for (size_t i = 0; i < size; i++)
        said_size += (size_t)sprintf(said + said_size, "%02x", ((const unsigned char *)bytes)[i]);
    said[said_size++] = '"';
    said[said_size] = '\0';
}

/* Begin the answer again: it is an error. */
static int say_error(const zev_error *err) {
    said_size = 0;
    say("{\"error\":{\"kind\":\"%s\",\"retryable\":%s,\"message\":", zev_kind_name(err->kind),
        err->retryable ? "true" : "false");
    say_text(err->message);
    say("}}");
    return -1;
}

static void say_event(const zev_event *evt) {
    say("{\"system\":");
    say_text(evt->system);
    say(",\"kind\":");
    say_text(evt->kind);
    say(",\"path\":");
    say_text(evt->path);
    if (evt->type == ZEV_JSON) {
        say(",\"json\":");
        say_text(evt->data);
    } else if (evt->type == ZEV_BYTES) {
        say(",\"hex\":");
        say_hex(evt->data, evt->size);
    }
    if (evt->time != ZEV_UNTOLD)
        say(",\"time\":%llu", (unsigned long long)evt->time);
    say(",\"origin\":\"%s\",\"seq\":%llu}", evt->origin, (unsigned long long)evt->seq);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static long long micros(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (long long)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void pause_for(double seconds) {
    struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    if (seconds > 0)
        nanosleep(&t, NULL);
}

/* --- the bus --- */

struct named {
    struct named *next;
    char *name;
    zev_sub *sub;
};

static zev_bus *bus;
static zev_options options;
static char bus_name[128];
static struct named *subs;
static zev_error err;

static zev_sub *find_sub(const struct value *request) {
    const struct value *name = get(request, "name");
    for (struct named *at = subs; at != NULL && name != NULL; at = at->next)
        if (strcmp(at->name, name->text) == 0)
            return at->sub;
    return NULL;
}

static int no_bus(void) {
    err.kind = ZEV_CANCELED;
    err.retryable = false;
    snprintf(err.message, sizeof err.message, "no bus or no such subscription is open: open one first");
    return say_error(&err);
}

static int do_hello(const struct value *request) {
    int major, minor, patch;
    (void)request;
    zmq_version(&major, &minor, &patch);
    say(",\"language\":\"c\",\"library\":\"libzmq %d.%d.%d\",\"pid\":%ld", major, minor, patch, (long)getpid());
    return 0;
}

static int do_open(const struct value *request) {
    char *name;
    options = zev_defaults();
    if (get_text(request, "bus", &name, &err) != 0)
        return say_error(&err);
    snprintf(bus_name, sizeof bus_name, "%s", name != NULL ? name : "");
    options.name = name != NULL ? bus_name : NULL;
    free(name);
    options.capacity = get_count(request, "capacity", options.capacity);
    options.max_event_bytes = get_count(request, "max_event_bytes", options.max_event_bytes);
    options.linger = get_number(request, "linger", options.linger);
    options.send_timeout = get_number(request, "send_timeout", options.send_timeout);
    bus = zev_open(&options, &err);
    return bus != NULL ? 0 : say_error(&err);
}

static void close_all(void) {
    zev_close(bus);
    bus = NULL;
    while (subs != NULL) {
        struct named *first = subs;
        subs = first->next;
        zev_sub_free(first->sub);
        free(first->name);
        free(first);
    }
}

static int do_close(const struct value *request) {
    if (get(request, "name") == NULL)
        close_all();
    else if (find_sub(request) != NULL)
        zev_sub_close(find_sub(request));
    return 0;
}

static zev_sub *open_sub(const struct value *request) {
    const struct value *overflow = get(request, "overflow");
    zev_sub_options how = {ZEV_DROP, 0, 0};
    char *system, *kind = NULL;
    zev_sub *sub = NULL;
    if (bus == NULL) {
        no_bus();
        return NULL;
    }
    how.overflow = overflow != NULL && strcmp(overflow->text, "block") == 0 ? ZEV_BLOCK : ZEV_DROP;
    how.capacity = get_count(request, "capacity", 0);
    if (get_text(request, "system", &system, &err) == 0 && get_text(request, "kind", &kind, &err) == 0)
        sub = zev_subscribe(bus, system, kind, &how, &err);
    if (sub == NULL)
        say_error(&err);
    free(system);
    free(kind);
    return sub;
}

static int do_subscribe(const struct value *request) {
    zev_sub *sub = open_sub(request);
    if (sub == NULL)
        return -1;
    struct named *named = (struct named *)allocate(sizeof *named);
    named->name = strdup(get(request, "name")->text);
    named->sub = sub;
    named->next = subs;
    subs = named;
    return 0;
}

/* --- receiving --- */

/* What the events of a burst were, without keeping them. */
struct tally {
    long long first, last;
    bool ordered;
    struct seen {
        struct seen *next;
        char *stream;
        uint64_t seq;
    } *seen;
};

static long long number_in(const zev_event *evt, const char *key) {
    const char *found = evt->type == ZEV_JSON ? strstr(evt->data, key) : NULL;
    return found != NULL ? atoll(found + strlen(key)) : 0;
}

static void add_to_tally(struct tally *tally, const zev_event *evt) {
    char stream[1024];
    snprintf(stream, sizeof stream, "%s %s %s", evt->origin, evt->system, evt->kind);
    struct seen *seen = tally->seen;
    while (seen != NULL && strcmp(seen->stream, stream) != 0)
        seen = seen->next;
    if (seen == NULL) {
        seen = (struct seen *)allocate(sizeof *seen);
        seen->stream = strdup(stream);
        seen->next = tally->seen;
        tally->seen = seen;
    }
    tally->ordered = tally->ordered && evt->seq > seen->seq;
    seen->seq = evt->seq;
    tally->last = number_in(evt, "\"n\":");
    if (tally->first == 0)
        tally->first = tally->last;
}

/* Serves `slow` too, which pauses after each event. */
static int do_receive(const struct value *request) {
    zev_sub *sub = find_sub(request);
    bool slow = strcmp(get(request, "verb")->text, "slow") == 0;
    bool tallied = slow || (get(request, "tally") != NULL && get(request, "tally")->type == 't');
    uint64_t count = get_count(request, "count", UINT64_MAX), until = get_count(request, "until", UINT64_MAX);
    double timeout = get_number(request, "timeout", 10), progress = now();
    struct tally tally = {0, 0, true, NULL};
    zev_event evt = ZEV_EVENT_INIT;
    uint64_t got = 0, before = UINT64_MAX;
    int state = -1;
    if (sub == NULL)
        return no_bus();
    if (!tallied)
        say(",\"events\":[");
    zev_stats stats = zev_sub_stats(sub);
    while (got < count && stats.received + stats.lost < until) {
        state = zev_receive(sub, &evt, until < UINT64_MAX && timeout > 0.05 ? 0.05 : timeout, &err);
        if (state == 0)
            break;
        if (state == 1) {
            if (tallied) {
                add_to_tally(&tally, &evt);
            } else {
                say("%s", got > 0 ? "," : "");
                say_event(&evt);
            }
            got++;
            if (slow)
                pause_for(get_number(request, "pause", 0));
        }
        stats = zev_sub_stats(sub);
        uint64_t sum = stats.received + stats.lost + stats.malformed;
        if (sum != before) {
            before = sum;
            progress = now();
        } else if (now() >= progress + timeout) {
            break;
        }
    }
    zev_event_clear(&evt);
    stats = zev_sub_stats(sub);
    if (tallied)
        say(",\"first\":%lld,\"last\":%lld,\"ordered\":%s", tally.first, tally.last, tally.ordered ? "true" : "false");
    else
        say("]");
    while (tally.seen != NULL) {
        struct seen *seen = tally.seen;
        tally.seen = seen->next;
        free(seen->stream);
        free(seen);
    }
    say(",\"received\":%llu,\"lost\":%llu,\"malformed\":%llu,\"open\":%s", (unsigned long long)stats.received,
        (unsigned long long)stats.lost, (unsigned long long)stats.malformed, state != 0 ? "true" : "false");
    return 0;
}

static int do_busy(const struct value *request) {
    pause_for(get_number(request, "seconds", 0));
    return 0;
}

static int do_churn(const struct value *request) {
    uint64_t count = get_count(request, "count", 1);
    zev_event evt = ZEV_EVENT_INIT;
    say(",\"rounds\":[");
    for (uint64_t i = 0; i < count; i++) {
        zev_sub *sub = open_sub(request);
        if (sub == NULL)
            return -1;
        long long joined = micros();
        if (zev_receive(sub, &evt, get_number(request, "timeout", 10), &err) != 1) {
            zev_sub_free(sub);
            return say_error(&err);
        }
        say("%s{\"joined\":%lld,\"n\":%lld,\"prev\":%lld,\"lost\":%llu}", i > 0 ? "," : "", joined,
            number_in(&evt, "\"n\":"), number_in(&evt, "\"prev\":"), (unsigned long long)evt.lost);
        zev_sub_free(sub);
    }
    zev_event_clear(&evt);
    say("]");
    return 0;
}

/* --- sending --- */

struct topic {
    char *system, *kind, *path;
};

static int get_topic(const struct value *request, struct topic *topic) {
    memset(topic, 0, sizeof *topic);
    return get_text(request, "system", &topic->system, &err) != 0 || get_text(request, "kind", &topic->kind, &err) != 0 ||
                   get_text(request, "path", &topic->path, &err) != 0
               ? -1
               : 0;
}

static void free_topic(struct topic *topic) {
    free(topic->system);
    free(topic->kind);
    free(topic->path);
}

static const char *path_of(const struct topic *topic) {
    return topic->path != NULL ? topic->path : "/conform";
}

static int do_send(const struct value *request) {
    const struct value *hex = get(request, "hex");
    struct topic topic;
    char *json = NULL;
    int result = bus == NULL ? no_bus() : get_topic(request, &topic);
    if (bus == NULL)
        return result;
    if (result == 0 && hex != NULL) {
        size_t size;
        char *bytes = from_hex(hex->text, &size);
        result = zev_send_bytes(bus, topic.system, topic.kind, topic.path, bytes, size, &err);
        free(bytes);
    } else if (result == 0 && (result = get_text(request, "json", &json, &err)) == 0) {
        result = zev_send(bus, topic.system, topic.kind, topic.path, json, &err);
    }
    free(json);
    free_topic(&topic);
    return result == 0 ? 0 : say_error(&err);
}

static void put_counted(char *to, size_t n, size_t pad) {
    size_t size = (size_t)sprintf(to, "{\"n\":%zu", n);
    if (pad > 0) {
        size += (size_t)sprintf(to + size, ",\"pad\":\"");
        memset(to + size, 'x', pad);
        size += pad;
        to[size++] = '"';
    }
    strcpy(to + size, "}");
}

static int send_counted(const struct topic *topic, size_t n, size_t batch, size_t count, size_t pad, char *texts,
                        zev_item *items) {
    if (batch == 0) {
        put_counted(texts, n, pad);
        return zev_send(bus, topic->system, topic->kind, path_of(topic), texts, &err);
    }
    size_t filled = 0;
    for (; filled < batch && n + filled <= count; filled++) {
        items[filled].path = path_of(topic);
        items[filled].json = texts + filled * (pad + 64);
        put_counted(texts + filled * (pad + 64), n + filled, pad);
    }
    return zev_send_many(bus, topic->system, topic->kind, items, filled, &err);
}

static int do_burst(const struct value *request) {
    size_t count = get_count(request, "count", 1), batch = get_count(request, "batch", 0);
    size_t pad = get_count(request, "bytes", 0), room = batch > 0 ? batch : 1;
    double interval = get_number(request, "interval", 0), began = now();
    struct topic topic;
    if (bus == NULL)
        return no_bus();
    int result = get_topic(request, &topic);
    char *texts = (char *)allocate(room * (pad + 64));
    zev_item *items = (zev_item *)allocate(room * sizeof *items);
    for (size_t n = 1; result == 0 && n <= count; n += room) {
        result = send_counted(&topic, n, batch, count, pad, texts, items);
        pause_for(interval);
    }
    free(texts);
    free(items);
    free_topic(&topic);
    if (result != 0)
        return say_error(&err);
    say(",\"sent\":%zu,\"seconds\":%.9f", count, now() - began);
    return 0;
}

static int do_stream(const struct value *request) {
    const struct value *until = get(request, "until");
    double interval = get_number(request, "interval", 0.001);
    struct topic topic;
    char json[128];
    long long before = 0;
    size_t sent = 0;
    if (bus == NULL)
        return no_bus();
    int result = get_topic(request, &topic);
    while (result == 0) {
        long long at = micros();
        snprintf(json, sizeof json, "{\"n\":%zu,\"at\":%lld,\"prev\":%lld}", ++sent, at, before);
        result = zev_send(bus, topic.system, topic.kind, path_of(&topic), json, &err);
        before = at;
        if (access(until->text, F_OK) == 0)
            break;
        pause_for(interval);
    }
    free_topic(&topic);
    if (result != 0)
        return say_error(&err);
    say(",\"sent\":%zu", sent);
    return 0;
}

static int do_joins(const struct value *request) {
    size_t count = get_count(request, "count", 1);
    struct topic topic;
    char json[64];
    int result = get_topic(request, &topic);
    say(",\"seconds\":[");
    for (size_t n = 1; result == 0 && n <= count; n++) {
        double began = now();
        zev_bus *another = zev_open(&options, &err);
        snprintf(json, sizeof json, "{\"n\":%zu}", n);
        result = another == NULL ? -1 : zev_send(another, topic.system, topic.kind, path_of(&topic), json, &err);
        say("%s%.9f", n > 1 ? "," : "", now() - began);
        zev_close(another);
    }
    free_topic(&topic);
    say("]");
    return result == 0 ? 0 : say_error(&err);
}

/* --- speed --- */

static int do_speed(const struct value *request) {
    const struct value *role = get(request, "role");
    size_t count = get_count(request, "count", 1);
    zev_event evt = ZEV_EVENT_INIT;
    zev_sub *sub = find_sub(request);
    double began = 0;
    if (role != NULL && strcmp(role->text, "send") == 0)
        return do_burst(request);
    if (sub == NULL)
        return no_bus();
    for (size_t got = 0; got < count; got++) {
        if (zev_receive(sub, &evt, 60, &err) != 1)
            return say_error(&err);
        if (got == 0)
            began = now();
    }
    say(",\"seconds\":%.9f", now() - began);
    zev_event_clear(&evt);
    return 0;
}

static int do_echo(const struct value *request) {
    size_t count = get_count(request, "count", 1);
    zev_event evt = ZEV_EVENT_INIT;
    struct topic topic;
    zev_sub *sub = find_sub(request);
    if (bus == NULL || sub == NULL)
        return no_bus();
    int result = get_topic(request, &topic);
    for (size_t got = 0; result == 0 && got < count; got++) {
        result = zev_receive(sub, &evt, 60, &err) == 1 ? 0 : -1;
        if (result == 0)
            result = zev_send(bus, topic.system, topic.kind, evt.path, evt.type == ZEV_JSON ? evt.data : NULL, &err);
    }
    zev_event_clear(&evt);
    free_topic(&topic);
    return result == 0 ? 0 : say_error(&err);
}

static int do_ping(const struct value *request) {
    size_t count = get_count(request, "count", 1);
    zev_event evt = ZEV_EVENT_INIT;
    struct topic topic;
    char json[64];
    zev_sub *sub = find_sub(request);
    if (bus == NULL || sub == NULL)
        return no_bus();
    int result = get_topic(request, &topic);
    say(",\"micros\":[");
    for (size_t n = 0; result == 0 && n < count; n++) {
        double began = now();
        snprintf(json, sizeof json, "{\"n\":%zu}", n);
        result = zev_send(bus, topic.system, topic.kind, path_of(&topic), json, &err);
        if (result == 0 && zev_receive(sub, &evt, 60, &err) != 1)
            result = -1;
        say("%s%.3f", n > 0 ? "," : "", (now() - began) * 1e6);
    }
    say("]");
    zev_event_clear(&evt);
    free_topic(&topic);
    return result == 0 ? 0 : say_error(&err);
}

/* --- the rules, without a bus --- */

static const struct value *list(const struct value *request, const char *key) {
    const struct value *found = get(request, key);
    return found != NULL ? found->children : NULL;
}

static void say_prefixes(const struct value *row) {
    zev_prefixes prefixes;
    char *system = NULL, *kind = NULL;
    if (get_text(row, "system", &system, &err) != 0 || get_text(row, "kind", &kind, &err) != 0 ||
        zev_prefixes_of(system, kind, &prefixes, &err) != 0) {
        say("null");
    } else {
        say("[");
        for (size_t i = 0; i < prefixes.count; i++) {
            say("%s", i > 0 ? "," : "");
            say_hex(prefixes.prefix[i].bytes, prefixes.prefix[i].size);
        }
        say("]");
        zev_prefixes_clear(&prefixes);
    }
    free(system);
    free(kind);
}

static int match_row(const struct value *row) {
    char *pattern = NULL, *name = NULL;
    int result = get_text(row, "pattern", &pattern, &err) != 0 || get_text(row, "name", &name, &err) != 0
                     ? -1
                     : zev_match(pattern, name != NULL ? name : "", &err);
    free(pattern);
    free(name);
    return result;
}

static int do_patterns(const struct value *request) {
    static const char *const answers[] = {"null", "false", "true"};
    const char *comma = "";
    say(",\"matches\":[");
    for (const struct value *row = list(request, "cases"); row != NULL; row = row->next, comma = ",")
        say("%s%s", comma, answers[match_row(row) + 1]);
    say("],\"prefixes\":[");
    comma = "";
    for (const struct value *row = list(request, "prefixes"); row != NULL; row = row->next, comma = ",") {
        say("%s", comma);
        say_prefixes(row);
    }
    say("],\"refused\":[");
    comma = "";
    for (const struct value *row = list(request, "invalid"); row != NULL; row = row->next, comma = ",")
        say("%s%s", comma, match_row(row) < 0 ? "true" : "false");
    say("]");
    return 0;
}

static void say_events(unsigned char *bytes, const zev_frame *frame) {
    zev_event evt = ZEV_EVENT_INIT;
    size_t at = 0;
    memcpy(evt.origin, frame->origin, sizeof evt.origin);
    evt.time = frame->seq > 0 ? frame->time : ZEV_UNTOLD;
    for (size_t i = 0; i < frame->events; i++) {
        evt.system = (const char *)bytes;
        evt.kind = (const char *)bytes + frame->kind;
        evt.seq = frame->seq > 0 ? frame->seq + i : 0;
        if (frame->batch) {
            zev_next_item(bytes, frame, &at, &evt);
        } else {
            size_t size = frame->size - frame->data;
            evt.path = (const char *)bytes + frame->path;
            evt.type = size == 0 ? ZEV_NONE : bytes[frame->data] == '\0' ? ZEV_BYTES : ZEV_JSON;
            evt.data = (const char *)bytes + frame->data + (evt.type == ZEV_BYTES);
            evt.size = size - (evt.type == ZEV_BYTES);
        }
        say("%s", i > 0 ? "," : "");
        say_event(&evt);
    }
}

static void say_untold(const char *name, uint64_t value) {
    if (value != ZEV_UNTOLD)
        say(",\"%s\":%llu", name, (unsigned long long)value);
}

static int do_decode(const struct value *request) {
    char *system = NULL, *kind = NULL;
    if (get_text(request, "system", &system, &err) != 0 || get_text(request, "kind", &kind, &err) != 0)
        return say_error(&err);
    zev_decoder *decoder =
        zev_decoder_new(system, kind, get_count(request, "announced", ZEV_UNTOLD), get_count(request, "joined", ZEV_UNTOLD),
                        get_count(request, "limit", 65536), &err);
    free(system);
    free(kind);
    if (decoder == NULL)
        return say_error(&err);
    say(",\"frames\":[");
    for (const struct value *row = list(request, "frames"); row != NULL; row = row->next) {
        size_t size;
        zev_frame frame;
        unsigned char *bytes = (unsigned char *)from_hex(get(row, "hex")->text, &size);
        zev_decode(decoder, bytes, size, &frame);
        say("{\"events\":[");
        say_events(bytes, &frame);
        say("],\"gaps\":[");
        for (int i = 0; i < frame.gaps; i++)
            say("%s[%llu,%llu]", i > 0 ? "," : "", (unsigned long long)frame.gap[i].first,
                (unsigned long long)frame.gap[i].last);
        say("],\"lost\":%llu,\"malformed\":%llu", (unsigned long long)frame.lost, (unsigned long long)frame.malformed);
        if (frame.events > 0 && frame.seq > 0) {
            say_untold("born", frame.born);
            say_untold("settled", frame.settled);
            say_untold("first", frame.first);
        }
        say("}%s", row->next != NULL ? "," : "");
        free(bytes);
    }
    say("]");
    zev_decoder_free(decoder);
    return 0;
}

static int get_items(const struct value *request, zev_item **items, size_t *count) {
    *count = 0;
    for (const struct value *row = list(request, "items"); row != NULL; row = row->next)
        ++*count;
    *items = get(request, "items") != NULL ? (zev_item *)allocate((*count + 1) * sizeof **items) : NULL;
    size_t at = 0;
    for (const struct value *row = list(request, "items"); row != NULL; row = row->next, at++) {
        char *path, *json = NULL;
        int bad = get_text(row, "path", &path, &err) != 0 || get_text(row, "json", &json, &err) != 0;
        (*items)[at].path = path;
        (*items)[at].json = json;
        if (bad)
            return -1;
    }
    return 0;
}

static int do_encode(const struct value *request) {
    const struct value *hex = get(request, "hex"), *stamp = get(request, "stamp");
    struct topic topic;
    char *data = NULL;
    zev_item *items = NULL;
    size_t count = 0, data_size = 0, size = 0;
    unsigned char *frame = NULL;
    if (get_topic(request, &topic) == 0 && get_items(request, &items, &count) == 0 &&
        (hex != NULL || get_text(request, "json", &data, &err) == 0)) {
        if (hex != NULL)
            data = from_hex(hex->text, &data_size);
        frame = zev_encode(topic.system, topic.kind, topic.path, data, hex != NULL ? data_size : ZEV_UNTOLD, items, count,
                           stamp != NULL ? stamp->text : "", &size, &err);
    }
    if (frame == NULL) {
        say_error(&err);
    } else {
        say(",\"hex\":");
        say_hex(frame, size);
    }
    for (size_t i = 0; i < count; i++) {
        free((void *)(uintptr_t)items[i].path);
        free((void *)(uintptr_t)items[i].json);
    }
    free(items);
    free(data);
    free_topic(&topic);
    int result = frame != NULL ? 0 : -1;
    free(frame);
    return result;
}

static void say_file(const char *name, size_t size) {
    char id[40];
    uint64_t epoch;
    bool block;
    switch (strlen(name) == size ? zev_parse_file(name, id, &epoch, &block) : 0) {
    case 'e':
        say("{\"id\":\"%s\",\"epoch\":%llu,\"overflow\":\"%s\"}", id, (unsigned long long)epoch, block ? "block" : "drop");
        break;
    case 's': say("{\"is\":\"socket\"}"); break;
    case 'm': say("{\"is\":\"member\"}"); break;
    case 'n': say("{\"is\":\"new\"}"); break;
    case 't': say("{\"is\":\"token\"}"); break;
    default: say("null"); break;
    }
}

static void say_root(const struct value *environment) {
    static const char *const names[] = {"ZBUS_DIR", "XDG_RUNTIME_DIR", "TMPDIR", "TMP", "TEMP", "HOME"};
    char *before[6], root[4096] = "";
    for (int i = 0; i < 6; i++) {
        const struct value *set = get(environment, names[i]);
        before[i] = getenv(names[i]) != NULL ? strdup(getenv(names[i])) : NULL;
        if (set != NULL)
            setenv(names[i], set->text, 1);
        else
            unsetenv(names[i]);
    }
    zev_root(root, sizeof root, &err);
    for (int i = 0; i < 6; i++) {
        if (before[i] != NULL)
            setenv(names[i], before[i], 1);
        else
            unsetenv(names[i]);
        free(before[i]);
    }
    say_text(root);
}

static int do_names(const struct value *request) {
    const char *comma = "";
    char id[40];
    uint64_t epoch;
    size_t size;
    say(",\"files\":[");
    for (const struct value *row = list(request, "files"); row != NULL; row = row->next, comma = ",") {
        char *name = from_hex(get(row, "hex")->text, &size);
        say("%s", comma);
        say_file(name, size);
        free(name);
    }
    say("],\"sentinels\":[");
    comma = "";
    for (const struct value *row = list(request, "sentinels"); row != NULL; row = row->next, comma = ",") {
        char *topic = from_hex(get(row, "hex")->text, &size);
        if (zev_parse_sentinel(topic, size, id, &epoch))
            say("%s{\"ingress\":\"%s\",\"epoch\":%llu}", comma, id, (unsigned long long)epoch);
        else
            say("%snull", comma);
        free(topic);
    }
    say("],\"buses\":[");
    comma = "";
    for (const struct value *row = list(request, "buses"); row != NULL; row = row->next, comma = ",") {
        const struct value *name = get(row, "name");
        bool valid = strlen(name->text) == name->size && zev_is_bus_name(name->text);
        say("%s%s", comma, valid ? "true" : "false");
    }
    say("],\"roots\":[");
    comma = "";
    for (const struct value *row = list(request, "roots"); row != NULL; row = row->next, comma = ",") {
        say("%s", comma);
        say_root(get(row, "env"));
    }
    say("]");
    return 0;
}

/* --- requests --- */

static const struct {
    const char *verb;
    int (*answer)(const struct value *request);
} verbs[] = {
    {"hello", do_hello},       {"open", do_open},       {"subscribe", do_subscribe}, {"receive", do_receive},
    {"slow", do_receive},      {"busy", do_busy},       {"send", do_send},           {"burst", do_burst},
    {"stream", do_stream},     {"joins", do_joins},     {"churn", do_churn},         {"close", do_close},
    {"patterns", do_patterns}, {"decode", do_decode},   {"encode", do_encode},       {"names", do_names},
    {"speed", do_speed},       {"echo", do_echo},       {"ping", do_ping},
};

static void answer(const struct value *request) {
    const struct value *verb = get(request, "verb");
    said_size = 0;
    say("{\"ok\":true");
    for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++)
        if (verb != NULL && strcmp(verb->text, verbs[i].verb) == 0) {
            if (verbs[i].answer(request) == 0)
                say("}");
            return;
        }
    said_size = 0;
    say("{\"unsupported\":\"there is no such verb\"}");
}

int main(void) {
    char *line = NULL;
    size_t room = 0;
    while (getline(&line, &room, stdin) > 0) {
        struct value *request;
        read_value(line, &request);
        answer(request);
        free_value(request);
        puts(said);
        fflush(stdout);
    }
    free(line);
    close_all();
    free(said);
    return 0;
}
