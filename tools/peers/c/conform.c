/* The driver of the C peer for tools/conform: a JSON line is a request, and one is its answer.
 *
 * It includes the library, so that the verbs without a bus call the functions that sending and receiving call.
 * Those with a bus use zev.h only. */
#include "zev.c"

#if defined(__SANITIZE_THREAD__)
/* The thread sanitizer does not see how libzmq, which is not built with it, keeps its threads apart. */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void) {
    return "called_from_lib:libzmq.so\nrace:libzmq.so\n";
}
#endif

/* --- requests: JSON that the kit has made, looked at in its text --- */

/* Return where the value of a key is, NULL if there is none. */
static const char *find(const char *object, const char *key) {
    const char *at = json_space(json_space(object) + 1);
    size_t size = strlen(key);
    while (*at == '"') {
        const char *name = at + 1, *value = json_space(json_space(json_string(at)) + 1);
        if (strncmp(name, key, size) == 0 && name[size] == '"')
            return *value != 'n' ? value : NULL;
        at = json_space(json_value(value, MAX_DEPTH));
        at = json_space(at + (*at == ','));
    }
    return NULL;
}

/* Return the first item of a list; with `at`, the item after that one; NULL after the last. */
static const char *next_row(const char *request, const char *key, const char *at) {
    const char *list = at == NULL ? find(request, key) : json_space(json_value(at, MAX_DEPTH));
    if (list == NULL || *list == ']')
        return NULL;
    at = json_space(list + 1);
    return *at != ']' ? at : NULL;
}

static uint64_t count_of(const char *request, const char *key, uint64_t otherwise) {
    const char *found = find(request, key);
    return found != NULL ? strtoull(found, NULL, 10) : otherwise;
}

static double number_of(const char *request, const char *key, double otherwise) {
    const char *found = find(request, key);
    return found != NULL ? strtod(found, NULL) : otherwise;
}

/* Memory that is freed once the request is answered. */
static struct chunk {
    struct chunk *next;
} *chunks;

static char *allocate(size_t size) {
    struct chunk *chunk = (struct chunk *)resize(NULL, sizeof *chunk + size);
    chunk->next = chunks;
    chunks = chunk;
    return (char *)(chunk + 1);
}

static void free_chunks(void) {
    for (struct chunk *chunk; (chunk = chunks) != NULL; free(chunk))
        chunks = chunk->next;
}

static char *from_hex(const char *hex, size_t *size) {
    *size = (size_t)(json_string(hex) - hex - 2) / 2;
    char *bytes = allocate(*size + 1);
    for (size_t i = 0; i < *size; i++) {
        const char digits[3] = {hex[2 * i + 1], hex[2 * i + 2], '\0'};
        bytes[i] = (char)strtoul(digits, NULL, 16);
    }
    bytes[*size] = '\0';
    return bytes;
}

/* Return a text, or `otherwise` if there is none. A C string cannot hold a NUL: in place of such a text, which
 * must be refused, return one that is for another reason. */
static const char *text_of(const char *request, const char *key, const char *otherwise) {
    char in_hex[32];
    size_t size = 0;
    snprintf(in_hex, sizeof in_hex, "%s_hex", key);
    const char *found = find(request, key), *hex = find(request, in_hex);
    if (found == NULL && hex == NULL)
        return otherwise;
    char *text = hex != NULL ? from_hex(hex, &size) : allocate((size_t)(json_string(found) - found));
    if (hex == NULL)
        size = (size_t)(json_unescape(text, found) - text);
    return strlen(text) == size ? text : "\xff";
}

/* --- answers --- */

static struct text said;

static void say_hex(const char *bytes, size_t size) {
    put_string(&said, "\"");
    for (size_t i = 0; i < size; i++)
        put_format(&said, "%02x", (unsigned char)bytes[i]);
    put_string(&said, "\"");
}

static void say_number(const char *name, uint64_t number) {
    put_format(&said, ",\"%s\":%llu", name, (unsigned long long)number);
}

static void say_told(const char *name, uint64_t number) {
    if (number != ZEV_UNTOLD)
        say_number(name, number);
}

static void say_event(const zev_event *evt) {
    put_string(&said, "{\"system\":");
    put_quoted(&said, evt->system);
    put_string(&said, ",\"kind\":");
    put_quoted(&said, evt->kind);
    put_string(&said, ",\"path\":");
    put_quoted(&said, evt->path);
    put_string(&said, evt->type == ZEV_JSON ? ",\"json\":" : evt->type == ZEV_BYTES ? ",\"hex\":" : "");
    if (evt->type == ZEV_JSON)
        put_quoted(&said, evt->data);
    else if (evt->type == ZEV_BYTES)
        say_hex(evt->data, evt->size);
    say_told("time", evt->time);
    say_number("seq", evt->seq);
    put_format(&said, ",\"origin\":\"%s\"}", evt->origin);
}

/* Answer the rows of a list, one after the other. */
static void say_rows(const char *request, const char *key, const char *name, void (*say)(const char *row)) {
    const char *comma = "";
    put_format(&said, ",\"%s\":[", name);
    for (const char *row = NULL; (row = next_row(request, key, row)) != NULL; comma = ",") {
        put_string(&said, comma);
        say(row);
    }
    put_string(&said, "]");
}

static void pause_for(double seconds) {
    struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&t, NULL);
}

static long long micros(void) {
    return (long long)(now_seconds() * 1e6);
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
static zev_sub *sub; /* that the request names */
static zev_error err;

static int do_hello(const char *request) {
    int major, minor, patch;
    (void)request;
    zmq_version(&major, &minor, &patch);
    put_format(&said, ",\"language\":\"c\",\"library\":\"libzmq %d.%d.%d\",\"pid\":%ld", major, minor, patch,
               (long)getpid());
    return 0;
}

static int do_open(const char *request) {
    options = zev_defaults();
    snprintf(bus_name, sizeof bus_name, "%s", text_of(request, "bus", ""));
    options.name = find(request, "bus") != NULL ? bus_name : NULL;
    options.capacity = count_of(request, "capacity", options.capacity);
    options.max_event_bytes = count_of(request, "max_event_bytes", options.max_event_bytes);
    options.linger = number_of(request, "linger", options.linger);
    options.send_timeout = number_of(request, "send_timeout", options.send_timeout);
    bus = zev_open(&options, &err);
    return bus != NULL ? 0 : -1;
}

static void close_all(void) {
    zev_close(bus);
    bus = NULL;
    for (struct named *first; (first = subs) != NULL; free(first)) {
        subs = first->next;
        zev_sub_free(first->sub);
        free(first->name);
    }
}

static int do_close(const char *request) {
    if (find(request, "name") == NULL)
        close_all();
    else if (sub != NULL)
        zev_sub_close(sub);
    return 0;
}

static zev_sub *open_sub(const char *request) {
    zev_sub_options how = {ZEV_DROP, count_of(request, "capacity", 0), 0};
    if (strcmp(text_of(request, "overflow", "drop"), "block") == 0)
        how.overflow = ZEV_BLOCK;
    return zev_subscribe(bus, text_of(request, "system", NULL), text_of(request, "kind", NULL), &how, &err);
}

static int do_subscribe(const char *request) {
    sub = open_sub(request);
    if (sub == NULL)
        return -1;
    struct named *named = NEW(struct named);
    named->name = strdup(text_of(request, "name", ""));
    named->sub = sub;
    named->next = subs;
    subs = named;
    return 0;
}

/* --- receiving --- */

struct seen {
    struct seen *next;
    char stream[512];
    uint64_t seq;
};

/* What the events of a burst were, without keeping them. */
struct tally {
    long long first, last;
    bool ordered;
    struct seen *seen;
};

static long long number_in(const zev_event *evt, const char *key) {
    const char *found = evt->type == ZEV_JSON ? strstr(evt->data, key) : NULL;
    return found != NULL ? atoll(found + strlen(key)) : 0;
}

static void add_to_tally(struct tally *tally, const zev_event *evt) {
    char stream[512];
    snprintf(stream, sizeof stream, "%s %.200s %.200s", evt->origin, evt->system, evt->kind);
    struct seen *seen = tally->seen;
    while (seen != NULL && strcmp(seen->stream, stream) != 0)
        seen = seen->next;
    if (seen == NULL) {
        seen = (struct seen *)allocate(sizeof *seen);
        strcpy(seen->stream, stream);
        seen->seq = 0;
        seen->next = tally->seen;
        tally->seen = seen;
    }
    tally->ordered &= evt->seq > seen->seq;
    seen->seq = evt->seq;
    tally->last = number_in(evt, "\"n\":");
    tally->first = tally->first == 0 ? tally->last : tally->first;
}

/* Serves `slow` too, which tallies, and pauses after each event. */
static int do_receive(const char *request) {
    const double pause = number_of(request, "pause", 0), timeout = number_of(request, "timeout", 10);
    const char *tallied = find(request, "tally");
    const uint64_t count = count_of(request, "count", UINT64_MAX),
                   until = count_of(request, "until", UINT64_MAX);
    bool listed = pause <= 0 && (tallied == NULL || *tallied != 't');
    struct tally tally = {0, 0, true, NULL};
    zev_event evt = ZEV_EVENT_INIT;
    zev_stats stats = zev_sub_stats(sub);
    uint64_t got = 0, before = UINT64_MAX;
    double progress = now_seconds();
    int state = -1;
    put_string(&said, listed ? ",\"events\":[" : "");
    while (got < count && stats.received + stats.lost < until && state != 0) {
        state = zev_receive(sub, &evt, until < UINT64_MAX ? MIN(0.05, timeout) : timeout, &err);
        if (state == 1) {
            put_string(&said, listed && got > 0 ? "," : "");
            if (listed)
                say_event(&evt);
            else
                add_to_tally(&tally, &evt);
            got++;
            pause_for(pause);
        }
        stats = zev_sub_stats(sub);
        if (stats.received + stats.lost + stats.malformed != before)
            progress = now_seconds();
        else if (now_seconds() >= progress + timeout)
            break;
        before = stats.received + stats.lost + stats.malformed;
    }
    zev_event_clear(&evt);
    if (listed)
        put_string(&said, "]");
    else
        put_format(&said, ",\"first\":%lld,\"last\":%lld,\"ordered\":%s", tally.first, tally.last,
                   tally.ordered ? "true" : "false");
    say_number("received", stats.received);
    say_number("lost", stats.lost);
    say_number("malformed", stats.malformed);
    put_format(&said, ",\"open\":%s", state != 0 ? "true" : "false");
    return 0;
}

static int do_busy(const char *request) {
    pause_for(number_of(request, "seconds", 0));
    return 0;
}

static int do_churn(const char *request) {
    const uint64_t count = count_of(request, "count", 1);
    zev_event evt = ZEV_EVENT_INIT;
    int state = 1;
    put_string(&said, ",\"rounds\":[");
    for (uint64_t i = 0; i < count && state == 1; i++) {
        sub = open_sub(request);
        if (sub == NULL)
            return -1;
        long long joined = micros();
        state = zev_receive(sub, &evt, number_of(request, "timeout", 10), &err);
        put_format(&said, "%s{\"joined\":%lld,\"n\":%lld,\"prev\":%lld,\"lost\":%llu}", i > 0 ? "," : "",
                   joined, number_in(&evt, "\"n\":"), number_in(&evt, "\"prev\":"),
                   (unsigned long long)evt.lost);
        zev_sub_free(sub);
    }
    zev_event_clear(&evt);
    put_string(&said, "]");
    return state == 1 ? 0 : -1;
}

/* --- sending --- */

struct topic_of {
    const char *system, *kind, *path;
};

static struct topic_of topic_of(const char *request) {
    struct topic_of topic = {text_of(request, "system", NULL), text_of(request, "kind", NULL),
                             text_of(request, "path", "/conform")};
    return topic;
}

static int do_send(const char *request) {
    const struct topic_of to = topic_of(request);
    const char *hex = find(request, "hex");
    size_t size;
    if (hex == NULL)
        return zev_send(bus, to.system, to.kind, to.path, text_of(request, "json", NULL), &err);
    const char *bytes = from_hex(hex, &size);
    return zev_send_bytes(bus, to.system, to.kind, to.path, bytes, size, &err);
}

static void put_counted(char *to, size_t n, size_t pad) {
    size_t size = (size_t)sprintf(to, pad > 0 ? "{\"n\":%zu,\"pad\":\"" : "{\"n\":%zu", n);
    memset(to + size, 'x', pad);
    strcpy(to + size + pad, pad > 0 ? "\"}" : "}");
}

static int do_burst(const char *request) {
    const size_t count = count_of(request, "count", 1), batch = count_of(request, "batch", 0);
    const size_t pad = count_of(request, "bytes", 0), room = batch > 0 ? batch : 1;
    const double interval = number_of(request, "interval", 0), began = now_seconds();
    const struct topic_of to = topic_of(request);
    char *texts = allocate(room * (pad + 64));
    zev_item *items = (zev_item *)(void *)allocate(room * sizeof *items);
    int result = 0;
    for (size_t n = 1; result == 0 && n <= count; n += room) {
        size_t filled = 0;
        for (; filled < room && n + filled <= count; filled++) {
            items[filled].path = to.path;
            items[filled].json = texts + filled * (pad + 64);
            put_counted(texts + filled * (pad + 64), n + filled, pad);
        }
        result = batch > 0 ? zev_send_many(bus, to.system, to.kind, items, filled, &err)
                           : zev_send(bus, to.system, to.kind, to.path, texts, &err);
        if (interval > 0)
            pause_for(interval);
    }
    put_format(&said, ",\"sent\":%zu,\"seconds\":%.9f", count, now_seconds() - began);
    return result;
}

static int do_stream(const char *request) {
    const char *until = text_of(request, "until", "");
    const double interval = number_of(request, "interval", 0.001);
    const struct topic_of to = topic_of(request);
    char json[128];
    long long before = 0;
    size_t sent = 0;
    int result;
    do {
        long long at = micros();
        snprintf(json, sizeof json, "{\"n\":%zu,\"at\":%lld,\"prev\":%lld}", ++sent, at, before);
        result = zev_send(bus, to.system, to.kind, to.path, json, &err);
        before = at;
        pause_for(interval);
    } while (result == 0 && access(until, F_OK) != 0);
    say_number("sent", sent);
    return result;
}

static int do_joins(const char *request) {
    const size_t count = count_of(request, "count", 1);
    const struct topic_of to = topic_of(request);
    char json[64];
    int result = 0;
    put_string(&said, ",\"seconds\":[");
    for (size_t n = 1; result == 0 && n <= count; n++) {
        double began = now_seconds();
        zev_bus *another = zev_open(&options, &err);
        snprintf(json, sizeof json, "{\"n\":%zu}", n);
        result = another == NULL ? -1 : zev_send(another, to.system, to.kind, to.path, json, &err);
        put_format(&said, "%s%.9f", n > 1 ? "," : "", now_seconds() - began);
        zev_close(another);
    }
    put_string(&said, "]");
    return result;
}

/* --- speed --- */

static int do_speed(const char *request) {
    const size_t count = count_of(request, "count", 1);
    zev_event evt = ZEV_EVENT_INIT;
    double began = 0;
    if (strcmp(text_of(request, "role", ""), "send") == 0)
        return do_burst(request);
    for (size_t got = 0; got < count; got++) {
        if (zev_receive(sub, &evt, 60, &err) != 1)
            return -1;
        began = got == 0 ? now_seconds() : began;
    }
    put_format(&said, ",\"seconds\":%.9f", now_seconds() - began);
    zev_event_clear(&evt);
    return 0;
}

static int do_echo(const char *request) {
    const size_t count = count_of(request, "count", 1);
    const struct topic_of to = topic_of(request);
    zev_event evt = ZEV_EVENT_INIT;
    int result = 0;
    for (size_t got = 0; result == 0 && got < count; got++) {
        result = zev_receive(sub, &evt, 60, &err) == 1 ? 0 : -1;
        if (result == 0)
            result = zev_send(bus, to.system, to.kind, evt.path, evt.type == ZEV_JSON ? evt.data : NULL, &err);
    }
    zev_event_clear(&evt);
    return result;
}

static int do_ping(const char *request) {
    const size_t count = count_of(request, "count", 1);
    const struct topic_of to = topic_of(request);
    zev_event evt = ZEV_EVENT_INIT;
    char json[64];
    int result = 0;
    put_string(&said, ",\"micros\":[");
    for (size_t n = 0; result == 0 && n < count; n++) {
        double began = now_seconds();
        snprintf(json, sizeof json, "{\"n\":%zu}", n);
        result = zev_send(bus, to.system, to.kind, to.path, json, &err);
        if (result == 0 && zev_receive(sub, &evt, 60, &err) != 1)
            result = -1;
        put_format(&said, "%s%.3f", n > 0 ? "," : "", (now_seconds() - began) * 1e6);
    }
    put_string(&said, "]");
    zev_event_clear(&evt);
    return result;
}

/* --- the rules, without a bus --- */

static void say_match(const char *row) {
    const char *pattern = text_of(row, "pattern", "");
    if (check_pattern(pattern, "system", &err) != 0)
        put_string(&said, "null");
    else
        put_string(&said, matches(pattern, text_of(row, "name", "")) ? "true" : "false");
}

static void say_refused(const char *row) {
    put_string(&said, check_pattern(text_of(row, "pattern", ""), "system", &err) != 0 ? "true" : "false");
}

static int compare_texts(const void *a, const void *b) {
    const struct text *left = (const struct text *)a, *right = (const struct text *)b;
    int order = memcmp(left->at, right->at, left->size < right->size ? left->size : right->size);
    return order != 0 ? order : (left->size > right->size) - (left->size < right->size);
}

static void say_prefixes(const char *row) {
    struct heads prefixes;
    struct decoder *decoder = new_decoder(text_of(row, "system", NULL), text_of(row, "kind", NULL), 1, &err);
    put_string(&said, decoder == NULL ? "null" : "[");
    if (decoder == NULL)
        return;
    find_prefixes(decoder->system.at, decoder->kind.at, &prefixes);
    qsort(prefixes.text, prefixes.count, sizeof prefixes.text[0], compare_texts);
    for (size_t i = 0; i < prefixes.count; i++) {
        put_string(&said, i > 0 ? "," : "");
        say_hex(prefixes.text[i].at, prefixes.text[i].size);
    }
    put_string(&said, "]");
    free_heads(&prefixes);
    free_decoder(decoder);
}

static int do_patterns(const char *request) {
    say_rows(request, "cases", "matches", say_match);
    say_rows(request, "prefixes", "prefixes", say_prefixes);
    say_rows(request, "invalid", "refused", say_refused);
    return 0;
}

static struct decoder *decoder;

static void say_frame(const char *row) {
    size_t size;
    const char *bytes = from_hex(find(row, "hex"), &size), *comma = "";
    struct frame *frame = new_frame(bytes, size);
    decode(decoder, frame);
    put_string(&said, "{\"events\":[");
    for (zev_event evt = ZEV_EVENT_INIT; frame->left > 0; comma = ",") {
        next_event(frame, &evt);
        put_string(&said, comma);
        say_event(&evt);
    }
    put_string(&said, "],\"gaps\":[");
    for (int i = 0; i < frame->gap_count; i++)
        put_format(&said, "%s[%llu,%llu]", i > 0 ? "," : "", (unsigned long long)frame->gaps[i].first,
                   (unsigned long long)frame->gaps[i].last);
    put_string(&said, "]");
    say_number("lost", decoder->lost);
    say_number("malformed", decoder->malformed);
    if (frame->events > 0) {
        say_told("born", frame->born);
        say_told("settled", frame->settled);
        say_told("first", frame->first);
    }
    put_string(&said, "}");
    release(frame);
}

static int do_decode(const char *request) {
    decoder = new_decoder(text_of(request, "system", NULL), text_of(request, "kind", NULL),
                          count_of(request, "limit", 65536), &err);
    if (decoder == NULL)
        return -1;
    set_joined(decoder, count_of(request, "announced", ZEV_UNTOLD), count_of(request, "joined", ZEV_UNTOLD));
    say_rows(request, "frames", "frames", say_frame);
    free_decoder(decoder);
    return 0;
}

static int do_encode(const char *request) {
    const struct topic_of to = topic_of(request);
    const char *hex = find(request, "hex"), *stamp = text_of(request, "stamp", "");
    struct body body = {to.path, text_of(request, "json", NULL), 0, NULL, 1, ZEV_JSON};
    if (hex != NULL) {
        body.type = ZEV_BYTES;
        body.data = from_hex(hex, &body.size);
    } else if (body.data == NULL) {
        body.type = ZEV_NONE;
    }
    if (find(request, "items") != NULL) {
        zev_item *items = (zev_item *)(void *)allocate(strlen(request) * sizeof *items);
        body.path = "";
        body.items = items;
        body.events = 0;
        for (const char *row = NULL; (row = next_row(request, "items", row)) != NULL; body.events++) {
            items[body.events].path = text_of(row, "path", NULL);
            items[body.events].json = text_of(row, "json", NULL);
        }
    }
    if (check_body(to.system, to.kind, &body, &err) != 0)
        return -1;
    struct text frame = {NULL, 0, 0};
    put(&frame, to.system, strlen(to.system) + 1);
    put(&frame, to.kind, strlen(to.kind) + 1);
    put(&frame, body.path, strlen(body.path) + 1);
    put(&frame, stamp, strlen(stamp) + 1);
    put_data(&frame, &body);
    put_string(&said, ",\"hex\":");
    say_hex(frame.at, frame.size);
    free(frame.at);
    return 0;
}

static void say_file(const char *row) {
    struct listed file;
    size_t size;
    const char *name = from_hex(find(row, "hex"), &size);
    if (strlen(name) != size || !read_name(name, &file))
        put_string(&said, "null");
    else if (file.type == 'e')
        put_format(&said, "{\"id\":\"%s\",\"epoch\":%llu,\"overflow\":\"%s\"}", file.id,
                   (unsigned long long)file.epoch, file.block ? "block" : "drop");
    else
        put_format(&said, "{\"is\":\"%s\"}",
                   file.type == 's'   ? "socket"
                   : file.type == 'm' ? "member"
                   : file.type == 'n' ? "new"
                                      : "token");
}

static void say_sentinel(const char *row) {
    char id[ID];
    uint64_t epoch;
    size_t size;
    const char *topic = from_hex(find(row, "hex"), &size);
    if (read_sentinel(topic, size, id, &epoch))
        put_format(&said, "{\"ingress\":\"%s\",\"epoch\":%llu}", id, (unsigned long long)epoch);
    else
        put_string(&said, "null");
}

static void say_bus(const char *row) {
    put_string(&said, is_bus_name(text_of(row, "name", "")) ? "true" : "false");
}

static void say_root(const char *row) {
    static const char *const names[] = {"ZBUS_DIR", "XDG_RUNTIME_DIR", "TMPDIR"};
    const char *environment = find(row, "env");
    char *before[3];
    struct text root = {NULL, 0, 0};
    for (int i = 0; i < 3; i++) {
        const char *value = text_of(environment, names[i], NULL);
        before[i] = getenv(names[i]) != NULL ? strdup(getenv(names[i])) : NULL;
        if (value == NULL || setenv(names[i], value, 1) != 0)
            unsetenv(names[i]);
    }
    put_root(&root);
    for (int i = 0; i < 3; i++) {
        if (before[i] == NULL || setenv(names[i], before[i], 1) != 0)
            unsetenv(names[i]);
        free(before[i]);
    }
    put_quoted(&said, root.at);
    free(root.at);
}

static int do_names(const char *request) {
    say_rows(request, "files", "files", say_file);
    say_rows(request, "sentinels", "sentinels", say_sentinel);
    say_rows(request, "buses", "buses", say_bus);
    say_rows(request, "roots", "roots", say_root);
    return 0;
}

/* --- requests --- */

enum { NOTHING, A_BUS, A_SUB };

static const struct {
    const char *verb;
    int (*answer)(const char *request);
    int needs;
} verbs[] = {
    {"hello", do_hello, NOTHING},       {"open", do_open, NOTHING},     {"subscribe", do_subscribe, A_BUS},
    {"receive", do_receive, A_SUB},     {"slow", do_receive, A_SUB},    {"busy", do_busy, NOTHING},
    {"send", do_send, A_BUS},           {"burst", do_burst, A_BUS},     {"stream", do_stream, A_BUS},
    {"joins", do_joins, NOTHING},       {"churn", do_churn, A_BUS},     {"close", do_close, NOTHING},
    {"patterns", do_patterns, NOTHING}, {"decode", do_decode, NOTHING}, {"encode", do_encode, NOTHING},
    {"names", do_names, NOTHING},       {"speed", do_speed, A_BUS},     {"echo", do_echo, A_SUB},
    {"ping", do_ping, A_SUB},
};

static int answer(const char *request) {
    const char *verb = text_of(request, "verb", ""), *name = text_of(request, "name", "");
    sub = NULL;
    for (const struct named *named = subs; named != NULL; named = named->next)
        if (strcmp(named->name, name) == 0)
            sub = named->sub;
    for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++) {
        if (strcmp(verb, verbs[i].verb) != 0)
            continue;
        if ((verbs[i].needs == A_SUB && sub == NULL) || (verbs[i].needs == A_BUS && bus == NULL))
            return fail(&err, ZEV_CANCELED, "no bus or no such subscription is open: open one first");
        return verbs[i].answer(request);
    }
    said.size = 0;
    put_string(&said, "{\"unsupported\":\"there is no such verb\"");
    return 0;
}

int main(void) {
    char *line = NULL;
    size_t room = 0;
    while (getline(&line, &room, stdin) > 0) {
        said.size = 0;
        put_string(&said, "{\"ok\":true");
        if (answer(line) != 0) {
            said.size = 0;
            put_format(&said,
                       "{\"error\":{\"kind\":\"%s\",\"retryable\":%s,\"message\":", zev_kind_name(err.kind),
                       err.retryable ? "true" : "false");
            put_quoted(&said, err.message);
            put_string(&said, "}");
        }
        put_string(&said, "}");
        puts(said.at);
        fflush(stdout);
        free_chunks();
    }
    free(line);
    close_all();
    free(said.at);
    return 0;
}
