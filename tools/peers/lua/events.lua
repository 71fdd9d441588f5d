--- Events between processes without a broker: the Lua peer of zbus.
--
--     local events = require("events")
--     local sub, err = events.subscribe("orders.*")
--     local ch = sub:channel()
--     while true do
--         local evt, ok = ch:receive()
--         if not ok then break end
--         print(evt.system, evt.kind, evt.path, evt.data)
--     end
--
-- It needs LuaJIT, libzmq 4.2 or later, and lua-cjson, on Linux. Nothing here raises for what can go wrong on a
-- bus: functions return `nil, err` (`send` returns `false, err`), where `err:kind()`, `err:message()` and
-- `err:retryable()` tell what happened. All other processes of the user find each other in a directory; see
-- docs/spec/ of zbus, whose clauses (W.., R..) this file names.
--
-- The file reads from the inside out: errors, text, JSON, patterns, frames, loss, the machine, the directory,
-- threads, the publisher, the channel, and last what users call.
--
-- @module events

local STATE, SHARED = ...  -- set only in the state of a keeper thread, see "The keeper"

local ffi = require("ffi")
local bit = require("bit")
local cjson_module = require("cjson")

local C = ffi.C
local band, bor, lshift, rshift = bit.band, bit.bor, bit.lshift, bit.rshift
local floor, huge, max, min = math.floor, math.huge, math.max, math.min
local byte, char, format, sub = string.byte, string.char, string.format, string.sub
local concat, insert, remove, sort = table.concat, table.insert, table.remove, table.sort

-- `void *` for all pointers, and no named types: other modules of the process may declare the same functions.
ffi.cdef [[
void *zmq_ctx_new(void); int zmq_ctx_set(void *, int, int); int zmq_ctx_term(void *); int zmq_ctx_shutdown(void *);
void *zmq_socket(void *, int); int zmq_close(void *);
int zmq_bind(void *, const char *); int zmq_connect(void *, const char *); int zmq_disconnect(void *, const char *);
int zmq_setsockopt(void *, int, const void *, size_t); int zmq_getsockopt(void *, int, void *, size_t *);
int zmq_send(void *, const void *, size_t, int); int zmq_recv(void *, void *, size_t, int);
int zmq_msg_init(void *); int zmq_msg_recv(void *, void *, int); int zmq_msg_close(void *);
void *zmq_msg_data(void *); size_t zmq_msg_size(const void *);
int zmq_poll(void *, int, long); void zmq_version(int *, int *, int *);
int zmq_proxy_steerable(void *, void *, void *, void *);

void *luaL_newstate(void); void luaL_openlibs(void *); void lua_close(void *);
int luaL_loadstring(void *, const char *); int luaL_loadfile(void *, const char *); int lua_pcall(void *, int, int, int);
void lua_pushstring(void *, const char *); void lua_pushnumber(void *, double); double lua_tonumber(void *, int);
const char *lua_tolstring(void *, int, size_t *);
int pthread_create(unsigned long *, const void *, void *, void *); int pthread_join(unsigned long, void *);
int pthread_sigmask(int, const void *, void *);
int pthread_mutex_lock(void *); int pthread_mutex_trylock(void *); int pthread_mutex_unlock(void *);

int open(const char *, int, ...); int close(int); int dup(int); int fcntl(int, int, ...);
long read(int, void *, size_t); long write(int, const void *, size_t);
long pread(int, void *, size_t, int64_t); long pwrite(int, const void *, size_t, int64_t);
int link(const char *, const char *); int unlink(const char *); int rename(const char *, const char *);
int mkdir(const char *, unsigned); int rmdir(const char *); int flock(int, int);
int fchmod(int, unsigned); int fchown(int, unsigned, unsigned); int chmod(const char *, unsigned);
int chown(const char *, unsigned, unsigned); int access(const char *, int);
int statx(int, const char *, int, unsigned, void *);
void *opendir(const char *); void *readdir(void *); int closedir(void *);
void *mmap(void *, size_t, int, int, int, int64_t); int munmap(void *, size_t); int madvise(void *, size_t, int);
void *calloc(size_t, size_t); void *realloc(void *, size_t); void free(void *);
int memcmp(const void *, const void *, size_t); void *memchr(const void *, int, size_t);
char *strerror(int); char *getcwd(char *, size_t);
int getpid(void); unsigned geteuid(void); unsigned getegid(void); int getgroups(int, unsigned *);
int socket(int, int, int); int connect(int, const void *, unsigned);
int getsockopt(int, int, int, void *, unsigned *); int getpeername(int, void *, unsigned *);
int getsockname(int, void *, unsigned *); int ioctl(int, unsigned long, ...);
int poll(void *, unsigned long, int); int eventfd(unsigned, int); int clock_gettime(int, void *);
]]

local function load_zmq()
    for _, name in ipairs { "zmq", "libzmq.so.5" } do
        local found, library = pcall(ffi.load, name)
        if found then return library end
    end
    error("libzmq is not installed: apt-get install libzmq5", 0)
end

local zmq = load_zmq()
local bytes_t, const_bytes_t = ffi.typeof("uint8_t *"), ffi.typeof("const uint8_t *")
local buffer_t = ffi.typeof("uint8_t[?]")

local MAX_EVENT_BYTES = 16777216
local MAX_TOPICS = 65536
local MAX_STREAMS = 65536
local MAX_MARKS = 65536
local MAX_GAP = 2 ^ 40
local MAX_DEPTH = 1024
local MAX_PREFIXES = 16
local CAPACITY, BLOCK_CAPACITY = 65536, 1000
local JOIN_TIMEOUT, SEND_TIMEOUT, LINGER = 1, 5, 1
local EXACT = 2 ^ 53

------------------------------------------------------------------------------------------------------------
-- Errors

--- What went wrong. `tostring(err)` is the message.
-- @type Error
local Error = {}
Error.__index = Error
Error.__tostring = function(self) return self._message end

--- Which error it is: one of `events.errors`, for example `"Invalid"`.
function Error:kind() return self._kind end
--- What is wrong, and what to do about it.
function Error:message() return self._message end
--- Whether the same call may succeed later.
function Error:retryable() return self._retryable end

local INVALID, TIMEOUT, CANCELED = "Invalid", "Timeout", "Canceled"
local PERMISSION_DENIED, UNAVAILABLE = "PermissionDenied", "Unavailable"

local function new_error(kind, message, retryable)
    return setmetatable({ _kind = kind, _message = message, _retryable = retryable or false }, Error)
end

local function fail(kind, message, ...)
    error(new_error(kind, select("#", ...) > 0 and format(message, ...) or message), 0)
end

local function invalid(message, ...) return fail(INVALID, message, ...) end

--- Raise what the operating system refused, as an error of the bus.
local function refused(what, errno)
    errno = errno or ffi.errno()
    local kind = (errno == 13 or errno == 1) and PERMISSION_DENIED or UNAVAILABLE
    -- EINTR, EAGAIN, ENOMEM, EMFILE, ENFILE, ENOSPC, EDQUOT may pass.
    local passing = errno == 4 or errno == 11 or errno == 12 or errno == 23 or errno == 24 or errno == 28 or errno == 122
    error(new_error(kind, format("cannot %s: %s", what, ffi.string(C.strerror(errno))), passing), 0)
end

--- Call `run`; return its results, or `failed, err` for an error of the bus. Anything else goes on.
local function returning(failed, ok, ...)
    if ok then return ... end
    local err = ...
    if getmetatable(err) == Error then return failed, err end
    error(err, 0)
end

------------------------------------------------------------------------------------------------------------
-- Text and numbers

--- Return whether `n` bytes at `p` are UTF-8, without surrogates and overlong forms.
local function is_utf8(p, n)
    local i = 0
    while i < n do
        local c = p[i]
        if c < 0x80 then
            i = i + 1
        elseif c < 0xC2 or c > 0xF4 then
            return false
        else
            local follow = c < 0xE0 and 1 or c < 0xF0 and 2 or 3
            if i + follow >= n then return false end
            local second = p[i + 1]
            local from = c == 0xE0 and 0xA0 or c == 0xF0 and 0x90 or 0x80
            local to = c == 0xED and 0x9F or c == 0xF4 and 0x8F or 0xBF
            if second < from or second > to then return false end
            for k = i + 2, i + follow do
                if band(p[k], 0xC0) ~= 0x80 then return false end
            end
            i = i + follow + 1
        end
    end
    return true
end

local function is_utf8_text(text) return is_utf8(ffi.cast(const_bytes_t, text), #text) end

--- Return the decimal number in `p[from..to-1]`, `nil` if it is none of at most 19 digits.
-- Up to 2^53 it is a Lua number, beyond that a `uint64_t`: both compare and add exactly.
local function decimal(p, from, to)
    local n = to - from
    if n < 1 or n > 19 then return nil end
    local value = 0
    for i = from, to - 1 do
        local digit = p[i] - 48
        if digit < 0 or digit > 9 then return nil end
        value = value * 10 + digit
    end
    if value < EXACT then return value end
    local exact = 0ULL
    for i = from, to - 1 do exact = exact * 10 + (p[i] - 48) end
    return exact
end

--- Return the digits of a number that `decimal` has returned.
local function digits(number)
    if type(number) == "number" then return format("%d", number) end
    return (tostring(number):gsub("U?LL$", ""))
end

local function quoted(value)
    if type(value) ~= "string" then return tostring(value) end
    local odd = is_utf8_text(value) and "%c" or "[%c\128-\255]"
    return "'" .. value:gsub(odd, function(c) return format("\\x%02x", byte(c)) end) .. "'"
end

--- Return `value` if it is text that a frame can carry; raise Invalid otherwise.
local function check_text(value, what)
    if value == nil or value == "" then invalid("%s is required", what) end
    if type(value) ~= "string" then invalid("%s must be a string, not %s", what, type(value)) end
    if value:find("%z") then invalid("%s %s contains NUL, which separates fields: remove it", what, quoted(value)) end
    if not is_utf8_text(value) then invalid("%s %s is not UTF-8: encode it first", what, quoted(value)) end
    return value
end

--- Return whether some segment of a text with dots is empty.
local function has_empty_segment(text)
    return text:find("^%.") or text:find("%.%.") or text:find("%.$")
end

local function check_name(value, what)
    check_text(value, what)
    local wild = value:match("[*()|]")
    if wild then
        invalid("%s %s contains '%s', which only a subscription may use: send a literal name", what, quoted(value), wild)
    end
    if has_empty_segment(value) then
        invalid("%s %s has an empty segment: use single dots between words", what, quoted(value))
    end
    return value
end

local function check_topic(system, kind)
    check_name(system, "system")
    check_name(kind, "kind")
    if system == "zbus" or sub(system, 1, 5) == "zbus." then
        invalid("system %s is reserved for the bus's own events: choose another", quoted(system))
    end
end

------------------------------------------------------------------------------------------------------------
-- JSON: cjson reads the common text. What it would take too freely, or lose, `read_strictly` reads (W51).

local json = cjson_module.new()
json.decode_invalid_numbers(false)
json.decode_max_depth(MAX_DEPTH)
local cjson_decode = json.decode
local null = cjson_module.null

-- An empty array has this metatable, so that it is sent as `[]` and not as `{}`.
local array_mt = {}

--- Raw bytes as data of an event. `tostring(b)` and `b.bytes` are the bytes.
-- @type Bytes
local Bytes = { __tostring = function(self) return self.bytes end, __len = function(self) return #self.bytes end }
Bytes.__index = Bytes

local read_json
do

-- One table drives the scan of a text: state * 256 + byte is where the next state stands. `DOUBT` is final.
local PLAIN, STRING, ESCAPE, OPEN, MINUS, ZERO, DOT, FRACTION, EXP, SIGN, POWER, POWER2, INTEGER, DOUBT =
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 28
local LONGEST = 15 -- digits of an integer that every double holds

local function make_scan()
    local table_ = ffi.new("uint8_t[?]", (DOUBT + 1) * 256, DOUBT)
    local function set(state, bytes, target)
        for i = 1, #bytes do table_[state * 256 + byte(bytes, i)] = target end
    end
    local function outside(state)
        set(state, " {},:]truefalsn", PLAIN)
        set(state, '"', STRING)
        set(state, "[", OPEN)
        set(state, "-", MINUS)
        set(state, "0", ZERO)
        set(state, "123456789", INTEGER)
    end
    local function after_number(state) set(state, " ,]}:", PLAIN) end
    outside(PLAIN)
    outside(OPEN)
    set(OPEN, "] ", DOUBT) -- an empty array
    for c = 32, 255 do table_[STRING * 256 + c] = STRING; table_[ESCAPE * 256 + c] = STRING end
    set(STRING, '"', PLAIN)
    set(STRING, "\\", ESCAPE)
    set(MINUS, "0", ZERO)
    set(MINUS, "123456789", INTEGER)
    for state = ZERO, INTEGER + LONGEST - 1 do
        if state == ZERO or state == FRACTION or state >= POWER then after_number(state) end
        if state == ZERO or state == FRACTION or state >= INTEGER then set(state, "eE", EXP) end
        if state == ZERO or state >= INTEGER then set(state, ".", DOT) end
        if state >= INTEGER and state < INTEGER + LONGEST - 1 then set(state, "0123456789", state + 1) end
    end
    set(DOT, "0123456789", FRACTION)
    set(FRACTION, "0123456789", FRACTION)
    set(EXP, "+-", SIGN)
    set(EXP, "0123456789", POWER)
    set(SIGN, "0123456789", POWER)
    set(POWER, "0123456789", POWER2)
    return table_
end

local scan_table = make_scan()

--- Return whether cjson reads this text as W51 wants it.
local function is_common(p, n)
    local state, high = 0, 0
    for i = 0, n - 1 do
        local c = p[i]
        high = bor(high, c)
        state = scan_table[state * 256 + c]
        if state == DOUBT then return false end
    end
    -- A text may end within a number, or in a state that cjson refuses anyway.
    if state == MINUS or state == DOT or state == EXP or state == SIGN then return false end
    return high < 0x80 or is_utf8(p, n)
end

local MALFORMED = {} -- raised for a frame, or JSON, that breaks the rules
local read_value

local function skip_space(p, n, i)
    while i < n do
        local c = p[i]
        if c ~= 32 and c ~= 9 and c ~= 10 and c ~= 13 then return i end
        i = i + 1
    end
    return i
end

local function read_hex(p, n, i)
    if i + 4 > n then error(MALFORMED, 0) end
    local text = ffi.string(p + i, 4)
    if not text:find("^%x%x%x%x$") then error(MALFORMED, 0) end
    return tonumber(text, 16)
end

local function utf8_char(code)
    if code < 0x80 then return char(code) end
    if code < 0x800 then return char(0xC0 + rshift(code, 6), 0x80 + band(code, 63)) end
    if code < 0x10000 then
        return char(0xE0 + rshift(code, 12), 0x80 + band(rshift(code, 6), 63), 0x80 + band(code, 63))
    end
    return char(0xF0 + rshift(code, 18), 0x80 + band(rshift(code, 12), 63), 0x80 + band(rshift(code, 6), 63),
        0x80 + band(code, 63))
end

local ESCAPES = { ['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }

--- Read an escape whose letter is at `i`; return its text and where it ends.
local function read_escape(p, n, i)
    if i >= n then error(MALFORMED, 0) end
    if p[i] ~= 117 then
        return ESCAPES[char(p[i])] or error(MALFORMED, 0), i + 1
    end
    local code = read_hex(p, n, i + 1)
    i = i + 5
    if code >= 0xD800 and code < 0xE000 then
        if code >= 0xDC00 or i + 6 > n or p[i] ~= 92 or p[i + 1] ~= 117 then error(MALFORMED, 0) end
        local low = read_hex(p, n, i + 2)
        if low < 0xDC00 or low > 0xDFFF then error(MALFORMED, 0) end
        return utf8_char(0x10000 + (code - 0xD800) * 1024 + low - 0xDC00), i + 6
    end
    return utf8_char(code), i
end

local function read_string(p, n, i)
    local parts, from = nil, i
    while true do
        if i >= n or p[i] < 32 then error(MALFORMED, 0) end
        if p[i] == 34 then
            local last = ffi.string(p + from, i - from)
            if parts then
                parts[#parts + 1] = last
                last = concat(parts)
            end
            return last, i + 1
        elseif p[i] == 92 then
            parts = parts or {}
            parts[#parts + 1] = ffi.string(p + from, i - from)
            parts[#parts + 1], i = read_escape(p, n, i + 1)
            from = i
        else
            i = i + 1
        end
    end
end

local function read_number(p, n, i)
    local to = i
    while to < n and (p[to] >= 48 and p[to] <= 57 or p[to] == 43 or p[to] == 45 or p[to] == 46 or bor(p[to], 32) == 101) do
        to = to + 1
    end
    local text = ffi.string(p + i, to - i)
    local whole, rest = text:match("^%-?(%d+)(.*)$")
    if not whole or (#whole > 1 and byte(whole) == 48) then error(MALFORMED, 0) end
    local exponent = rest:match("^%.%d+(.*)$") or rest
    if exponent ~= "" and not exponent:find("^[eE][+-]?%d+$") then error(MALFORMED, 0) end
    local number = tonumber(text)
    if not number or number == huge or number == -huge then error(MALFORMED, 0) end
    return number, to
end

local function read_array(p, n, i, depth)
    local list, count = {}, 0
    i = skip_space(p, n, i)
    if i < n and p[i] == 93 then return setmetatable(list, array_mt), i + 1 end
    while true do
        count = count + 1
        list[count], i = read_value(p, n, i, depth)
        i = skip_space(p, n, i)
        if i >= n then error(MALFORMED, 0) end
        if p[i] == 93 then return list, i + 1 end
        if p[i] ~= 44 then error(MALFORMED, 0) end
        i = i + 1
    end
end

local function read_object(p, n, i, depth)
    local object, key = {}, nil
    i = skip_space(p, n, i)
    if i < n and p[i] == 125 then return object, i + 1 end
    while true do
        i = skip_space(p, n, i)
        if i >= n or p[i] ~= 34 then error(MALFORMED, 0) end
        key, i = read_string(p, n, i + 1)
        i = skip_space(p, n, i)
        if i >= n or p[i] ~= 58 then error(MALFORMED, 0) end
        object[key], i = read_value(p, n, i + 1, depth)
        i = skip_space(p, n, i)
        if i >= n then error(MALFORMED, 0) end
        if p[i] == 125 then return object, i + 1 end
        if p[i] ~= 44 then error(MALFORMED, 0) end
        i = i + 1
    end
end

local WORDS = { [116] = { "true", true }, [102] = { "false", false }, [110] = { "null", null } }

function read_value(p, n, i, depth)
    i = skip_space(p, n, i)
    if i >= n then error(MALFORMED, 0) end
    local c = p[i]
    if c == 34 then return read_string(p, n, i + 1) end
    if c == 91 or c == 123 then
        if depth >= MAX_DEPTH then error(MALFORMED, 0) end
        return (c == 91 and read_array or read_object)(p, n, i + 1, depth + 1)
    end
    local word = WORDS[c]
    if not word then return read_number(p, n, i) end
    local length = #word[1]
    if i + length > n or ffi.string(p + i, length) ~= word[1] then error(MALFORMED, 0) end
    return word[2], i + length
end

local function read_strictly(p, n)
    if not is_utf8(p, n) then error(MALFORMED, 0) end
    local value, i = read_value(p, n, 0, 0)
    if skip_space(p, n, i) < n then error(MALFORMED, 0) end
    return value
end

--- Return the value of `n` bytes of JSON at `p`; raise for any that W51 calls malformed.
function read_json(p, n)
    if is_common(p, n) then return cjson_decode(ffi.string(p, n)) end
    return read_strictly(p, n)
end

end

-- Writing. cjson has 14 digits for a number and takes what is not UTF-8, so text is written here, at `out`,
-- which grows and is used again for every frame.

local out, out_bytes = buffer_t(65536), 65536

local function reserve(position, n)
    if position + n <= out_bytes then return end
    while position + n > out_bytes do out_bytes = out_bytes * 2 end
    local larger = buffer_t(out_bytes)
    ffi.copy(larger, out, position)
    out = larger
end

local function put(position, text)
    local n = #text
    reserve(position, n)
    ffi.copy(out + position, text, n)
    return position + n
end

local put_string, put_value
do

local ESCAPED = {}
for c = 0, 31 do ESCAPED[c] = format("\\u%04x", c) end
ESCAPED[34], ESCAPED[92], ESCAPED[8], ESCAPED[9], ESCAPED[10], ESCAPED[12], ESCAPED[13] =
    '\\"', "\\\\", "\\b", "\\t", "\\n", "\\f", "\\r"

local function put_escaped(position, text)
    for i = 1, #text do
        local c = byte(text, i)
        local escape = ESCAPED[c]
        if escape then
            position = put(position, escape)
        else
            reserve(position, 1)
            out[position] = c
            position = position + 1
        end
    end
    return position
end

function put_string(position, text)
    local n = #text
    local p = ffi.cast(const_bytes_t, text)
    local high, odd = 0, false
    for i = 0, n - 1 do
        local c = p[i]
        high = bor(high, c)
        if c < 32 or c == 34 or c == 92 then odd = true end
    end
    if high >= 0x80 and not is_utf8(p, n) then
        invalid("data holds %s, which is not UTF-8: send raw bytes as events.bytes(...)", quoted(sub(text, 1, 40)))
    end
    reserve(position, n + 2)
    out[position] = 34
    if odd then
        position = put_escaped(position + 1, text)
        reserve(position, 1)
    else
        ffi.copy(out + position + 1, text, n)
        position = position + n + 1
    end
    out[position] = 34
    return position + 1
end

local function number_text(value)
    if value ~= value or value == huge or value == -huge then
        invalid("data holds %s, which JSON cannot carry: send null or a text", tostring(value))
    end
    if value == floor(value) and value > -EXACT and value < EXACT then
        if value == 0 and 1 / value < 0 then return "-0.0" end
        return format("%d", value)
    end
    local text = format("%.14g", value)
    if tonumber(text) ~= value then text = format("%.16g", value) end
    if tonumber(text) ~= value then text = format("%.17g", value) end
    return text
end

--- Return the length of a table that is an array, `nil` for an object.
local function array_length(value)
    local count, highest = 0, 0
    for key in pairs(value) do
        if type(key) ~= "number" or key < 1 or key ~= floor(key) then return nil end
        count = count + 1
        if key > highest then highest = key end
    end
    if count == 0 then return getmetatable(value) == array_mt and 0 or nil end
    -- As cjson: holes are null, unless most of it would be holes.
    if highest > 10 and highest > 2 * count then return nil end
    return highest
end

local function put_key(position, key)
    local of = type(key)
    if of == "number" then return put_string(position, number_text(key)) end
    if of ~= "string" then invalid("data has a key of type %s: use strings or numbers", of) end
    return put_string(position, key)
end

local function put_table(position, value, depth)
    if depth >= MAX_DEPTH then invalid("data is nested more than %d deep, or contains itself: flatten it", MAX_DEPTH) end
    local n = array_length(value)
    reserve(position, 2)
    if n then
        out[position] = 91
        position = position + 1
        for i = 1, n do
            if i > 1 then position = put(position, ",") end
            position = put_value(position, value[i], depth + 1)
        end
        return put(position, "]")
    end
    out[position] = 123
    position = position + 1
    local first = true
    for key, item in pairs(value) do
        if not first then position = put(position, ",") end
        first = false
        position = put(put_key(position, key), ":")
        position = put_value(position, item, depth + 1)
    end
    return put(position, "}")
end

local int64_t, uint64_t = ffi.typeof("int64_t"), ffi.typeof("uint64_t")

function put_value(position, value, depth)
    local of = type(value)
    if of == "string" then return put_string(position, value) end
    if of == "number" then return put(position, number_text(value)) end
    if of == "boolean" then return put(position, value and "true" or "false") end
    if value == nil or value == null then return put(position, "null") end
    if getmetatable(value) == Bytes then
        invalid("bytes cannot be part of other data: send them alone, with events.bytes(...) as the data")
    end
    if of == "table" then return put_table(position, value, depth) end
    if of == "cdata" and (ffi.istype(int64_t, value) or ffi.istype(uint64_t, value)) then
        return put(position, digits(value))
    end
    invalid("data holds a %s, which JSON cannot carry: send tables, strings, numbers and booleans", of)
end

end

--- Write the data field (W9) at `position` and return where it ends.
local function put_data(position, data)
    if data == nil or data == null then return position end
    if getmetatable(data) == Bytes then
        return put(put(position, "\0"), data.bytes)
    end
    return put_value(position, data, 0)
end

--- Write a batch (W12) at `position`; return where it ends and how many events it has.
local function put_batch(position, items)
    if type(items) ~= "table" then invalid("items must be a list of {path, data} pairs, not %s", type(items)) end
    position = put(position, "[")
    for i = 1, #items do
        local item = items[i]
        if type(item) ~= "table" then invalid("item %d must be a {path, data} pair, not %s", i, type(item)) end
        check_text(item[1], "path")
        position = put_string(put(position, i > 1 and ",[" or "["), item[1])
        if item[2] ~= nil then position = put_value(put(position, ","), item[2], 2) end
        position = put(position, "]")
    end
    return put(position, "]"), #items
end

------------------------------------------------------------------------------------------------------------
-- Patterns (W16 to W22)

local function split(text, separator)
    local parts, from = {}, 1
    while true do
        local at = text:find(separator, from, true)
        if not at then
            parts[#parts + 1] = sub(text, from)
            return parts
        end
        parts[#parts + 1] = sub(text, from, at - 1)
        from = at + 1
    end
end

local compile_pattern, matches, prefixes
do

local FOREIGN = { [">"] = true, ["#"] = true, ["+"] = true }

--- Return the alternatives of a bracket as a sorted list and as a set, `nil` if it breaks the grammar.
local function alternatives(part)
    if not part:find("^%(.*%)$") then return nil end
    local list, set = {}, {}
    for _, choice in ipairs(split(sub(part, 2, -2), "|")) do
        if choice == "" or FOREIGN[choice] or choice:find("[*()]") then return nil end
        if not set[choice] then list[#list + 1] = choice end
        set[choice] = true
    end
    sort(list)
    return list, set
end

--- Compile one segment: `"*"`, `"**"`, or `{list=, set=}` of the literals that it selects.
local function compile_segment(part, pattern, what)
    local function no(advice) invalid("%s is not a %s: %s", quoted(pattern), what, advice) end
    if part == "*" or part == "**" then return part end
    if part == ">" or part == "#" then no("for everything below use '**', not '" .. part .. "'") end
    if part == "+" then no("for exactly one segment use '*', not '+'") end
    if part == "" then no("it has an empty segment, use single dots between words, or '**' for any depth") end
    local list, set = alternatives(part)
    if list then return { list = list, set = set } end
    if part:find("^%(.*%)$") then no("a bracket lists whole literal segments, use '(a|b)'") end
    if part:find("*", 1, true) then no("a wildcard is a whole segment, use 'orders.*' or 'orders.**'") end
    if part:find("[()|]") then no("a bracket opens and closes within one segment, use '(a|b)'") end
    return { list = { part }, set = { [part] = true } }
end

function compile_pattern(pattern, what)
    check_text(pattern, what)
    if pattern == "*" then return { "**" } end
    local segments = split(pattern, ".")
    for i, part in ipairs(segments) do segments[i] = compile_segment(part, pattern, what) end
    return segments
end

--- Return whether a compiled pattern selects a name.
function matches(segments, name)
    -- On a mismatch, go back to the last `**` and let it take one word more. Going back further is not needed.
    local words = split(name, ".")
    local s, w, star, mark = 1, 1, nil, nil
    while w <= #words do
        local segment = segments[s]
        if segment == "**" then
            star, mark = s, w
            s = s + 1
        elseif segment and (segment == "*" or segment.set[words[w]]) then
            s, w = s + 1, w + 1
        elseif star then
            mark = mark + 1
            s, w = star + 1, mark
        else
            return false
        end
    end
    while segments[s] == "**" do s = s + 1 end
    return s > #segments
end

--- Return the texts before the first wildcard, and whether there is none.
local function literal_heads(segments)
    local heads = { "" }
    for i, segment in ipairs(segments) do
        local dot = i > 1 and "." or ""
        if segment == "**" then return heads, false end
        if segment == "*" or #heads * #segment.list > MAX_PREFIXES then
            for k, head in ipairs(heads) do heads[k] = head .. dot end
            return heads, false
        end
        local longer = {}
        for _, head in ipairs(heads) do
            for _, word in ipairs(segment.list) do longer[#longer + 1] = head .. dot .. word end
        end
        heads = longer
    end
    return heads, true
end

local function is_everything(segments)
    for _, segment in ipairs(segments) do
        if segment ~= "**" then return false end
    end
    return true
end

--- Return the ZeroMQ subscriptions of compiled patterns, sorted; `kind` may be `nil`.
function prefixes(system, kind)
    local heads, literal = literal_heads(system)
    if literal then
        local tails, ended = { "" }, false
        if kind and not is_everything(kind) then
            tails, ended = literal_heads(kind)
            if #heads * #tails > MAX_PREFIXES then tails, ended = { "" }, false end
        end
        local both = {}
        for _, head in ipairs(heads) do
            for _, tail in ipairs(tails) do both[#both + 1] = head .. "\0" .. tail .. (ended and "\0" or "") end
        end
        heads = both
    end
    sort(heads)
    return heads
end

end

------------------------------------------------------------------------------------------------------------
-- Loss (W27 to W41): a channel decodes the frames that reach it, and counts those that did not

local Decoder
do

--- Decodes and counts the frames of one channel. `lost`, `malformed` and `received` count from the join.
Decoder = {}
Decoder.__index = Decoder

function Decoder.new(system, kind, limit)
    return setmetatable({
        systems = compile_pattern(system, "system pattern"),
        kinds = kind and compile_pattern(kind, "kind pattern") or nil,
        limit = limit or MAX_STREAMS,
        topics = {}, topic_count = 0,
        -- Streams in use are young. When there are `limit` of these they become the old ones, which are then
        -- forgotten. So the `limit` used last are always known.
        young = {}, old = {}, young_count = 0, has_old = false,
        forgetful = true,
        lost = 0, malformed = 0, received = 0,
        gaps = {}, -- those of the latest frame
        stamp = { seq = false, born = false, settled = false, first = false, time = false },
        last_topic = nil, last_origin = nil, last_stream = nil,
    }, Decoder)
end

--- Note when the channel joined: the times of W38 and W28, in microseconds; `nil` if they are unknown.
function Decoder:join(announced, joined)
    self.announced, self.joined = announced, joined
    self.forgetful = joined == nil
end

--- Return the topic of a frame that begins with `key`, `nil` if its names are malformed.
function Decoder:find_topic(key, system_bytes)
    local system, kind = sub(key, 1, system_bytes), sub(key, system_bytes + 2, -2)
    for _, name in ipairs { system, kind } do
        if name == "" or name:find("[*()|]") or has_empty_segment(name) or not is_utf8_text(name) then return nil end
    end
    local wanted = matches(self.systems, system) and (not self.kinds or matches(self.kinds, kind))
    if self.topic_count >= MAX_TOPICS then self.topics, self.topic_count = {}, 0 end
    local topic = { key = key, system = system, kind = kind, wanted = wanted }
    self.topics[key] = topic
    self.topic_count = self.topic_count + 1
    return topic
end

local function find_byte(p, from, to, wanted)
    for i = from, to - 1 do
        if p[i] == wanted then return i end
    end
    return to
end

--- Return the origin of the stamp in `p[from..to-1]` and fill `stamp`; `nil` if it is malformed (W5 to W8).
local function read_stamp(stamp, p, from, to)
    local dot = find_byte(p, from, to, 46)
    local length = dot - from
    if length < 8 or length > 16 or dot == to then return nil end
    for i = from, dot - 1 do
        local c = p[i]
        if not (c >= 48 and c <= 57 or c >= 97 and c <= 102) then return nil end
    end
    local at = dot + 1
    dot = find_byte(p, at, to, 46)
    local seq = decimal(p, at, dot)
    if not seq or seq == 0 then return nil end
    stamp.seq = seq
    at = min(dot + 1, to); dot = find_byte(p, at, to, 46); stamp.born = decimal(p, at, dot) or false
    at = min(dot + 1, to); dot = find_byte(p, at, to, 46); stamp.settled = decimal(p, at, dot) or false
    at = min(dot + 1, to); dot = find_byte(p, at, to, 46); stamp.first = decimal(p, at, dot) or false
    at = min(dot + 1, to); dot = find_byte(p, at, to, 46); stamp.time = decimal(p, at, dot) or false
    return ffi.string(p + from, length)
end

--- Return which number is due when a stream is first seen, `nil` for nothing (W29).
function Decoder:first_due(stamp)
    local settled, first = stamp.settled, stamp.first
    if stamp.born and self.joined and stamp.born > self.joined then return 1 end
    if not settled then return stamp.seq end
    if self.announced and settled <= self.announced then return nil end
    if first and first > 0 and first <= stamp.seq and not self.forgetful then return first end
    return stamp.seq
end

function Decoder:lose(topic, origin, due, seq)
    if due < seq then
        local events = tonumber(seq - due)
        self.lost = self.lost + events
        insert(self.gaps, {
            origin = origin, system = topic.system, kind = topic.kind, first = due, last = seq - 1, events = events,
        })
    end
end

function Decoder:find_stream(topic, origin)
    if topic == self.last_topic and origin == self.last_origin then return self.last_stream end
    local key = topic.key .. origin
    local stream = self.young[key]
    if not stream then
        stream = self.old[key]
        if stream then
            self.old[key] = nil
            self:keep_stream(key, stream)
        end
    end
    if stream then self.last_topic, self.last_origin, self.last_stream = topic, origin, stream end
    return stream
end

function Decoder:keep_stream(key, stream)
    if self.young_count >= self.limit then
        if self.has_old then -- what is forgotten may come back: then neither 1 nor `first` is due (W34)
            if self.joined and self.latest_born and self.latest_born > self.joined then
                self.joined = self.latest_born
            end
            self.forgetful = true
        end
        self.old, self.young, self.young_count = self.young, {}, 0
        self.has_old = true
        self.last_topic = nil
    end
    self.young[key] = stream
    self.young_count = self.young_count + 1
end

--- Count what a mark shows that was lost before the stream was counted (W40).
function Decoder:count_head(topic, origin, stream, stamp)
    local settled, first, begin = stamp.settled, stamp.first, stream.begin
    if self.forgetful or not settled or not first or first == 0 or first >= begin then return end
    if self.announced and settled <= self.announced or begin - first > MAX_GAP then return end
    self:lose(topic, origin, first, begin)
    stream.begin = first
end

--- Count a frame of `events` events; return false if its number is too high (W41).
function Decoder:count(topic, origin, events)
    local stamp = self.stamp
    local seq = stamp.seq
    local stream = self:find_stream(topic, origin)
    if stream and stream.due == seq and events > 0 then -- the common case
        stream.due = seq + events
        return true
    end
    local due
    if stream then due = stream.due else due = self:first_due(stamp) end
    if due and seq > due and seq - due > MAX_GAP then return false end
    if not stream then
        local born = stamp.born
        if born and (not self.latest_born or born > self.latest_born) then self.latest_born = born end
        if not due then return true end
        stream = { begin = due, due = due }
        self:keep_stream(topic.key .. origin, stream)
    elseif events == 0 then
        self:count_head(topic, origin, stream, stamp)
    end
    self:lose(topic, origin, due, seq)
    if events > 0 then
        stream.due = seq + events
    elseif seq > due then
        stream.due = seq
    end
    return true
end

--- Return the rows of a batch, `nil` if it is malformed (W12).
local function check_rows(rows, stamped)
    if type(rows) ~= "table" then return nil end
    local n = #rows
    if n == 0 then return getmetatable(rows) == array_mt and stamped and rows or nil end
    for i = 1, n do
        local row = rows[i]
        if type(row) ~= "table" then return nil end
        local path = row[1]
        if type(path) ~= "string" or path == "" or path:find("\0", 1, true) or row[3] ~= nil then return nil end
    end
    return rows
end

local function plain(value)
    if value == null then return nil end
    return value
end

--- Decode a frame; return its event, or `nil` and the list of events of a batch, or nothing.
-- `gaps` then holds what it showed as lost.
function Decoder:feed(p, n)
    if self.gaps[1] then self.gaps = {} end
    if n > 0 and p[0] == 0xFF then return nil end
    local system_end = find_byte(p, 0, n, 0)
    local kind_end = find_byte(p, min(system_end + 1, n), n, 0)
    local path_end = find_byte(p, min(kind_end + 1, n), n, 0)
    local stamp_end = find_byte(p, min(path_end + 1, n), n, 0)
    local key = ffi.string(p, min(kind_end + 1, n))
    local topic = stamp_end < n and (self.topics[key] or self:find_topic(key, system_end)) or nil
    if not topic then return self:reject() end
    if not topic.wanted then return nil end

    local origin
    if stamp_end > path_end + 1 then
        origin = read_stamp(self.stamp, p, path_end + 1, stamp_end)
        if not origin then return self:reject() end
    end
    local at = stamp_end + 1
    local path_bytes = path_end - kind_end - 1
    if path_bytes == 0 then return self:feed_batch(topic, origin, p + at, n - at) end
    if not is_utf8(p + kind_end + 1, path_bytes) then return self:reject() end

    local data
    if at < n then
        if p[at] == 0 then
            data = setmetatable({ bytes = ffi.string(p + at + 1, n - at - 1) }, Bytes)
        else
            local well
            well, data = pcall(read_json, p + at, n - at)
            if not well then return self:reject() end
            if data == null then data = nil end
        end
    end
    local path = ffi.string(p + kind_end + 1, path_bytes)
    if not origin then
        self.received = self.received + 1
        return { system = topic.system, kind = topic.kind, path = path, data = data }
    end
    if not self:count(topic, origin, 1) then return self:reject() end
    self.received = self.received + 1
    local stamp = self.stamp
    local time = stamp.time
    return {
        system = topic.system, kind = topic.kind, path = path, data = data,
        origin = origin, seq = stamp.seq, time = time and tonumber(time) / 1e6 or nil,
    }
end

function Decoder:feed_batch(topic, origin, p, n)
    if n == 0 or p[0] == 0 then return self:reject() end
    local well, rows = pcall(read_json, p, n)
    rows = well and check_rows(rows, origin) or nil
    if not rows or origin and not self:count(topic, origin, #rows) then return self:reject() end
    local stamp = self.stamp
    local seq = origin and stamp.seq
    local time = origin and stamp.time and tonumber(stamp.time) / 1e6 or nil
    for i = 1, #rows do
        rows[i] = {
            system = topic.system, kind = topic.kind, path = rows[i][1], data = plain(rows[i][2]),
            origin = origin, seq = seq and seq + (i - 1) or nil, time = time,
        }
    end
    self.received = self.received + #rows
    if #rows > 0 then return nil, rows end
end

function Decoder:reject()
    self.malformed = self.malformed + 1
    return nil
end

end

------------------------------------------------------------------------------------------------------------
-- Names in the directory (R2, R5, R6, W26)

local function is_id(text) return #text >= 8 and #text <= 32 and not text:find("[^0-9a-f]") end

local function parse_epoch(text)
    if #text < 1 or #text > 18 or text:find("[^0-9]") or byte(text) == 48 then return nil end
    local p = ffi.cast(const_bytes_t, text)
    return decimal(p, 0, #text)
end

--- Return what a file name in the directory is: `"entry", id, epoch, overflow`, `"socket", id` and so on.
local function parse_name(name)
    if name == "token" then return "token" end
    local id, rest = name:match("^([0-9a-f]+)%.(.*)$")
    if not id or not is_id(id) then return nil end
    if rest == "sock" then return "socket", id end
    if rest == "member" or rest == "new" then return rest, id end
    local number, overflow = rest:match("^([0-9]+)%.([a-z]+)$")
    local epoch = number and parse_epoch(number)
    if epoch and (overflow == "drop" or overflow == "block") then return "entry", id, epoch, overflow end
    return nil
end

--- Return the id and epoch of a sentinel, `nil` for any other topic.
local function parse_sentinel(topic)
    local id, number = topic:match("^\255([0-9a-f]+)%.([0-9]+)$")
    if not id or not is_id(id) then return nil end
    if #number > 18 or byte(number) == 48 then return nil end
    return id, parse_epoch(number)
end

local function is_bus_name(name)
    return type(name) == "string" and #name <= 64 and name:find("^[%w_][%w._-]*$") ~= nil and not name:find("[\128-\255]")
end

------------------------------------------------------------------------------------------------------------
-- The machine: files, clocks, random ids, fork

local ARM = ffi.arch:find("arm") ~= nil
local K = ffi.new(ffi.typeof([[struct { static const int O_RDONLY = 0, O_RDWR = 2, O_CREAT = 0x40, O_EXCL = 0x80,
    O_NONBLOCK = 0x800, O_CLOEXEC = 0x80000, O_DIRECTORY = $, O_NOFOLLOW = $, LOCK_SH = 1, LOCK_EX = 2, LOCK_NB = 4,
    ENOENT = 2, EINTR = 4, EAGAIN = 11, EEXIST = 17, ECONNREFUSED = 111,
    S_IFREG = 0x8000, S_IFDIR = 0x4000, S_IFSOCK = 0xC000, S_IFLNK = 0xA000; }]],
    ARM and 0x4000 or 0x10000, ARM and 0x8000 or 0x20000))

local int_t = ffi.typeof("int[1]")
local timespec_t = ffi.typeof("struct { int64_t sec; int64_t nsec; }")
local statx_t = ffi.typeof [[struct {
    uint32_t mask, blksize; uint64_t attributes; uint32_t nlink, uid, gid; uint16_t mode, pad0; uint64_t ino, size,
    blocks, attributes_mask; int64_t atime_sec; uint32_t atime_nsec, pad1; int64_t btime_sec; uint32_t btime_nsec, pad2;
    int64_t ctime_sec; uint32_t ctime_nsec, pad3; int64_t mtime_sec; uint32_t mtime_nsec, pad4;
    uint32_t rdev_major, rdev_minor, dev_major, dev_minor; uint64_t spare[16]; }]]
local dirent_t = ffi.typeof("struct { uint64_t ino; int64_t off; uint16_t reclen; uint8_t type; char name[256]; } *")
local sockaddr_t = ffi.typeof("struct { uint16_t family; char path[108]; }")
local pollfd_t = ffi.typeof("struct { int fd; short events, revents; }")

local clock = timespec_t()

--- Return seconds of CLOCK_MONOTONIC.
local function now()
    C.clock_gettime(1, clock)
    return tonumber(clock.sec) + tonumber(clock.nsec) / 1e9
end

--- Return microseconds of CLOCK_REALTIME.
local function wall_micros()
    C.clock_gettime(0, clock)
    return tonumber(clock.sec) * 1000000 + floor(tonumber(clock.nsec) / 1000)
end

local function pause(seconds) C.poll(nil, 0, max(1, floor(seconds * 1000))) end

local function read_file(path, most)
    local file = io.open(path, "rb")
    if not file then return nil end
    local text = file:read(most or "*a")
    file:close()
    return text
end

--- Return what must be subtracted from CLOCK_MONOTONIC to get the machine's time, `nil` if unknown (W8).
local function namespace_offset()
    local offsets = read_file("/proc/self/timens_offsets")
    if not offsets then return 0 end -- a kernel without time namespaces
    local seconds, nanos = offsets:match("monotonic%s+(%-?%d+)%s+(%-?%d+)")
    if not seconds then return nil end
    if tonumber(seconds) == 0 and tonumber(nanos) == 0 then return 0 end
    local one, other = statx_t(), statx_t()
    if C.statx(-100, "/proc/self/ns/time", 0, 0x7ff, one) ~= 0 then return nil end
    if C.statx(-100, "/proc/self/ns/time_for_children", 0, 0x7ff, other) ~= 0 then return nil end
    if one.ino ~= other.ino then return nil end
    return tonumber(seconds) * 1000000 + floor(tonumber(nanos) / 1000)
end

local OFFSET = namespace_offset()

--- Return microseconds of the machine's CLOCK_MONOTONIC, `nil` if they cannot be known.
local function micros()
    if not OFFSET then return nil end
    C.clock_gettime(1, clock)
    return tonumber(clock.sec) * 1000000 + floor(tonumber(clock.nsec) / 1000) - OFFSET
end

local random_fd

local function random_bytes(n)
    random_fd = random_fd or C.open("/dev/urandom", K.O_RDONLY + K.O_CLOEXEC)
    local bytes = buffer_t(n)
    if C.read(random_fd, bytes, n) ~= n then random_fd = nil; refused("read /dev/urandom") end
    return ffi.string(bytes, n)
end

local function new_id()
    return (random_bytes(8):gsub(".", function(c) return format("%02x", byte(c)) end))
end

-- A page that the kernel clears in a forked child (MADV_WIPEONFORK): one read tells whose child this is.
local own_page

local function watch_fork()
    if own_page then return end
    local page = C.mmap(nil, 4096, 3, 0x22, -1, 0)
    if ffi.cast("intptr_t", page) == -1 then refused("map a page") end
    C.madvise(page, 4096, 18)
    own_page = ffi.cast("volatile int32_t *", page)
    own_page[0] = 1
end

--- Return whether this is a child that was forked from the process that opened its buses.
local function is_forked() return own_page ~= nil and own_page[0] ~= 1 end

--- Return what `path` itself is, `nil` if it is not there or cannot be seen.
local function status(path)
    local info = statx_t()
    if C.statx(-100, path, 0x100, 0x7ff, info) ~= 0 then return nil end
    return info
end

local function status_of(fd)
    local info = statx_t()
    if C.statx(fd, "", 0x1000, 0x7ff, info) ~= 0 then return nil end
    return info
end

local function file_type(info) return band(info.mode, 0xF000) end

local function same_file(a, b)
    return a ~= nil and b ~= nil and a.ino == b.ino and a.dev_major == b.dev_major and a.dev_minor == b.dev_minor
end

--- Return the names in a directory, `nil` if it cannot be read.
local function list(path)
    local dir = C.opendir(path)
    if dir == nil then return nil end
    local names = {}
    while true do
        local row = C.readdir(dir)
        if row == nil then break end
        names[#names + 1] = ffi.string(ffi.cast(dirent_t, row).name)
    end
    C.closedir(dir)
    return names
end

local function write_all(fd, text, what)
    if C.write(fd, text, #text) ~= #text then refused(what) end
end

--- Remove a regular file or socket; return whether that was done (R32).
local function remove_file(path)
    local info = status(path)
    if not info then return false end
    local kind = file_type(info)
    return (kind == K.S_IFREG or kind == K.S_IFSOCK) and C.unlink(path) == 0
end

------------------------------------------------------------------------------------------------------------
-- The directory (R1 to R13, R46 to R50)

--- Return the root of all buses, and whether someone named it; `env` reads a variable of the environment.
local function find_root(env)
    local function variable(name)
        local value = env(name)
        return value ~= "" and value or nil
    end
    local chosen = variable("ZBUS_DIR")
    if chosen then return chosen, true end
    local uid = C.geteuid()
    local runtime = variable("XDG_RUNTIME_DIR")
    if runtime then
        local info = statx_t()
        if C.statx(-100, runtime, 0, 0x7ff, info) ~= 0 or info.uid == uid then return runtime .. "/zbus", false end
    end
    return (variable("TMPDIR") or "/tmp") .. "/zbus-" .. uid, false
end

local Directory, json_text, program_name
do

local function absolute(path)
    if sub(path, 1, 1) == "/" then return path end
    local buffer = ffi.new("char[4096]")
    if C.getcwd(buffer, 4096) == nil then refused("find the working directory") end
    return ffi.string(buffer) .. "/" .. path
end

local function denied(path, why) fail(PERMISSION_DENIED, "%s", path .. " " .. why) end

local function in_group(gid)
    if C.geteuid() == 0 or C.getegid() == gid then return true end
    local groups = ffi.new("unsigned[1024]")
    for i = 0, C.getgroups(1024, groups) - 1 do
        if groups[i] == gid then return true end
    end
    return false
end

local SHARING = "Several users share a bus in a directory prepared for a group of theirs, with ZBUS_DIR set to it for"
    .. " all of them: install -d -g GROUP -m 2770 DIRECTORY"

--- Return whether a directory is prepared for its group (R47).
local function is_prepared(info) return band(info.mode, 0x438) == 0x438 and band(info.mode, 2) == 0 end

--- Refuse a directory that another user controls (R46, R47); return its group if it is prepared for one.
local function check_directory(path, default, last)
    local info = status(path)
    if not info then refused("use " .. path) end
    local uid, mode = C.geteuid(), info.mode
    if file_type(info) == K.S_IFLNK then denied(path, "is a symbolic link: name the directory itself") end
    if file_type(info) ~= K.S_IFDIR then denied(path, "is not a directory: remove it or set ZBUS_DIR") end
    if band(mode, 2) ~= 0 then denied(path, "is writable by everybody, who could forge events: chmod o-w it") end
    if info.uid ~= uid and default then
        denied(path, "belongs to user " .. info.uid .. ", and it is where user " .. uid .. " has buses of their own:"
            .. " remove it, or set ZBUS_DIR. " .. SHARING)
    end
    if is_prepared(info) then
        if not in_group(info.gid) then
            denied(path, "is for group " .. info.gid .. ", and this process is not in it: add the user to the group")
        end
        if band(mode, 0x200) ~= 0 then
            denied(path, "has the sticky bit, so nobody could clean up after another user: chmod -t it")
        end
        return info.gid, band(mode, 0xFFF)
    end
    local passes = not last and info.uid == 0 and band(mode, 0x10) == 0 and C.access(path, 1) == 0
    if info.uid ~= uid and not passes then
        denied(path, "belongs to user " .. info.uid .. ", for them alone: share another directory with them. " .. SHARING)
    end
    return nil
end

--- Create a directory unless it exists, with the rights of R48.
local function make_directory(path, group, mode)
    if status(path) then return end
    if not group then
        if C.mkdir(path, 0x1C0) ~= 0 and ffi.errno() ~= K.EEXIST then refused("create " .. path) end
        return
    end
    local scratch = path:match("^(.*)/") .. "/." .. new_id() .. ".new"
    if C.mkdir(scratch, band(mode, 0x1FF)) ~= 0 then refused("create " .. path) end
    C.chown(scratch, 0xFFFFFFFF, group)
    if C.chmod(scratch, mode) ~= 0 or C.rename(scratch, path) ~= 0 then
        local errno = ffi.errno()
        C.rmdir(scratch)
        if not status(path) then refused("create " .. path, errno) end
    end
end

local function make_parents(path)
    local parent = path:match("^(.*)/[^/]*$")
    if parent == "" or parent == nil or status(parent) then return end
    make_parents(parent)
    if C.mkdir(parent, 0x1FF) ~= 0 and ffi.errno() ~= K.EEXIST then refused("create " .. parent) end
end

--- Refuse to create a root for root inside a directory of another user (R49).
local function check_owner_of_parent(path)
    local parent = path
    repeat parent = parent:match("^(.*)/[^/]*$") or "" until parent == "" or status(parent)
    local info = statx_t()
    if C.statx(-100, parent == "" and "/" or parent, 0, 0x7ff, info) ~= 0 then return end
    if C.geteuid() == 0 and info.uid ~= 0 and band(info.mode, 2) == 0 and not is_prepared(info) then
        denied(path, "would be root's, in a directory of user " .. info.uid .. ", who could not use it: run this as"
            .. " that user. " .. SHARING)
    end
end

--- The directory of one bus. `path` ends without a slash; `token` is mapped.
Directory = {}
Directory.__index = Directory

function Directory.open(bus)
    if not is_bus_name(bus) then
        invalid("%s is not a bus name: use letters, digits, '_', '-', '.', at most 64", quoted(bus))
    end
    local root, named = find_root(os.getenv)
    root = absolute(root):gsub("(.)/+$", "%1")
    local self = setmetatable({ path = root .. "/v1/" .. bus, dead = {} }, Directory)
    local length = #self.path + 22
    if length > 107 then
        invalid("%s is too long: its sockets would have %d bytes of at most 107; shorten ZBUS_DIR, or the bus name",
            self.path, length)
    end
    if not status(root) then
        check_owner_of_parent(root)
        make_parents(root)
        local parent = status(root:match("^(.*)/") == "" and "/" or root:match("^(.*)/"))
        local closed = named and parent and is_prepared(parent) and band(parent.mode, 7) == 0
        make_directory(root, closed and parent.gid or nil, closed and bor(band(parent.mode, 0xFFF), 0x1C0) or nil)
    end
    self.group, self.mode = check_directory(root, not named, false)
    make_directory(root .. "/v1", self.group, self.mode)
    self.group, self.mode = check_directory(root .. "/v1", not named, false)
    make_directory(self.path, self.group, self.mode)
    self.group, self.mode = check_directory(self.path, not named, true)
    self:hold()
    self:open_token()
    return self
end

--- Hold a shared lock on the directory, so that cleaners leave it alone (R35).
function Directory:hold()
    self.fd = C.open(self.path, K.O_RDONLY + K.O_DIRECTORY + K.O_CLOEXEC)
    if self.fd < 0 then refused("open " .. self.path) end
    C.flock(self.fd, K.LOCK_SH + K.LOCK_NB)
end

function Directory:at(name) return self.path .. "/" .. name end

--- Create a file under a scratch name and write `text` to it; return its descriptor and path.
function Directory:create(id, text)
    local path = self:at(id .. ".new")
    local fd = C.open(path, K.O_RDWR + K.O_CREAT + K.O_EXCL + K.O_NOFOLLOW + K.O_CLOEXEC, ffi.cast("int", 0x180))
    if fd < 0 then refused("write " .. path) end
    if self.group then
        C.fchown(fd, 0xFFFFFFFF, self.group)
        C.fchmod(fd, 0x1B0)
    end
    if C.write(fd, text, #text) ~= #text then
        local errno = ffi.errno()
        C.close(fd)
        C.unlink(path)
        refused("write " .. path, errno)
    end
    return fd, path
end

--- Give a socket the rights of its directory (R48); in a private one its mode does not matter.
function Directory:share(path)
    if self.group then
        C.chown(path, 0xFFFFFFFF, self.group)
        C.chmod(path, 0x1B0)
    end
end

local function is_unlocked(path)
    local fd = C.open(path, K.O_RDONLY + K.O_NONBLOCK + K.O_NOFOLLOW + K.O_CLOEXEC)
    if fd < 0 then return false end
    local info = status_of(fd)
    local free = info ~= nil and file_type(info) == K.S_IFREG and C.flock(fd, K.LOCK_SH + K.LOCK_NB) == 0
    C.close(fd)
    return free
end

function Directory:has_live_member()
    for _, name in ipairs(list(self.path) or {}) do
        if parse_name(name) == "member" and not is_unlocked(self:at(name)) then return true end
    end
    return false
end

function Directory:open_token()
    local path = self:at("token")
    if not status(path) then
        local orphaned = self:has_live_member() and not status(path)
        local fd, scratch = self:create(new_id(), random_bytes(8))
        C.close(fd)
        C.link(scratch, path)
        C.unlink(scratch)
        if orphaned then pause(1.25) end -- until the others have noticed (R10)
    end
    self.token_fd = C.open(path, K.O_RDWR + K.O_NOFOLLOW + K.O_NONBLOCK + K.O_CLOEXEC)
    if self.token_fd < 0 then refused("open " .. path) end
    local info = status_of(self.token_fd)
    if file_type(info) ~= K.S_IFREG then denied(path, "is not a file: remove it") end
    if info.size < 8 then self:touch() end
    local page = C.mmap(nil, 8, 1, 1, self.token_fd, 0)
    if ffi.cast("intptr_t", page) == -1 then refused("map " .. path) end
    self.token_page = page
    self.token = ffi.cast("volatile uint64_t *", page)
end

--- Tell everyone that the roster has changed.
function Directory:touch()
    if C.pwrite(self.token_fd, random_bytes(8), 8, 0) ~= 8 then refused("write " .. self:at("token")) end
end

function Directory:close()
    if self.token_page then C.munmap(self.token_page, 8) end
    if self.token_fd then C.close(self.token_fd) end
    C.close(self.fd)
    self.token_page, self.token_fd = nil, nil
end

--- Return whether a process listens at `path` (R26). In doubt, it does.
local function answers(path)
    local info = status(path)
    if not info then return ffi.errno() ~= K.ENOENT end
    if file_type(info) ~= K.S_IFSOCK then return false end
    local probe = C.socket(1, 2 + K.O_NONBLOCK + K.O_CLOEXEC, 0)
    if probe < 0 then refused("look who is on the bus") end
    local address = sockaddr_t(1, path)
    local failed = C.connect(probe, address, ffi.sizeof(address)) ~= 0
    local errno = ffi.errno()
    C.close(probe)
    return not (failed and (errno == K.ECONNREFUSED or errno == K.ENOENT))
end

function Directory:alive(id) return answers(self:at(id .. ".sock")) end

local function fingerprint(info)
    return info and tostring(info.dev_minor) .. tostring(info.ino) .. tostring(info.ctime_sec) .. info.ctime_nsec or ""
end

--- Return the ingresses that are listed: epoch and overflow by id (R7, R13). Those known as dead are left out.
function Directory:entries()
    local found
    repeat
        local token = self.token[0]
        found = {}
        for _, name in ipairs(list(self.path) or {}) do
            local is, id, epoch, overflow = parse_name(name)
            if is == "entry" and not (found[id] and found[id].epoch >= epoch) then
                found[id] = { id = id, epoch = tonumber(epoch), overflow = overflow }
            end
        end
    until self.token[0] == token
    for id, mark in pairs(self.dead) do
        if not found[id] then
            self.dead[id] = nil
        elseif fingerprint(status(self:at(id .. ".sock"))) == mark then
            found[id] = nil
        end
    end
    return found
end

--- Remove what a dead ingress has left (R27, R33).
function Directory:bury(id)
    self.dead[id] = fingerprint(status(self:at(id .. ".sock")))
    local removed = false
    for _, name in ipairs(list(self.path) or {}) do
        local is, of = parse_name(name)
        if is == "entry" and of == id and remove_file(self:at(name)) then removed = true end
    end
    if remove_file(self:at(id .. ".sock")) then removed = true end
    if removed then self:touch() end
end

--- Remove what dead processes have left, for `seconds` at most (R28, R34).
function Directory:reap(seconds)
    local until_, old = now() + seconds, wall_micros() / 1e6 - 86400
    local checked = {}
    for _, name in ipairs(list(self.path) or {}) do
        if now() > until_ then return end
        local is, id = parse_name(name)
        if (is == "entry" or is == "socket") and not checked[id] then
            checked[id] = true
            if not self:alive(id) then self:bury(id) end
        elseif is == "member" and is_unlocked(self:at(name)) then
            remove_file(self:at(name))
        elseif is == "new" then
            local info = status(self:at(name))
            if info and tonumber(info.mtime_sec) < old then remove_file(self:at(name)) end
        end
    end
end

function json_text(value)
    local n = put_value(0, value, 0) -- which may replace `out`
    return ffi.string(out, n)
end

function program_name()
    local name = arg and arg[0] or "luajit"
    name = name:match("[^/]*$"):gsub("[\128-\255]", function(c) return format("\\x%02x", byte(c)) end)
    return name
end

--- Write the entry of a new ingress and tell everyone; return the time of W38.
function Directory:announce(id, overflow, text)
    local fd, scratch = self:create(id, text)
    C.close(fd)
    local entry = self:at(id .. ".1." .. overflow)
    if C.rename(scratch, entry) ~= 0 then refused("write " .. entry) end
    local announced = micros()
    local told, err = pcall(self.touch, self)
    if not told then
        remove_file(entry)
        error(err, 0)
    end
    return announced
end

--- Take an ingress off the roster (R18).
function Directory:withdraw(id, overflow)
    remove_file(self:at(id .. ".1." .. overflow))
    remove_file(self:at(id .. ".sock"))
    pcall(self.touch, self)
end

end

--- Return the connections of this process whose peer's socket has one of `ids`, as {fd = id}.
local function connections(ids)
    local found = {}
    local address, length = sockaddr_t(), ffi.new("unsigned[1]")
    for _, name in ipairs(list("/proc/self/fd") or {}) do
        local fd = tonumber(name)
        length[0] = ffi.sizeof(address)
        if fd and C.getpeername(fd, address, length) == 0 and address.family == 1 and length[0] > 2 then
            local path = ffi.string(address.path, min(length[0] - 2, 108)):match("^[^%z]*")
            local id = path:match("([0-9a-f]+)%.%l+$")
            if id and ids[id] then found[fd] = id end
        end
    end
    return found
end

--- Return how many bytes the peer of a connection has not read (SIOCOUTQ).
local function unread_bytes(fd)
    local count = int_t()
    return C.ioctl(fd, 0x5411, ffi.cast("int *", count)) == 0 and count[0] or 0
end

------------------------------------------------------------------------------------------------------------
-- ZeroMQ

local Z = ffi.new [[struct { static const int PAIR = 0, PUB = 1, SUB = 2, XPUB = 9, SUBSCRIBE = 6, EVENTS = 15, LINGER = 17,
    BACKLOG = 19, RECONNECT_IVL_MAX = 21, MAXMSGSIZE = 22, SNDHWM = 23, RCVHWM = 24, SNDTIMEO = 28, IMMEDIATE = 39,
    XPUB_NODROP = 69, DONTWAIT = 1, POLLIN = 1; }]]

local pollitem_t = ffi.typeof("struct { void *socket; int fd; short events, revents; }[?]")
local size_t = ffi.typeof("size_t[1]")
local option = int_t()

local function set(socket, name, value)
    option[0] = value
    if zmq.zmq_setsockopt(socket, name, option, 4) ~= 0 then refused("set an option of ZeroMQ") end
end

local function new_socket(context, kind, options)
    local socket = zmq.zmq_socket(context, kind)
    if socket == nil then refused("create a ZeroMQ socket") end
    set(socket, Z.LINGER, 0)
    for name, value in pairs(options) do set(socket, name, value) end
    return socket
end

local function limit_frames(socket, most)
    zmq.zmq_setsockopt(socket, Z.MAXMSGSIZE, ffi.new("int64_t[1]", most), 8)
end

local function subscribe(socket, prefix)
    if zmq.zmq_setsockopt(socket, Z.SUBSCRIBE, prefix, #prefix) ~= 0 then refused("subscribe") end
end

local events_value, events_size = int_t(), size_t(4)

--- Have libzmq process at once what its threads have sent to a socket.
local function process_commands(socket)
    if socket ~= nil then
        events_size[0] = 4
        zmq.zmq_getsockopt(socket, Z.EVENTS, events_value, events_size)
    end
end

------------------------------------------------------------------------------------------------------------
-- Threads: each has a Lua state of its own, because a state belongs to one thread at a time

local Thread = {}
Thread.__index = Thread

-- Runs in the new state: casts what it gets to a C function and calls that.
local FORWARDER = [[
local ffi = require("ffi")
local proxy, front, back, control = ...
local function pointer(number, of) return ffi.cast(of, ffi.cast("uintptr_t", number)) end
local run = pointer(proxy, "int (*)(void *, void *, void *, void *)")
front, back, control = pointer(front, "void *"), pointer(back, "void *"), pointer(control, "void *")
require("jit").off()
callback = ffi.cast("void *(*)(void *)", function() run(front, back, nil, control) return nil end)
return tonumber(ffi.cast("uintptr_t", ffi.cast("void *", callback)))
]]

local function address_of(pointer) return tonumber(ffi.cast("uintptr_t", ffi.cast("void *", pointer))) end

--- Start a thread. `source`, run in a new state with the arguments, returns the address of the C function that
-- the thread runs.
local function start_thread(source, ...)
    local state = C.luaL_newstate()
    if state == nil then refused("create a Lua state", 12) end
    C.luaL_openlibs(state)
    local failed = C.luaL_loadstring(state, source)
    local count = select("#", ...)
    for i = 1, count do
        local value = select(i, ...)
        if type(value) == "string" then C.lua_pushstring(state, value) else C.lua_pushnumber(state, value) end
    end
    if failed ~= 0 or C.lua_pcall(state, count, 1, 0) ~= 0 then
        local message = C.lua_tolstring(state, -1, nil)
        message = message ~= nil and ffi.string(message) or "out of memory"
        C.lua_close(state)
        fail(UNAVAILABLE, "cannot start a thread: %s", message)
    end
    local run = ffi.cast("void *", ffi.cast("uintptr_t", C.lua_tonumber(state, -1)))
    -- The thread blocks every signal: signals are for the program.
    local all, before, thread = ffi.new("uint8_t[128]"), ffi.new("uint8_t[128]"), ffi.new("unsigned long[1]")
    ffi.fill(all, 128, 0xFF)
    C.pthread_sigmask(0, all, before)
    local errno = C.pthread_create(thread, nil, run, nil)
    C.pthread_sigmask(2, before, nil)
    if errno ~= 0 then
        C.lua_close(state)
        refused("start a thread", errno)
    end
    return setmetatable({ state = state, thread = thread }, Thread)
end

function Thread:join()
    C.pthread_join(self.thread[0], nil)
    C.lua_close(self.state)
end

------------------------------------------------------------------------------------------------------------
-- What the user's state and the keeper share: plain C memory, under one lock

local topic_t = ffi.typeof [[struct {
    double seq, marked, first, born, settled, bytes;
    int32_t doubt, retired, head_bytes, tail_bytes;
    uint8_t origin[17], tail[80], *head; }]]
local topic_p = ffi.typeof("$ *", topic_t)
local link_t = ffi.typeof [[struct {
    char id[40]; double epoch, shown, since, missed; int32_t blocking, full; }]]
local link_p = ffi.typeof("$ *", link_t)
local doubt_t = ffi.typeof("struct { $ *topic; double settled, first; int32_t owed; }", topic_t)
local channel_t = ffi.typeof [[struct {
    double id, received, lost, malformed; int32_t open, blocking; char *system, *kind; }]]
local channel_p = ffi.typeof("$ *", channel_t)
local shared_t = ffi.typeof([[struct {
    uint8_t mutex[64];
    void *context, *drop, *block;
    $ **topics; $ **links; $ *doubts; $ **channels;
    int32_t topic_count, link_count, doubt_count, channel_count, topic_room, link_room, doubt_room, channel_room;
    int32_t stop, restless, active, again, to_block, left_out, tries, drop_links, block_links, wake, io_thread;
    int32_t topics_sent, retiring;
    double answered_at, joins, join_timeouts, send_timeouts, sent_events;
    double lost_before, malformed_before, bytes_before;
    int32_t member; char *path; }]], topic_t, link_t, doubt_t, channel_t)
local shared_p = ffi.typeof("$ *", shared_t)

local function allocate(of, size)
    local memory = C.calloc(1, size)
    if memory == nil then refused("allocate memory", 12) end
    return ffi.cast(of, memory)
end

local function allocate_text(text)
    local memory = allocate("char *", #text + 1)
    ffi.copy(memory, text, #text)
    return memory
end

--- Make room for one more item in a list of `shared`: `name` stands for its pointer, room and count.
local function grow(shared, name, size)
    local room, count = shared[name .. "_room"], shared[name .. "_count"]
    if count < room then return end
    room = max(16, 2 * room)
    local list_name = name .. "s"
    local larger = C.realloc(shared[list_name], room * size)
    if larger == nil then refused("allocate memory", 12) end
    shared[list_name] = ffi.cast(ffi.typeof(shared[list_name]), larger)
    shared[name .. "_room"] = room
end

local pointer_bytes = ffi.sizeof("void *")

local function append(shared, name, pointer)
    grow(shared, name, pointer_bytes)
    local count = shared[name .. "_count"]
    shared[name .. "s"][count] = pointer
    shared[name .. "_count"] = count + 1
end

local function take_out(shared, name, pointer)
    local list_, count = shared[name .. "s"], shared[name .. "_count"]
    for i = 0, count - 1 do
        if list_[i] == pointer then
            list_[i] = list_[count - 1]
            shared[name .. "_count"] = count - 1
            return
        end
    end
end

local message = buffer_t(256)

--- Read what peers have subscribed to (W25, R20 step 3).
local function read_subscriptions(shared)
    for _, socket in ipairs { shared.drop, shared.block } do
        while socket ~= nil do
            local n = zmq.zmq_recv(socket, message, 255, Z.DONTWAIT)
            if n < 0 then
                if ffi.errno() ~= K.EINTR then break end
            elseif n > 1 and n <= 255 and message[1] == 0xFF then
                local id, epoch = parse_sentinel(ffi.string(message + 1, n - 1))
                epoch = tonumber(epoch)
                for i = 0, id and shared.link_count - 1 or -1 do
                    local link = shared.links[i]
                    if ffi.string(link.id) == id then
                        if message[0] == 1 then
                            if epoch > link.shown then
                                shared.joins = shared.joins + 1
                                link.shown = epoch
                            end
                            shared.answered_at = now()
                            if link.missed > 0 then -- it was given up, and is back (R42)
                                shared.again = 1
                                if link.blocking == 1 then shared.to_block = 1 end
                                if link.missed <= link.shown then link.missed = 0 end
                            end
                        elseif epoch == link.shown then -- the connection broke (R15)
                            link.shown, link.since = 0, now()
                        end
                    end
                end
            end
        end
    end
    local left_out = 0
    for i = 0, shared.link_count - 1 do
        if shared.links[i].missed > 0 then left_out = 1 end
    end
    shared.left_out = left_out
end

------------------------------------------------------------------------------------------------------------
-- Marks (W46 to W48, R57 to R59): what a publisher at rest tells of its topics

local send_marks, force, tell_twin, check_full, is_in_doubt
do

local function mark_text(topic, settled, first)
    local function told(number) return number >= 0 and format("%d", number) or "" end
    return format("%s\0%s.%d.%s.%s.%s.%d\0[]", ffi.string(topic.head, topic.head_bytes), ffi.string(topic.origin),
        topic.seq + 1, told(topic.born), told(settled), settled >= 0 and told(first) or "", wall_micros())
end

local function is_unmarked(topic) return topic.first <= topic.seq and topic.seq ~= topic.marked end

function is_in_doubt(shared)
    if shared.left_out == 1 then return true end
    for i = 0, shared.link_count - 1 do
        if shared.links[i].full == 1 then return true end
    end
    return false
end

--- Send a frame to all `drop` links, or to none; return whether it was sent.
local function send_strictly(shared, p, n)
    if shared.drop_links == 0 or zmq.zmq_send(shared.drop, p, n, Z.DONTWAIT) >= 0 then return true end
    process_commands(shared.drop) -- there may be news of room
    return zmq.zmq_send(shared.drop, p, n, Z.DONTWAIT) >= 0
end

--- Send a frame to the `drop` links that have room. The others are in doubt: libzmq tells nobody which (R57).
function force(shared, p, n)
    if send_strictly(shared, p, n) then return end
    for i = 0, shared.link_count - 1 do
        local link = shared.links[i]
        if link.blocking == 0 then link.full = 1 end
    end
    set(shared.drop, Z.XPUB_NODROP, 0)
    zmq.zmq_send(shared.drop, p, n, Z.DONTWAIT)
    set(shared.drop, Z.XPUB_NODROP, 1)
    shared.active = 1
end

--- Note that somebody may not have got a mark, so that it is sent again later.
local function doubt(shared, topic, settled, first)
    if topic.doubt > 0 then
        local known = shared.doubts[topic.doubt - 1]
        if known.topic == topic and known.settled == settled and known.first == first then return end
    end
    local count = shared.doubt_count
    if count >= MAX_MARKS then return end
    grow(shared, "doubt", ffi.sizeof(doubt_t))
    local entry = shared.doubts[count]
    entry.topic, entry.settled, entry.first, entry.owed = topic, settled, first, 0
    shared.doubt_count = count + 1
    topic.doubt = count + 1
end

--- Send a mark and its twin; return false if somebody has no room for it, and it is not yet time to drop it.
local function send_mark(shared, topic, settled, first)
    local mark = mark_text(topic, settled, first)
    if shared.to_block == 1 and shared.block_links > 0 then zmq.zmq_send(shared.block, mark, #mark, Z.DONTWAIT) end
    for _, frame in ipairs { mark, "\255#" .. mark } do
        if not send_strictly(shared, frame, #frame) then
            shared.tries = shared.tries + 1
            if shared.tries < 10 then return false end
            force(shared, frame, #frame)
        end
    end
    shared.tries = 0
    return true
end

--- Forget the topics of an origin that has ended: their marks are sent.
local function free_retired(shared)
    local kept, sent = 0, 0
    for i = 0, shared.topic_count - 1 do
        local topic = shared.topics[i]
        if topic.retired == 1 then
            sent = sent + topic.bytes
            C.free(topic.head)
            C.free(topic)
        else
            shared.topics[kept] = topic
            kept = kept + 1
        end
    end
    shared.topic_count, shared.retiring = kept, 0
    shared.bytes_before = shared.bytes_before + sent
end

--- Send marks that are owed, `most` of them; return whether none is left.
function send_marks(shared, most)
    if shared.again == 1 then
        shared.again = 0
        for i = 0, shared.doubt_count - 1 do shared.doubts[i].owed = 1 end
    end
    local in_doubt = is_in_doubt(shared)
    local i = 0
    while i < shared.doubt_count do
        local entry = shared.doubts[i]
        if entry.owed == 1 then
            if most == 0 or not send_mark(shared, entry.topic, entry.settled, entry.first) then return false end
            most = most - 1
            in_doubt = in_doubt or is_in_doubt(shared)
            entry.owed = 0
        end
        i = i + 1
    end
    for k = 0, shared.topic_count - 1 do
        local topic = shared.topics[k]
        if is_unmarked(topic) then
            if most == 0 or not send_mark(shared, topic, topic.settled, topic.first) then return false end
            most = most - 1
            topic.marked = topic.seq
            in_doubt = in_doubt or is_in_doubt(shared)
            if in_doubt then doubt(shared, topic, topic.settled, topic.first) end
        end
    end
    shared.to_block = 0
    if not in_doubt then -- everybody has got what was sent
        for k = 0, shared.doubt_count - 1 do shared.doubts[k].topic.doubt = 0 end
        shared.doubt_count = 0
        if shared.retiring == 1 then free_retired(shared) end
    end
    return true
end

--- Before a topic gets another `settled`: tell by a twin what was sent with the one so far (W48).
function tell_twin(shared, topic)
    if not is_unmarked(topic) then return end
    topic.marked = topic.seq
    local twin = "\255#" .. mark_text(topic, topic.settled, topic.first)
    if shared.drop_links > 0 then force(shared, twin, #twin) end
    if is_in_doubt(shared) then doubt(shared, topic, topic.settled, topic.first) end
end

--- Return how often the I/O thread of the context has fallen asleep, if it sleeps now; 0 if it cannot be seen.
-- A sleeping one has written all that there was room for.
local function io_thread_asleep(shared)
    if shared.io_thread == 0 then
        for _, task in ipairs(list("/proc/self/task") or {}) do
            local name = read_file("/proc/self/task/" .. task .. "/comm")
            if name and name:find(format("%d/ZMQbg/IO/0", shared.wake), 1, true) then shared.io_thread = tonumber(task) end
        end
        if shared.io_thread == 0 then return 0 end
    end
    local text = read_file(format("/proc/self/task/%d/status", shared.io_thread)) or ""
    if text:match("State:%s+(%a)") ~= "S" then return nil end
    return tonumber(text:match("voluntary_ctxt_switches:%s+(%d+)") or 0)
end

--- Look which links that were full have read everything, and owe the marks in doubt again if one has.
function check_full(shared)
    local ids, any = {}, false
    for i = 0, shared.link_count - 1 do
        local link = shared.links[i]
        if link.full == 1 then ids[ffi.string(link.id)] = link; any = true end
    end
    if not any then return end
    local asleep = io_thread_asleep(shared)
    if not asleep then return end
    local unread = {}
    for fd, id in pairs(connections(ids)) do
        if unread_bytes(fd) > 0 then unread[id] = true end
    end
    if io_thread_asleep(shared) ~= asleep then return end
    for id, link in pairs(ids) do
        if not unread[id] then
            process_commands(shared.drop) -- only now does libzmq use that link again
            link.full = 0
            shared.again = 1
        end
    end
end

end

------------------------------------------------------------------------------------------------------------
-- The member file (R29 to R31, R53 to R55)

local PACE = 0.005

do

local counters_t = ffi.typeof("uint64_t[5]")

--- Write the counters if they have changed.
local function write_counters(shared, written)
    local lost, malformed = shared.lost_before, shared.malformed_before
    for i = 0, shared.channel_count - 1 do
        lost = lost + shared.channels[i].lost
        malformed = malformed + shared.channels[i].malformed
    end
    local values = { lost, malformed, shared.join_timeouts, shared.send_timeouts, 0 }
    local text = concat(values, " ")
    if text ~= written then C.pwrite(shared.member, counters_t(values), 32, 0) end
    return text
end

--- Return what this process has sent and received so far, as R55 says, without `time`; of `most` topics at most.
local function numbers_text(shared, most)
    local seqs, bytes, received = {}, shared.bytes_before, 0
    for i = 0, shared.topic_count - 1 do
        local topic = shared.topics[i]
        bytes = bytes + topic.bytes
        if topic.retired == 0 then seqs[#seqs + 1] = -topic.seq end
    end
    sort(seqs)
    local least, topics = -(seqs[most] or 0), {}
    for i = 0, shared.topic_count - 1 do
        local topic = shared.topics[i]
        if #topics < most and topic.retired == 0 and topic.seq >= least then topics[#topics + 1] = topic end
    end
    sort(topics, function(a, b) return a.seq > b.seq end)
    local rows = {}
    for i, topic in ipairs(topics) do
        local system, kind = ffi.string(topic.head, topic.head_bytes):match("^(%Z+)%z(%Z+)%z$")
        rows[i] = { system, kind, topic.seq, topic.bytes }
    end
    local channels = setmetatable({}, array_mt)
    for i = 0, shared.channel_count - 1 do
        local channel = shared.channels[i]
        received = received + channel.received
        channels[i + 1] = {
            id = channel.id, system = ffi.string(channel.system), kind = ffi.string(channel.kind),
            overflow = channel.blocking == 1 and "block" or "drop",
            received = channel.received, lost = channel.lost, malformed = channel.malformed, superseded = 0, mismatched = 0,
        }
    end
    local text = json_text({
        sent = { events = shared.sent_events, bytes = bytes, topics = shared.topics_sent },
        received = { events = received, channels = shared.channel_count }, joins = shared.joins,
        topics = setmetatable(rows, array_mt), channels = channels,
    })
    return text
end

--- Publish live numbers (R54) if they have changed; return their text and how many publications there are.
local function publish_numbers(shared, last, publications)
    local text = numbers_text(shared, 1000)
    if #text > 262000 then text = numbers_text(shared, 100) end -- long names
    if text == last then return last, publications end
    local whole = format('{"time":%d,%s', wall_micros(), sub(text, 2))
    if #whole > 262136 then return last, publications end
    local n = publications + 1
    local slot = 65536 + n % 2 * 262144
    local length = ffi.new("uint64_t[1]", #whole)
    if C.pwrite(shared.member, ffi.string(length, 8) .. whole, #whole + 8, slot) ~= #whole + 8 then return last, publications end
    length[0] = n
    C.pwrite(shared.member, length, 8, 40)
    return text, n
end

------------------------------------------------------------------------------------------------------------
-- The keeper: a thread with a state of its own that runs this file. It sends the marks of a publisher at rest
-- (R58), looks for joiners who are back (R42), and keeps the member file up to date.

local REST, TICK = 0.2, 1

--- Look after the publisher; return after how many seconds to look again.
local function keep_marks(shared)
    if shared.active == 1 then -- something was sent since the last look
        shared.active = 0
        return REST
    end
    if C.pthread_mutex_trylock(shared.mutex) ~= 0 then return REST end
    local well, done = pcall(function()
        if shared.restless == 0 and not is_in_doubt(shared) then return true end
        if shared.left_out == 1 then read_subscriptions(shared) end
        check_full(shared)
        return send_marks(shared, 1000)
    end)
    if well and done then shared.restless = 0 end
    local wait = not well and TICK or not done and PACE or is_in_doubt(shared) and REST or TICK
    C.pthread_mutex_unlock(shared.mutex)
    return wait
end

local function keep(shared)
    local item, eight = pollfd_t(shared.wake, 1, 0), ffi.new("uint64_t[1]")
    local wait, counted, published, publications, next_tick = REST, nil, nil, 0, now() + TICK
    while shared.stop == 0 do
        item.revents = 0
        C.poll(item, 1, floor(max(0, min(wait, next_tick - now())) * 1000) + 1)
        if item.revents ~= 0 then
            C.read(shared.wake, eight, 8)
            if shared.stop ~= 0 then break end
        end
        wait = keep_marks(shared)
        if now() >= next_tick then
            next_tick = now() + TICK
            C.pthread_mutex_lock(shared.mutex)
            pcall(function()
                counted = write_counters(shared, counted)
                published, publications = publish_numbers(shared, published, publications)
            end)
            C.pthread_mutex_unlock(shared.mutex)
        end
    end
end

if STATE == "zbus keeper" then
    local shared = ffi.cast(shared_p, ffi.cast("uintptr_t", SHARED))
    require("jit").off() -- it sleeps nearly always
    keeper_callback = ffi.cast("void *(*)(void *)", function() pcall(keep, shared) return nil end)
    return tonumber(ffi.cast("uintptr_t", ffi.cast("void *", keeper_callback)))
end

end

-- Read now: the working directory may change.
local SOURCE = read_file(debug.getinfo(1, "S").source:gsub("^@", ""), "*a")

local function start_keeper(shared)
    return start_thread(SOURCE, "zbus keeper", address_of(shared))
end

------------------------------------------------------------------------------------------------------------
-- Publisher (R19 to R25, R40 to R43): one XPUB for each overflow policy in use

local Publisher
do

Publisher = {}
Publisher.__index = Publisher

local CHECK_FIRST, CHECK_LATEST, CHECKED_AT_ONCE = 0.005, 0.05, 4
local SHORT_TIMEOUT, SHORT_FOR, MAX_TIMEOUTS, MIN_CHECKS, BUSY_SHARE = 0.05, 60, 30, 5, 1 / 3
local STAMP_ROOM = 160

function Publisher.new(bus)
    return setmetatable({
        bus = bus, shared = bus.shared, directory = bus.directory, links = {}, topics = {}, topic_count = 0,
        origin = bus.origin, known = false, listed = false, settled = -1, short_until = -huge, checks = 0, busy = 0,
    }, Publisher)
end

--- Return the listening process of a link (SO_PEERCRED), `nil` if it is unknown.
local function listening_process(path)
    local probe = C.socket(1, 1 + K.O_NONBLOCK + K.O_CLOEXEC, 0)
    if probe < 0 then return nil end
    local address = sockaddr_t(1, path)
    local credentials, length = ffi.new("int[3]"), ffi.new("unsigned[1]", 12)
    local known = C.connect(probe, address, ffi.sizeof(address)) == 0
        and C.getsockopt(probe, 1, 17, credentials, length) == 0
    C.close(probe)
    return known and credentials[0] > 0 and credentials[0] or nil
end

--- Return whether a listener sends its greeting to a new connection within a quarter of a second.
local function greets(path)
    local probe = C.socket(1, 1 + K.O_NONBLOCK + K.O_CLOEXEC, 0)
    if probe < 0 then return true end
    local address = sockaddr_t(1, path)
    local greeted = true
    if C.connect(probe, address, ffi.sizeof(address)) == 0 then
        greeted = C.poll(pollfd_t(probe, 1, 0), 1, 250) ~= 0
    end
    C.close(probe)
    return greeted
end

--- Return the state of a process: when, its CPU seconds, whether a thread is ready, whether all are stopped.
local function process_state(pid)
    local tasks = list(format("/proc/%d/task", pid))
    if not tasks or C.clock_gettime(bor(lshift(bit.bnot(pid), 3), 2), clock) ~= 0 then return nil end
    local state = { cpu = tonumber(clock.sec) + tonumber(clock.nsec) / 1e9, ready = false, stopped = false }
    local seen, running = false, false
    for _, task in ipairs(tasks) do
        local text = read_file(format("/proc/%d/task/%s/stat", pid, task), 512)
        local letter = text and text:match("^.*%) (%a)")
        if letter then
            seen = true
            if letter == "R" or letter == "D" then state.ready = true end
            if not letter:find("[TtXZ]") then running = true end
        end
    end
    state.stopped, state.at = seen and not running, now()
    return state
end

--- Begin to wait for the epoch that a link awaits.
local function expect(link, at)
    link.first, link.pause, link.due = at, CHECK_FIRST, at + CHECK_FIRST
    link.seen, link.begun, link.peer, link.checks, link.busy = link.c.since, at, nil, 0, 0
end

--- Read the state of the process at the other end of a link.
local function check_peer(link)
    link.pid = link.pid or listening_process(link.path)
    local before = link.peer
    link.peer = link.pid and link.pid ~= C.getpid() and process_state(link.pid) or nil
    link.stopped = link.peer ~= nil and link.peer.stopped
    return before and link.peer and link.peer.ready and link.peer.cpu - before.cpu < 0.8 * (link.peer.at - before.at)
end

--- Return whether there is no point in waiting for a link any more (R40).
function Publisher:is_over(link, at, timeout)
    link.pause = min(2 * link.pause, CHECK_LATEST, max(CHECK_FIRST, timeout / 10))
    link.due = at + link.pause
    if at < link.begun + timeout / 2 then return false end
    if link.checks == 0 then link.own_checks, link.own_busy = self.checks, self.busy end
    local was_stopped = link.stopped
    local waits = check_peer(link)
    link.checks = link.checks + 1
    if waits then link.busy = link.busy + 1 end
    if was_stopped and not link.stopped then -- it runs again, so its time begins now
        link.begun, link.checks, link.busy, link.peer = at, 0, 0, nil
    end
    if at < link.begun + timeout then return false end
    if link.stopped or timeout == 0 or at >= link.first + MAX_TIMEOUTS * timeout then return true end
    if link.checks < MIN_CHECKS then return false end
    local own, own_busy = self.checks - link.own_checks, self.busy - link.own_busy
    if link.busy <= BUSY_SHARE * link.checks and own_busy <= BUSY_SHARE * own then return true end
    self.cpu_short_at = at
    link.begun, link.checks, link.busy, link.peer = at - timeout / 2, 0, 0, nil
    return false
end

local function is_awaited(c) return c.shown < c.epoch and c.missed < c.epoch end

--- Check a few of the links that are awaited; return how many are.
function Publisher:check_awaited(at, overslept)
    local due, count = {}, 0
    for _, link in pairs(self.links) do
        if is_awaited(link.c) then
            count = count + 1
            if link.seen ~= link.c.since then expect(link, at) end
            if link.due <= at then due[#due + 1] = link end
        end
    end
    if not due[1] then return count end
    self.checks = self.checks + 1
    if overslept then self.busy, self.cpu_short_at = self.busy + 1, at end
    sort(due, function(a, b) return a.due < b.due end)
    for i = 1, min(#due, CHECKED_AT_ONCE) do
        local link = due[i]
        local blocking = link.c.blocking == 1
        if not self.directory:alive(link.id) then
            self.directory:bury(link.id)
            self.listed = false
        elseif self:is_over(link, at, self:join_timeout(at, blocking)) then
            if blocking and (link.stopped or greets(link.path)) then
                expect(link, at)
            else
                link.c.missed = link.c.epoch
                self.shared.left_out = 1
                self.shared.join_timeouts = self.shared.join_timeouts + 1
                if at >= self.short_until then self.short_until = at + SHORT_FOR end
                count = count - 1
            end
        end
    end
    return count
end

--- Return how many seconds a joiner may take (R21, R22, R41).
function Publisher:join_timeout(at, blocking)
    local options = self.bus.options
    local timeout = blocking and options.send_timeout or options.join_timeout
    if at >= self.short_until then return timeout end
    return min(timeout, blocking and options.join_timeout or SHORT_TIMEOUT)
end

--- Return the socket for an overflow policy; create it the first time (W24, W53).
function Publisher:lane(overflow)
    local shared = self.shared
    if shared[overflow] == nil then
        local capacity = self.bus.options.capacity
        shared[overflow] = new_socket(shared.context, Z.XPUB, {
            [Z.XPUB_NODROP] = 1, [Z.IMMEDIATE] = 1, [Z.RECONNECT_IVL_MAX] = 5000,
            [Z.SNDHWM] = overflow == "block" and min(capacity, BLOCK_CAPACITY) or capacity,
            [Z.SNDTIMEO] = overflow == "block" and 20 or 0,
        })
    end
    return shared[overflow]
end

function Publisher:count_links(overflow, change)
    local name = overflow .. "_links"
    self.shared[name] = self.shared[name] + change
end

function Publisher:connect(entry, at)
    local socket = self:lane(entry.overflow)
    local path = self.directory:at(entry.id .. ".sock")
    if zmq.zmq_connect(socket, "ipc://" .. path) ~= 0 then refused("connect " .. path) end
    local c = allocate(link_p, ffi.sizeof(link_t))
    ffi.copy(c.id, entry.id)
    c.epoch, c.since, c.blocking = entry.epoch, at, entry.overflow == "block" and 1 or 0
    append(self.shared, "link", c)
    local link = { id = entry.id, overflow = entry.overflow, path = path, c = c }
    expect(link, at)
    self.links[entry.id] = link
    self:count_links(entry.overflow, 1)
end

function Publisher:disconnect(link)
    zmq.zmq_disconnect(self.shared[link.overflow], "ipc://" .. link.path)
    self:count_links(link.overflow, -1)
    take_out(self.shared, "link", link.c)
    C.free(link.c)
    self.links[link.id] = nil
end

--- List the directory; connect who is new, and disconnect who has gone (R20).
function Publisher:list()
    local entries = self.directory:entries()
    local gone = {}
    for id, link in pairs(self.links) do
        if not entries[id] then gone[#gone + 1] = link end
    end
    for _, link in ipairs(gone) do self:disconnect(link) end
    local at = now()
    for id, entry in pairs(entries) do
        local link = self.links[id]
        if link then
            if entry.epoch > link.c.epoch then
                link.c.epoch = entry.epoch
                expect(link, at)
            end
        elseif self.directory:alive(id) then
            self:connect(entry, at)
        else
            self.directory:bury(id)
            self.listed = false
        end
    end
end

--- Wait until a peer has sent something, `seconds` at most.
function Publisher:wait(seconds)
    local items, count = pollitem_t(2), 0
    for _, socket in ipairs { self.shared.drop, self.shared.block } do
        if socket ~= nil then
            items[count].socket, items[count].events = socket, Z.POLLIN
            count = count + 1
        end
    end
    if count == 0 then pause(seconds) else zmq.zmq_poll(items, count, max(1, floor(seconds * 1000))) end
end

--- Settle the links (R20); return false if somebody has not answered by `deadline`.
-- Unless `strict`, time does not count while joiners answer or wait for a CPU (R43).
function Publisher:settle(deadline, strict)
    local begun, at, overslept = now(), now(), false
    while true do
        local asof = micros()
        local token = self.directory.token[0] + 0ULL
        if self.listed ~= token then
            self.listed = token
            self:list()
        end
        read_subscriptions(self.shared)
        if self:check_awaited(at, overslept) == 0 then
            if self.directory.token[0] == token and self.listed == token then
                self.known, self.settled = token, asof or -1
                return true
            end
        else
            if at > deadline then
                local lately = max(self.shared.answered_at, self.cpu_short_at or 0)
                local most = begun + MAX_TIMEOUTS * self.bus.options.send_timeout
                if strict or at > lately + self.bus.options.join_timeout or at > most then return false end
            end
            local seconds = min(max(CHECK_FIRST, (at - begun) / 8), CHECK_LATEST)
            self:wait(seconds)
            local later = now()
            overslept = later > at + 2 * seconds
            at = later
        end
    end
end

--- Begin a new origin, because one has at most 65,536 topics (W35).
function Publisher:renew_origin()
    local shared = self.shared
    for i = 0, shared.topic_count - 1 do shared.topics[i].retired = 1 end
    shared.retiring = 1
    self.topics, self.topic_count = {}, 0
    self.origin = new_id()
    self.bus:show_origin(self.origin)
end

--- Add a topic that was born at `born`.
function Publisher:add_topic(system, kind, born)
    if self.topic_count >= MAX_TOPICS then self:renew_origin() end
    local topic = allocate(topic_p, ffi.sizeof(topic_t))
    local head = system .. "\0" .. kind .. "\0"
    topic.head, topic.head_bytes = ffi.cast(bytes_t, allocate_text(head)), #head
    ffi.copy(topic.origin, self.origin)
    topic.born, topic.settled, topic.first = born or -1, -2, 1
    append(self.shared, "topic", topic)
    local kinds = self.topics[system]
    if not kinds then
        kinds = {}
        self.topics[system] = kinds
    end
    kinds[kind] = topic
    self.topic_count = self.topic_count + 1
    self.shared.topics_sent = self.shared.topics_sent + 1
    return topic
end

--- Have the frames of a topic tell the present `settled`, and `first`.
function Publisher:renew_tail(topic)
    if topic.settled > -2 then tell_twin(self.shared, topic) end
    topic.settled, topic.first = self.settled, topic.seq + 1
    local tail
    if topic.born < 0 then
        tail = "...."
    elseif self.settled < 0 then
        tail = format(".%d...", topic.born)
    else
        tail = format(".%d.%d.%d.", topic.born, topic.settled, topic.first)
    end
    ffi.copy(topic.tail, tail)
    topic.tail_bytes = #tail
end

local stamp_seconds, stamp_second = buffer_t(32), -1

--- Write `number`, which is at least 0, so that it ends before `p[to]`; return where it begins.
local function put_number_before(p, to, number)
    repeat
        local rest = floor(number / 10)
        to = to - 1
        p[to] = 48 + (number - rest * 10)
        number = rest
    until number == 0
    return to
end

--- Write the time of W45 so that it ends before `p[to]`.
local function put_time_before(p, to)
    C.clock_gettime(0, clock)
    local second, micro = tonumber(clock.sec), floor(tonumber(clock.nsec) / 1000)
    if second ~= stamp_second then
        put_number_before(stamp_seconds, 10, second)
        stamp_second = second
    end
    for i = to - 1, to - 6, -1 do
        local rest = floor(micro / 10)
        p[i] = 48 + (micro - rest * 10)
        micro = rest
    end
    ffi.copy(p + to - 16, stamp_seconds, 10)
    return to - 16
end

--- Write all of a frame that stands before its data, which begins at `at`; return where it begins.
local function put_head_before(at, topic, path)
    out[at - 1] = 0
    local to = put_time_before(out, at - 1)
    to = to - topic.tail_bytes
    ffi.copy(out + to, topic.tail, topic.tail_bytes)
    to = put_number_before(out, to, topic.seq + 1)
    out[to - 1] = 46
    to = to - 17
    ffi.copy(out + to, topic.origin, 16)
    out[to - 1] = 0
    to = to - 1 - #path
    ffi.copy(out + to, path, #path)
    to = to - topic.head_bytes
    ffi.copy(out + to, topic.head, topic.head_bytes)
    return to
end

--- Note that a frame was sent.
local function advance(shared, topic, bytes, events)
    topic.seq, topic.bytes = topic.seq + events, topic.bytes + bytes
    shared.sent_events = shared.sent_events + events
    shared.active = 1
    if shared.restless == 0 then
        shared.restless = 1
        C.write(shared.wake, ffi.new("uint64_t[1]", 1), 8)
    end
end

local function refuse_size(bytes, most)
    invalid("the event has %d bytes of at most %d (max_event_bytes): send a reference to the data instead", bytes, most)
end

function Publisher:time_out(seconds)
    self.shared.send_timeouts = self.shared.send_timeouts + 1
    local ids = {}
    for id, link in pairs(self.links) do
        if link.c.blocking == 1 then ids[#ids + 1] = id end
    end
    local who = #ids == 1 and "subscriber " .. ids[1] .. " ('block')" or "a 'block' subscriber"
    if #ids == 0 then who = "a joining subscriber" end
    error(new_error(TIMEOUT, format("%s made no room within %g s, so the event was sent to nobody: try again, or see"
        .. " with 'zbus ls' who is on the bus", who, seconds), true), 0)
end

--- The long way: settle, and wait for room. Its data stands at `out[at..to-1]`.
function Publisher:drive(system, kind, path, at, to, events, timeout)
    local shared = self.shared
    local seconds = timeout or self.bus.options.send_timeout
    local deadline = now() + seconds
    while true do
        local kinds = self.topics[system]
        local topic = kinds and kinds[kind]
        local born = not topic and micros() or nil
        if self.known == false or self.directory.token[0] ~= self.known then
            if not self:settle(deadline, timeout ~= nil) then self:time_out(seconds) end
        end
        topic = topic or self:add_topic(system, kind, born)
        if topic.settled ~= self.settled then self:renew_tail(topic) end
        local from = put_head_before(at, topic, path)
        local bytes = to - from
        if bytes > self.bus.options.max_event_bytes then refuse_size(bytes, self.bus.options.max_event_bytes) end
        if shared.block_links == 0 or zmq.zmq_send(shared.block, out + from, bytes, 0) >= 0 then
            if shared.drop_links > 0 then force(shared, out + from, bytes) end
            return advance(shared, topic, bytes, events)
        end
        local errno = ffi.errno()
        if errno ~= K.EAGAIN and errno ~= K.EINTR then refused("send", errno) end
        if now() > deadline then self:time_out(seconds) end
        process_commands(shared.block)
    end
end

--- Send the data at `out[at..to-1]` as `events` events.
function Publisher:transmit(system, kind, path, at, to, events, timeout)
    local shared = self.shared
    local kinds = self.topics[system]
    local topic = kinds and kinds[kind]
    C.pthread_mutex_lock(shared.mutex)
    if topic and self.known ~= false and self.directory.token[0] == self.known and topic.settled == self.settled
        and shared.block_links == 0 then
        local from = put_head_before(at, topic, path)
        local bytes = to - from
        if bytes <= self.bus.options.max_event_bytes then
            if shared.drop_links > 0 and zmq.zmq_send(shared.drop, out + from, bytes, Z.DONTWAIT) < 0 then
                force(shared, out + from, bytes)
            end
            advance(shared, topic, bytes, events)
            C.pthread_mutex_unlock(shared.mutex)
            return
        end
    end
    local well, err = pcall(self.drive, self, system, kind, path, at, to, events, timeout)
    C.pthread_mutex_unlock(shared.mutex)
    if not well then error(err, 0) end
end

--- Send an event, or the batch `items`.
function Publisher:send(system, kind, path, data, items, timeout)
    local kinds = self.topics[system]
    if not (kinds and kinds[kind]) then check_topic(system, kind) end
    if items then path = "" else check_text(path, "path") end
    local at = #system + #kind + #path + STAMP_ROOM
    reserve(0, at)
    local to, events
    if items then to, events = put_batch(at, items) else to, events = put_data(at, data), 1 end
    if events == 0 then return 0 end
    self:transmit(system, kind, path, at, to, events, timeout)
    return events
end

--- Send the last marks; while somebody has no room for them, wait for that until `deadline` (R59).
function Publisher:finish(deadline)
    local shared = self.shared
    repeat
        C.pthread_mutex_lock(shared.mutex)
        local well, done = pcall(function()
            read_subscriptions(shared)
            check_full(shared)
            local sent = send_marks(shared, MAX_MARKS)
            for i = 0, shared.link_count - 1 do
                if shared.links[i].full == 1 then return false end
            end
            return sent
        end)
        C.pthread_mutex_unlock(shared.mutex)
        if done or not well then return end
        pause(PACE)
    until now() > deadline
end

--- Close the sockets; return duplicates of their connections (R25).
function Publisher:close(deadline)
    local shared, ids, held = self.shared, {}, {}
    for id, link in pairs(self.links) do
        if link.c.shown > 0 then ids[id] = true end
    end
    if next(ids) then
        for fd in pairs(connections(ids)) do
            local copy = C.dup(fd)
            if copy >= 0 then held[#held + 1] = copy end
        end
    end
    for _, overflow in ipairs { "drop", "block" } do
        if shared[overflow] ~= nil then
            set(shared[overflow], Z.LINGER, floor(max(0, deadline - now()) * 1000))
            zmq.zmq_close(shared[overflow])
            shared[overflow] = nil
        end
    end
    return held
end

end

------------------------------------------------------------------------------------------------------------
-- Ingress: what receives for one subscription. A thread in C takes frames from the unix socket to the queue of
-- the channel, so joins go on and queues fill up exactly, whatever the user's program does.
--
--     SUB, bound ── zmq_proxy_steerable ── PUB ─┬─ SUB of the channel: `capacity` frames
--                                               └─ SUB for twins (W49), which never gets full

local Ingress = {}
Ingress.__index = Ingress

local function open_sockets(self, topics, capacity)
    local context, blocking = self.bus.shared.context, self.overflow == "block"
    local front = new_socket(context, Z.SUB, {
        [Z.SNDHWM] = 0, [Z.RCVHWM] = min(capacity, BLOCK_CAPACITY), [Z.BACKLOG] = 4096,
    })
    self.front = front
    limit_frames(front, self.bus.options.max_event_bytes)
    self.back = new_socket(context, Z.PUB, { [Z.SNDHWM] = 1, [Z.XPUB_NODROP] = blocking and 1 or 0 })
    self.socket = new_socket(context, Z.SUB, { [Z.SNDHWM] = 0, [Z.RCVHWM] = max(1, capacity - 1) })
    for _, topic in ipairs(topics) do
        subscribe(front, topic)
        subscribe(self.socket, topic)
    end
    local inner = "inproc://" .. self.id
    zmq.zmq_bind(self.back, inner .. ".back")
    zmq.zmq_connect(self.socket, inner .. ".back")
    if not blocking then
        subscribe(front, "\255#")
        self.twins = new_socket(context, Z.SUB, { [Z.SNDHWM] = 0, [Z.RCVHWM] = MAX_MARKS })
        subscribe(self.twins, "\255#")
        zmq.zmq_connect(self.twins, inner .. ".back")
    end
    subscribe(front, "\255" .. self.id .. ".1")
    process_commands(self.back) -- so that both subscriptions are in force before the first frame
    self.control, self.controlled = new_socket(context, Z.PAIR, {}), new_socket(context, Z.PAIR, {})
    zmq.zmq_bind(self.control, inner .. ".control")
    zmq.zmq_connect(self.controlled, inner .. ".control")
    local scratch = self.bus.directory:at(self.id .. ".new")
    if zmq.zmq_bind(front, "ipc://" .. scratch) ~= 0 then refused("listen at " .. scratch) end
end

--- Join: once this returns, every event that is sent reaches the channel (R16).
function Ingress.open(bus, decoder, system, kind, overflow, capacity)
    local self = setmetatable({ bus = bus, id = new_id(), overflow = overflow, marks = {} }, Ingress)
    local directory = bus.directory
    bus.ingresses[self] = true
    local well, err = pcall(function()
        open_sockets(self, prefixes(decoder.systems, decoder.kinds), capacity)
        self.thread = start_thread(FORWARDER, address_of(zmq.zmq_proxy_steerable), address_of(self.front),
            address_of(self.back), address_of(self.controlled))
        local scratch, path = directory:at(self.id .. ".new"), directory:at(self.id .. ".sock")
        directory:share(scratch)
        if C.rename(scratch, path) ~= 0 then refused("listen at " .. path) end
        self.announced_once = true
        local announced = directory:announce(self.id, overflow, json_text({
            process = program_name(), pid = C.getpid(), language = "lua", member = bus.member_id, channels = 1,
            patterns = { { system, kind or "*", overflow } },
        }))
        decoder:join(announced, micros())
    end)
    if well then
        self:show(system, kind)
        return self
    end
    self:close()
    error(err, 0)
end

--- Let the keeper see the counters of the channel.
function Ingress:show(system, kind)
    local shared = self.bus.shared
    local c = allocate(channel_p, ffi.sizeof(channel_t))
    self.bus.channel_number = self.bus.channel_number + 1
    c.id, c.blocking = self.bus.channel_number, self.overflow == "block" and 1 or 0
    c.system, c.kind = allocate_text(system), allocate_text(kind or "*")
    C.pthread_mutex_lock(shared.mutex)
    append(shared, "channel", c)
    C.pthread_mutex_unlock(shared.mutex)
    self.counters = c
end

function Ingress:hide()
    local c, shared = self.counters, self.bus.shared
    if not c then return end
    self.counters = nil
    C.pthread_mutex_lock(shared.mutex)
    take_out(shared, "channel", c)
    shared.lost_before = shared.lost_before + c.lost
    shared.malformed_before = shared.malformed_before + c.malformed
    C.pthread_mutex_unlock(shared.mutex)
    C.free(c.system)
    C.free(c.kind)
    C.free(c)
end

local zmq_msg_t = ffi.typeof("struct { uint64_t _[8]; }")
local frame = zmq_msg_t()
zmq.zmq_msg_init(frame)

--- Return the next frame of a socket as a string, `nil` if there is none now.
local function take(socket)
    while zmq.zmq_msg_recv(frame, socket, Z.DONTWAIT) < 0 do
        if ffi.errno() ~= K.EINTR then return nil end
    end
    return ffi.string(zmq.zmq_msg_data(frame), zmq.zmq_msg_size(frame))
end

--- Keep what has arrived, and the marks after that.
function Ingress:drain()
    local held = {}
    if self.twins then
        for twin in take, self.twins do insert(self.marks, sub(twin, 3)) end
    end
    for text in take, self.socket do held[#held + 1] = text end
    for _, mark in ipairs(self.marks) do held[#held + 1] = mark end
    self.marks = {}
    return held
end

--- Leave the roster and close; return the frames that had arrived.
function Ingress:close()
    if self.closed then return {} end
    self.closed = true
    self.bus.ingresses[self] = nil
    local directory = self.bus.directory
    if self.announced_once then directory:withdraw(self.id, self.overflow) end
    C.unlink(directory:at(self.id .. ".new"))
    local held = {}
    -- A forwarder whose channel is full with `block` waits in its send: only the end of the channel frees it.
    if self.overflow == "block" and self.socket then
        held = self:drain()
        zmq.zmq_close(self.socket)
        self.socket = nil
    end
    if self.thread then
        zmq.zmq_send(self.control, "TERMINATE", 9, 0)
        self.thread:join()
    end
    if self.socket then held = self:drain() end
    for _, name in ipairs { "socket", "twins", "controlled", "control", "back", "front" } do
        if self[name] then
            zmq.zmq_close(self[name])
            self[name] = nil
        end
    end
    self:hide()
    return held
end

------------------------------------------------------------------------------------------------------------
-- Channel and subscription

-- Ingresses whose subscription was garbage: closed at the next call, since a finalizer comes by anywhere.
local garbage = {}

local function close_garbage()
    while garbage[1] do
        local ingress = remove(garbage)
        if not ingress.closed then ingress:close() end
    end
end

--- Where the events of a subscription arrive. Get it with `sub:channel()`.
-- @type Channel
local Channel = {}
Channel.__index = Channel

function Channel.new(decoder, on_gap)
    return setmetatable({
        decoder = decoder, on_gap = on_gap, batch = nil, batch_next = 1, held = nil, held_next = 1, known_gaps = {},
    }, Channel)
end

--- Note what the latest frame showed as lost, and tell the user.
function Channel:note_gaps()
    local gaps = self.decoder.gaps
    for i = 1, #gaps do
        insert(self.known_gaps, gaps[i])
        if #self.known_gaps > 1000 then remove(self.known_gaps, 1) end
        if self.on_gap then self.on_gap(gaps[i]) end
    end
end

--- Decode a frame; return its first event, or nothing.
function Channel:decode(p, n)
    local decoder = self.decoder
    local event, rows = decoder:feed(p, n)
    if rows then
        event, self.batch, self.batch_next = rows[1], rows, 2
    end
    local counters = self.ingress.counters
    if counters then
        counters.received, counters.lost, counters.malformed = decoder.received, decoder.lost, decoder.malformed
    end
    if decoder.gaps[1] then self:note_gaps() end
    return event
end

--- Return the next event that has arrived, `nil` if there is none now.
function Channel:next()
    local batch = self.batch
    if batch then
        local event = batch[self.batch_next]
        self.batch_next = self.batch_next + 1
        if event then return event end
        self.batch = nil
    end
    if self.held then return self:next_held() end
    local ingress = self.ingress
    while true do
        while zmq.zmq_msg_recv(frame, ingress.socket, Z.DONTWAIT) >= 0 do
            local event = self:decode(ffi.cast(const_bytes_t, zmq.zmq_msg_data(frame)), tonumber(zmq.zmq_msg_size(frame)))
            if event then return event end
        end
        if not ingress.twins then return nil end
        -- All that had arrived before these marks has been taken (W49).
        local marks = ingress.marks
        for i = 1, #marks do
            self:decode(ffi.cast(const_bytes_t, marks[i]), #marks[i])
            marks[i] = nil
        end
        for twin in take, ingress.twins do marks[#marks + 1] = sub(twin, 3) end
        if not marks[1] then return nil end
    end
end

--- Return the next event of a channel that was closed.
function Channel:next_held()
    while self.held_next <= #self.held do
        local text = self.held[self.held_next]
        self.held[self.held_next] = false
        self.held_next = self.held_next + 1
        local event = self:decode(ffi.cast(const_bytes_t, text), #text)
        if event then return event end
    end
    return nil
end

local wait_items = pollitem_t(2)

--- Wait until something may have arrived, `seconds` at most. Not compiled, so that Ctrl-C can end it.
local function wait_for(channels, seconds)
    local items, count = wait_items, 0
    if #channels > 1 then items = pollitem_t(2 * #channels) end
    for _, channel in ipairs(channels) do
        if not channel.held then
            for _, name in ipairs { "socket", "twins" } do
                if channel.ingress[name] then
                    items[count].socket, items[count].events = channel.ingress[name], Z.POLLIN
                    count = count + 1
                end
            end
        end
    end
    zmq.zmq_poll(items, count, seconds and max(0, math.ceil(min(seconds, 1e6) * 1000)) or 1000)
end
jit.off(wait_for)

--- Return the next event and true. It waits until there is one.
--
-- Once the subscription is closed and what had arrived is taken, it returns `nil, false`.
-- @tparam[opt] number timeout seconds to wait at most; forever by default
-- @treturn[1] table the event: `system`, `kind`, `path`, `data`, and `origin`, `seq` and `time` (seconds since 1970)
-- @treturn[1] boolean true
-- @treturn[2] nil
-- @treturn[2] boolean false
-- @treturn[2] Error if the time is over (kind Timeout, retryable): nothing is lost, and the channel is still open
function Channel:receive(timeout)
    if is_forked() and not self.held then
        return nil, false, new_error(CANCELED, "this process was forked from the one that subscribed: subscribe here")
    end
    if garbage[1] then close_garbage() end
    local event = self:next()
    if event then return event, true end
    local deadline = timeout and now() + timeout
    while not self.held do
        local left = deadline and deadline - now()
        if left and left <= 0 then
            return nil, false, new_error(TIMEOUT, format("no event within %g s", timeout), true)
        end
        wait_for({ self }, left)
        event = self:next()
        if event then return event, true end
    end
    return nil, false
end

--- How many events were lost so far: dropped because the queue was full.
function Channel:lost() return self.decoder.lost end
--- How many frames were skipped because they were no events.
function Channel:malformed() return self.decoder.malformed end
--- How many events were received so far.
function Channel:received() return self.decoder.received end
--- The latest 1,000 gaps: tables with `origin`, `system`, `kind`, `first`, `last` and `events`.
function Channel:gaps() return self.known_gaps end

--- A subscription, from `events.subscribe`.
-- @type Subscription
local Subscription = {}
Subscription.__index = Subscription

--- Return where the events arrive: always the same object, after `close` too.
function Subscription:channel() return self._channel end
--- How many events were lost so far: dropped because the queue was full.
function Subscription:lost() return self._channel:lost() end

--- Unsubscribe, and close the channel. What has arrived can still be received. Closing twice does nothing.
-- @treturn boolean true
function Subscription:close()
    local channel = self._channel
    if not channel.held then
        if is_forked() then channel.held = {} return true end
        channel.held = channel.ingress:close()
    end
    return true
end

------------------------------------------------------------------------------------------------------------
-- Bus

--- One process's place on a bus, from `events.open`. The functions of the module use one that is opened when it
-- is first needed.
-- @type Bus
local Bus = {}
Bus.__index = Bus

local open_buses = {}

local DEFAULTS = {
    capacity = CAPACITY, linger = LINGER, send_timeout = SEND_TIMEOUT, join_timeout = JOIN_TIMEOUT,
    max_event_bytes = MAX_EVENT_BYTES,
}

local function check_options(options, allowed)
    for name, value in pairs(options) do
        local like = allowed[name]
        if like == nil then invalid("there is no option %s", quoted(name)) end
        if type(value) ~= type(like) then invalid("%s must be a %s, not %s", name, type(like), type(value)) end
        if type(value) == "number" and (value ~= value or value < 0) then invalid("%s must not be negative", name) end
        if (name == "capacity") and (value < 1 or value ~= floor(value) or value > 2 ^ 31 - 1) then
            invalid("capacity must be an integer from 1 to 2147483647, not %s", tostring(value))
        end
        if name == "max_event_bytes" and (value < 276 or value ~= floor(value) or value > 2 ^ 31 - 1) then
            invalid("max_event_bytes must be an integer from 276 to 2147483647, not %s", tostring(value))
        end
    end
    return options
end

--- Create the member file (R29, R30).
function Bus:create_member()
    self.member_id = new_id()
    local directory = self.directory
    self.member_head = sub(json_text({ process = program_name(), pid = C.getpid(), language = "lua" }), 1, -2)
    local text = self.member_head .. ',"origins":["' .. self.origin .. '"]}'
    local fd, scratch = directory:create(self.member_id, "")
    self.shared.member = fd
    C.flock(fd, K.LOCK_EX)
    write_all(fd, ("\0"):rep(128) .. text, "write the member file")
    self.member_path = directory:at(self.member_id .. ".member")
    if C.rename(scratch, self.member_path) ~= 0 then refused("write " .. self.member_path) end
end

--- Show another origin in the member file, before the first event that carries it (R53).
function Bus:show_origin(origin)
    insert(self.origins, origin)
    if #self.origins > 100 then remove(self.origins, 1) end
    local text = self.member_head .. ',"origins":["' .. concat(self.origins, '","') .. '"]}'
    C.pwrite(self.shared.member, text, #text, 128)
end

local function open_bus(options)
    if is_forked() then
        for bus in pairs(open_buses) do bus:close() end -- the parent's
        own_page = nil
    end
    watch_fork()
    options = check_options(options or {}, { bus = "", capacity = 1, linger = 1, send_timeout = 1, join_timeout = 1,
        max_event_bytes = 1 })
    local all = {}
    for name, value in pairs(DEFAULTS) do all[name] = options[name] or value end
    local name = options.bus
    if name == nil then
        name = os.getenv("ZBUS_BUS")
        if name == nil or name == "" then name = "default" end
    end
    local self = setmetatable({ options = all, ingresses = {}, origin = new_id(), channel_number = 0 }, Bus)
    self.origins = { self.origin }
    self.directory = Directory.open(name)
    self.directory:reap(0.2)
    local shared = allocate(shared_p, ffi.sizeof(shared_t))
    self.shared = shared
    shared.wake = C.eventfd(0, K.O_NONBLOCK + K.O_CLOEXEC)
    shared.context = zmq.zmq_ctx_new()
    if shared.wake < 0 or shared.context == nil then refused("open a bus") end
    zmq.zmq_ctx_set(shared.context, 9, shared.wake) -- the prefix of its threads' names
    zmq.zmq_ctx_set(shared.context, 2, 65535)
    self:create_member()
    self.publisher = Publisher.new(self)
    self.keeper = start_keeper(shared)
    open_buses[self] = true
    return self
end

--- Return an error if this bus can no longer be used.
local function check_open(self)
    if is_forked() then
        error(new_error(CANCELED, "this process was forked from the one that opened the bus: open one of its own"), 0)
    end
    if self.closed then error(new_error(CANCELED, "the bus is closed: open another"), 0) end
    if garbage[1] then close_garbage() end
end

local SUBSCRIBE_OPTIONS = { overflow = "", capacity = 1, on_gap = function() end }

local function subscribe_to(self, system, kind, options)
    check_open(self)
    options = check_options(options or {}, SUBSCRIBE_OPTIONS)
    if system == nil or system == "" then invalid("system pattern is required") end
    if kind == "" or kind == "*" then kind = nil end
    local overflow = options.overflow or "drop"
    if overflow ~= "drop" and overflow ~= "block" then
        invalid("overflow must be 'drop' or 'block', not %s", quoted(overflow))
    end
    local decoder = Decoder.new(system, kind)
    local channel = Channel.new(decoder, options.on_gap)
    local ingress = Ingress.open(self, decoder, system, kind, overflow, options.capacity or self.options.capacity)
    channel.ingress = ingress
    ingress.channel = setmetatable({ channel }, { __mode = "v" }) -- for the bus, which may close first
    channel.guard = newproxy(true)
    getmetatable(channel.guard).__gc = function()
        if not ingress.closed then garbage[#garbage + 1] = ingress end
    end
    return setmetatable({ _channel = channel }, Subscription)
end

--- As `events.subscribe`, on this bus.
function Bus:subscribe(system, kind, options)
    return returning(nil, pcall(subscribe_to, self, system, kind, options))
end

local function send_to(self, system, kind, path, data, items, timeout)
    check_open(self)
    return self.publisher:send(system, kind, path, data, items, timeout)
end

--- As `events.send`, on this bus.
function Bus:send(system, kind, path, data, timeout)
    local well, err = pcall(send_to, self, system, kind, path, data, nil, timeout)
    if well then return true end
    return returning(false, well, err)
end

--- As `events.send_many`, on this bus.
function Bus:send_many(system, kind, items, timeout)
    return returning(nil, pcall(send_to, self, system, kind, nil, nil, items or false, timeout))
end

--- In a forked child: close the descriptors of the parent's bus, and forget it (R31).
function Bus:abandon()
    local ids = {}
    for ingress in pairs(self.ingresses) do
        ids[ingress.id], ingress.closed = true, true
        local channel = ingress.channel and ingress.channel[1]
        if channel then channel.held = {} end
    end
    for id in pairs(self.publisher.links) do ids[id] = true end
    local address, length = sockaddr_t(), ffi.new("unsigned[1]")
    for _, name in ipairs(list("/proc/self/fd") or {}) do
        local fd = tonumber(name)
        for _, ask in ipairs { C.getsockname, C.getpeername } do
            length[0] = ffi.sizeof(address)
            if fd and ask(fd, address, length) == 0 and address.family == 1 and length[0] > 2 then
                local id = ffi.string(address.path, min(length[0] - 2, 108)):match("([0-9a-f]+)%.%l+%z*$")
                if id and ids[id] then C.close(fd) end
            end
        end
    end
    C.close(self.shared.member)
    C.close(self.shared.wake)
    self.directory:close()
end

--- Close the bus: end its subscriptions, hand over what was sent within `linger` seconds, leave the roster.
-- What has arrived in its channels can still be received. Closing twice does nothing.
-- @treturn boolean true
function Bus:close()
    if self.closed then return true end
    self.closed = true
    open_buses[self] = nil
    if is_forked() then
        self:abandon()
        return true
    end
    local shared, publisher = self.shared, self.publisher
    local deadline = now() + self.options.linger
    for ingress in pairs(self.ingresses) do self.directory:withdraw(ingress.id, ingress.overflow) end
    publisher:finish(deadline)
    shared.stop = 1
    C.write(shared.wake, ffi.new("uint64_t[1]", 1), 8)
    self.keeper:join()
    local held = publisher:close(deadline)
    local open = {}
    for ingress in pairs(self.ingresses) do open[#open + 1] = ingress end
    for _, ingress in ipairs(open) do
        local frames = ingress:close()
        local channel = ingress.channel and ingress.channel[1]
        if channel then channel.held = frames end
    end
    while zmq.zmq_ctx_term(shared.context) ~= 0 and ffi.errno() == K.EINTR do end
    for _, fd in ipairs(held) do
        while unread_bytes(fd) > 0 and now() < deadline do pause(0.001) end
        C.close(fd)
    end
    remove_file(self.member_path)
    C.close(shared.member)
    C.close(shared.wake)
    self.directory:close()
    for _, name in ipairs { "topic", "link" } do
        for i = 0, shared[name .. "_count"] - 1 do
            if name == "topic" then C.free(shared.topics[i].head) end
            C.free(shared[name .. "s"][i])
        end
    end
    C.free(shared.topics)
    C.free(shared.links)
    C.free(shared.doubts)
    C.free(shared.channels)
    C.free(shared)
    self.shared = nil
    return true
end

------------------------------------------------------------------------------------------------------------
-- The module

local events = {}

--- The kinds of errors, as in `err:kind() == events.errors.INVALID`.
-- @field INVALID the call is wrong: a malformed name or pattern, or data that cannot be sent
-- @field TIMEOUT time ran out: no event arrived, or a `block` subscriber made no room
-- @field CANCELED the bus is closed, or belongs to the parent of this forked process
-- @field PERMISSION_DENIED the bus directory is not safe to use
-- @field UNAVAILABLE the operating system refused something
events.errors = {
    INVALID = INVALID, TIMEOUT = TIMEOUT, CANCELED = CANCELED, PERMISSION_DENIED = PERMISSION_DENIED,
    UNAVAILABLE = UNAVAILABLE,
}

--- JSON null within data. Data that is null as a whole is `nil`.
events.null = null

local default_bus

local function open_default()
    if not default_bus or default_bus.closed or is_forked() then
        default_bus = open_bus()
    end
    return default_bus
end

--- Open a bus. The other functions of the module open one by themselves.
-- @tparam[opt] table options `bus`: its name (`$ZBUS_BUS`, or `default`); `capacity`: frames that wait in a channel
-- (65,536); `send_timeout`: seconds that a send waits for a `block` subscriber (5); `join_timeout`: seconds that it
-- waits for a joining one (1); `linger`: seconds that closing may take (1); `max_event_bytes`: the largest frame
-- (16 MiB), the same for all peers
-- @treturn[1] Bus
-- @treturn[2] nil
-- @treturn[2] Error
function events.open(options)
    return returning(nil, pcall(open_bus, options))
end

--- Subscribe. Once this returns, every event of every process that is sent reaches the subscription.
-- @tparam string system a pattern: `orders`, `orders.*` (one segment), `orders.**` (any depth), `(eu|us).orders`, `*`
-- @tparam[opt] string kind a pattern too; every kind by default
-- @tparam[opt] table options `overflow`: what a full queue means, `"drop"` (the newest events are dropped and counted)
-- or `"block"` (publishers wait); `capacity`: frames that wait; `on_gap`: called with each gap
-- @treturn[1] Subscription
-- @treturn[2] nil
-- @treturn[2] Error kind Invalid: a malformed pattern; PermissionDenied, Unavailable: the directory, or the system
function events.subscribe(system, kind, options)
    return returning(nil, pcall(function() return subscribe_to(open_default(), system, kind, options) end))
end

--- Send an event. No subscriber is not an error.
-- @tparam string system its name, for example `orders`
-- @tparam string kind for example `order.created`
-- @tparam string path for example `/orders/123`
-- @param[opt] data a table, string, number or boolean; or `events.bytes(...)`
-- @tparam[opt] number timeout seconds to wait for a `block` subscriber
-- @treturn[1] boolean true
-- @treturn[2] boolean false
-- @treturn[2] Error kind Invalid: nothing was sent; Timeout (retryable): a `block` subscriber made no room, and
-- nobody got it; Canceled, PermissionDenied, Unavailable
function events.send(system, kind, path, data, timeout)
    local well, err = pcall(open_default)
    if not well then return returning(false, well, err) end
    return err:send(system, kind, path, data, timeout)
end

--- Send events of one topic as one frame, all or none: cheaper than one by one.
-- @tparam string system
-- @tparam string kind
-- @tparam table items a list of `{path, data}`
-- @tparam[opt] number timeout as for `send`
-- @treturn[1] number how many
-- @treturn[2] nil
-- @treturn[2] Error as for `send`
function events.send_many(system, kind, items, timeout)
    local well, err = pcall(open_default)
    if not well then return returning(nil, well, err) end
    return err:send_many(system, kind, items, timeout)
end

--- Return raw bytes to send as data. Data that arrives as bytes is like that too: `tostring(evt.data)`.
-- @tparam string text
function events.bytes(text)
    if type(text) ~= "string" then error("bytes must be a string, not " .. type(text), 2) end
    return setmetatable({ bytes = text }, Bytes)
end

--- Return whether a value is bytes.
function events.is_bytes(value) return getmetatable(value) == Bytes end

--- Mark a table as an array, so that it is sent as `[]` when it is empty. Arrays that arrive empty are marked.
function events.array(list_) return setmetatable(list_ or {}, array_mt) end

--- Wait for the first of several channels, in the order given.
-- @tparam table channels a list of channels
-- @tparam[opt] number timeout seconds
-- @treturn[1] Channel which has it
-- @treturn[1] table the event
-- @treturn[1] boolean true; false, with no event, if that channel is closed and drained
-- @treturn[2] nil the time is over
function events.select(channels, timeout)
    local deadline = timeout and now() + timeout
    while true do
        for _, channel in ipairs(channels) do
            if is_forked() and not channel.held then channel.held = {} end
            local event = channel:next()
            if event then return channel, event, true end
            if channel.held then return channel, nil, false end
        end
        local left = deadline and deadline - now()
        if left and left <= 0 then return nil end
        wait_for(channels, left)
    end
end

--- Close the bus that `subscribe` and `send` use. The next call opens it again.
function events.close()
    if default_bus then default_bus:close() end
    default_bus = nil
    return true
end

-- Contexts must end before the process does (R60): at the end of the state, and before `os.exit`.

local function close_all()
    for bus in pairs(open_buses) do pcall(bus.close, bus) end
end

events._anchor = newproxy(true)
getmetatable(events._anchor).__gc = close_all

local exit = os.exit
function os.exit(...)
    close_all()
    return exit(...)
end

-- The same code, for the conformance kit: patterns, names and frames without a bus.
events._internals = {
    Decoder = Decoder, compile_pattern = compile_pattern, matches = matches, prefixes = prefixes,
    parse_name = parse_name, parse_sentinel = parse_sentinel, is_bus_name = is_bus_name, find_root = find_root,
    digits = digits, read_json = read_json, json_text = json_text, array_mt = array_mt, now = now, micros = micros,
    encode = function(system, kind, path, data, items, stamp)
        check_topic(system, kind)
        if not items then check_text(path, "path") end
        local at = put(0, system .. "\0" .. kind .. "\0" .. (items and "" or path) .. "\0" .. stamp .. "\0")
        if items then at = put_batch(at, items) else at = put_data(at, data) end
        return ffi.string(out, at)
    end,
}

return events
