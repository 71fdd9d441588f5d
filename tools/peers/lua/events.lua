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
-- It needs LuaJIT, libzmq 4.2 or later, and lua-cjson, on Linux. Functions return `nil, err` (`send` returns
-- `false, err`) for all that can go wrong on a bus. The rules are in docs/spec/ of zbus, whose clauses (W.., R..) this
-- file names.
--
-- A bus lives in a Lua state of its own, the *office*, which runs this file, too. It owns the roster and the sockets.
-- Two threads take turns in it: the user's, which sends, and the *keeper*, which tells subscribers what they have lost
-- while the user's program does something else. The user's state encodes, decodes and counts.
--
-- @module events

local ROLE, GIVEN, GIVEN2, GIVEN3 = ... -- what this state is for, and what `new_state` gave it

local ffi = require("ffi")
local bit = require("bit")
local cjson = require("cjson")

local C = ffi.C
local band, bor = bit.band, bit.bor
local floor, huge, max, min = math.floor, math.huge, math.max, math.min
local byte, find, format, match, sub = string.byte, string.find, string.format, string.match, string.sub
local concat, remove, sort = table.concat, table.remove, table.sort
-- A loop over `pairs` has bytecode of its own, which the JIT compiler of LuaJIT 2.1.0-beta3 (Debian 12) gets wrong: now
-- and then such a loop leaves out items, for example fields of the data to send. Under another name it is a plain call.
local each_pair = pairs

-- `void *` for all pointers, and no named types: other modules of the process may declare the same functions.
ffi.cdef [[
void *zmq_ctx_new(void); int zmq_ctx_set(void *, int, int); int zmq_ctx_term(void *);
void *zmq_socket(void *, int); int zmq_close(void *);
int zmq_bind(void *, const char *); int zmq_connect(void *, const char *); int zmq_disconnect(void *, const char *);
int zmq_setsockopt(void *, int, const void *, size_t); int zmq_getsockopt(void *, int, void *, size_t *);
int zmq_send(void *, const void *, size_t, int); int zmq_recv(void *, void *, size_t, int);
int zmq_msg_init(void *); int zmq_msg_recv(void *, void *, int);
void *zmq_msg_data(void *); size_t zmq_msg_size(const void *);
int zmq_poll(void *, int, long); void zmq_version(int *, int *, int *);
int zmq_proxy_steerable(void *, void *, void *, void *);

void *luaL_newstate(void); void luaL_openlibs(void *); void lua_close(void *);
int luaL_loadstring(void *, const char *); int lua_pcall(void *, int, int, int);
void lua_getfield(void *, int, const char *); void lua_settop(void *, int);
void lua_pushnil(void *); void lua_pushnumber(void *, double); void lua_pushlstring(void *, const char *, size_t);
int lua_type(void *, int); int lua_toboolean(void *, int); double lua_tonumber(void *, int);
const char *lua_tolstring(void *, int, size_t *);
int pthread_create(unsigned long *, const void *, void *, void *); int pthread_join(unsigned long, void *);
int pthread_mutex_lock(void *); int pthread_mutex_unlock(void *);

int open(const char *, int, ...); int close(int); int dup(int); int flock(int, int);
long read(int, void *, size_t); long write(int, const void *, size_t); long pwrite(int, const void *, size_t, int64_t);
int link(const char *, const char *); int unlink(const char *); int rename(const char *, const char *);
int mkdir(const char *, unsigned); int rmdir(const char *); int access(const char *, int);
int fchmod(int, unsigned); int fchown(int, unsigned, unsigned);
int chmod(const char *, unsigned); int chown(const char *, unsigned, unsigned);
int statx(int, const char *, int, unsigned, void *); long readlink(const char *, char *, size_t);
void *opendir(const char *); void *readdir(void *); int closedir(void *);
void *mmap(void *, size_t, int, int, int, int64_t);
char *strerror(int); char *getcwd(char *, size_t);
int getpid(void); unsigned geteuid(void); unsigned getegid(void); int getgroups(int, unsigned *);
int socket(int, int, int); int connect(int, const void *, unsigned); int getsockopt(int, int, int, void *, unsigned *);
int getpeername(int, void *, unsigned *); int getsockname(int, void *, unsigned *); int ioctl(int, unsigned long, ...);
int poll(void *, unsigned long, int); int eventfd(unsigned, int); int clock_gettime(int, void *);
]]

local has_headers, zmq = pcall(ffi.load, "zmq")
if not has_headers then zmq = ffi.load("libzmq.so.5") end

local K = {
    O_RDWR = 2, O_CREAT = 0x40, O_EXCL = 0x80, O_NONBLOCK = 0x800, O_CLOEXEC = 0x80000,
    O_NOFOLLOW = find(ffi.arch, "arm") and 0x8000 or 0x20000, LOCK_SH = 1, LOCK_EX = 2, LOCK_NB = 4,
    ENOENT = 2, EINTR = 4, EAGAIN = 11, EEXIST = 17, ECONNREFUSED = 111,
    S_IFREG = 0x8000, S_IFDIR = 0x4000, S_IFSOCK = 0xC000, S_IFLNK = 0xA000,
}
local Z = {
    PAIR = 0, PUB = 1, SUB = 2, XPUB = 9, SUBSCRIBE = 6, EVENTS = 15, LINGER = 17, BACKLOG = 19, RECONNECT_IVL_MAX = 21,
    MAXMSGSIZE = 22, SNDHWM = 23, RCVHWM = 24, SNDTIMEO = 28, IMMEDIATE = 39, MAX_SOCKETS = 2, XPUB_NODROP = 69,
    DONTWAIT = 1, POLLIN = 1,
}
local bytes_t, buffer_t, int_t = ffi.typeof("const uint8_t *"), ffi.typeof("uint8_t[?]"), ffi.typeof("int[1]")
local pollfd_t = ffi.typeof("struct { int fd; short events, revents; }")

local MAX_TOPICS, MAX_STREAMS, MAX_MARKS, MAX_PREFIXES, MAX_DEPTH, MAX_GAP = 65536, 65536, 65536, 16, 1024, 2 ^ 40
local BLOCK_CAPACITY = 1000
local EXACT = 2 ^ 53
local DEFAULTS = { capacity = 65536, linger = 1, send_timeout = 5, join_timeout = 1, max_event_bytes = 16777216 }

-- Errors --------------------------------------------------------------------------------------------------------------

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

local function fail(kind, message, retryable) error(new_error(kind, message, retryable), 0) end

local function invalid(message, ...) fail(INVALID, format(message, ...)) end

-- EINTR, EAGAIN, ENOMEM, EMFILE, ENFILE, ENOSPC and EDQUOT may pass.
local PASSING = { [4] = true, [11] = true, [12] = true, [23] = true, [24] = true, [28] = true, [122] = true }

--- Raise what the operating system refused, as an error of the bus.
local function refused(what, errno)
    errno = errno or ffi.errno()
    local kind = (errno == 13 or errno == 1) and PERMISSION_DENIED or UNAVAILABLE
    fail(kind, format("cannot %s: %s", what, ffi.string(C.strerror(errno))), PASSING[errno])
end

--- Pass on what `pcall` returned: the results, or `failed, err` for an error of the bus. Anything else is raised.
local function returning(failed, ok, ...)
    if ok then return ... end
    local err = ...
    if getmetatable(err) == Error then return failed, err end
    error(err, 0)
end

-- States and threads. A Lua state belongs to one thread at a time; another one is called with texts and numbers.

-- The text of this file, read now because the working directory may change. For a state made of a text it is that text.
local SOURCE = debug.getinfo(1, "S").source
if sub(SOURCE, 1, 1) == "@" then
    local file = assert(io.open(sub(SOURCE, 2), "rb"))
    SOURCE = file:read("*a")
    file:close()
end

local function address(pointer) return tonumber(ffi.cast("uintptr_t", ffi.cast("void *", pointer))) end
local function pointer(number) return ffi.cast("void *", ffi.cast("uintptr_t", number)) end

local function push(state, value)
    if type(value) == "string" then return C.lua_pushlstring(state, value, #value) end
    if type(value) == "number" then return C.lua_pushnumber(state, value) end
    C.lua_pushnil(state)
end

local size = ffi.new("size_t[1]")

local function read_result(state, index)
    local of = C.lua_type(state, index)
    if of == 1 then return C.lua_toboolean(state, index) ~= 0 end
    if of == 3 then return C.lua_tonumber(state, index) end
    if of == 4 then
        local text = C.lua_tolstring(state, index, size)
        return ffi.string(text, size[0])
    end
end

--- Return a new state that has run this file in a role, and what the file returned.
local function new_state(role, ...)
    local state = C.luaL_newstate()
    if state == nil then refused("create a Lua state", 12) end
    C.luaL_openlibs(state)
    local failed = C.luaL_loadstring(state, SOURCE) ~= 0
    for _, value in ipairs { role, ... } do push(state, value) end
    failed = failed or C.lua_pcall(state, 1 + select("#", ...), 1, 0) ~= 0
    local result = read_result(state, 1)
    C.lua_settop(state, 0)
    if failed then
        C.lua_close(state)
        fail(UNAVAILABLE, "cannot start a Lua state: " .. tostring(result))
    end
    return state, result
end

--- Call a function of the office; return its results, or raise its error.
local function call(office, name, ...)
    local state = office.state
    C.pthread_mutex_lock(office.mutex)
    C.lua_getfield(state, -10002, name) -- of the globals
    for i = 1, select("#", ...) do push(state, (select(i, ...))) end
    C.lua_pcall(state, select("#", ...), -1, 0)
    local ok, r1, r2 = read_result(state, 1), read_result(state, 2), read_result(state, 3)
    local r3, r4 = read_result(state, 4), read_result(state, 5)
    C.lua_settop(state, 0)
    C.pthread_mutex_unlock(office.mutex)
    if ok == true then return r1, r2, r3, r4 end
    if ok == false then fail(r1, r2, r3) end
    error(ok, 0)
end

--- Start a thread: a state in a role, whose file returns the address of the C function that the thread runs.
local function start_thread(role, ...)
    local state, run = new_state(role, ...)
    local id = ffi.new("unsigned long[1]")
    local errno = C.pthread_create(id, nil, pointer(run), nil)
    if errno ~= 0 then
        C.lua_close(state)
        refused("start a thread", errno)
    end
    return { state = state, id = id }
end

local function join_thread(thread)
    C.pthread_join(thread.id[0], nil)
    C.lua_close(thread.state)
end

--- Return the address of a C function that calls `run`.
local function as_thread(run)
    require("jit").off()
    _G.thread_function = ffi.cast("void *(*)(void *)", function() -- a global, so that it stays
        run()
        return nil
    end)
    return address(_G.thread_function)
end

if ROLE == "zbus forwarder" then
    return as_thread(function()
        zmq.zmq_proxy_steerable(pointer(GIVEN), pointer(GIVEN2), nil, pointer(GIVEN3))
    end)
end

if ROLE == "zbus keeper" then
    local office, wake = { state = pointer(GIVEN), mutex = pointer(GIVEN2) }, pollfd_t(GIVEN3, 1, 0)
    return as_thread(function()
        local eight, wait = buffer_t(8), -1
        while wait ~= "stop" do
            C.poll(wake, 1, wait)
            C.read(wake.fd, eight, 8)
            local well, answer = pcall(call, office, "keep")
            wait = well and answer or 1000
        end
    end)
end

-- Text and numbers ----------------------------------------------------------------------------------------------------

--- Return whether a text is UTF-8, without surrogates and overlong forms.
local function is_utf8(text)
    local p, n, i = ffi.cast(bytes_t, text), #text, 0
    while i < n do
        local c = p[i]
        if c < 0x80 then
            i = i + 1
        elseif c < 0xC2 or c > 0xF4 then
            return false
        else
            local follow = c < 0xE0 and 1 or c < 0xF0 and 2 or 3
            local from = c == 0xE0 and 0xA0 or c == 0xF0 and 0x90 or 0x80
            local to = c == 0xED and 0x9F or c == 0xF4 and 0x8F or 0xBF
            if i + follow >= n or p[i + 1] < from or p[i + 1] > to then return false end
            for k = i + 2, i + follow do
                if band(p[k], 0xC0) ~= 0x80 then return false end
            end
            i = i + follow + 1
        end
    end
    return true
end

--- Return the number that at most 19 digits tell, `nil` for any other text.
-- Up to 2^53 it is a Lua number, beyond that a `uint64_t`: both compare and add exactly.
local function decimal(text)
    if #text > 19 or not find(text, "^%d+$") then return nil end
    local value = tonumber(text)
    if value < EXACT then return value end
    local exact = 0ULL
    for i = 1, #text do exact = exact * 10 + (byte(text, i) - 48) end
    return exact
end

local function quoted(value)
    if type(value) ~= "string" then return tostring(value) end
    local odd = is_utf8(value) and "%c" or "[%c\128-\255]"
    return "'" .. value:gsub(odd, function(c) return format("\\x%02x", byte(c)) end) .. "'"
end

--- Return `value` if it is text that a frame can carry; raise Invalid otherwise.
local function check_text(value, what)
    if value == nil or value == "" then invalid("%s is required", what) end
    if type(value) ~= "string" then invalid("%s must be a string, not %s", what, type(value)) end
    if find(value, "\0", 1, true) then
        invalid("%s %s contains NUL, which separates fields: remove it", what, quoted(value))
    end
    if not is_utf8(value) then invalid("%s %s is not UTF-8: encode it first", what, quoted(value)) end
    return value
end

--- Return what is wrong with a name (W3), `nil` if it is one, not looking at what any text must be.
local function name_fault(text)
    local wild = match(text, "[*()|]")
    if wild then return "contains '" .. wild .. "', which only a subscription may use: send a literal name" end
    if find("." .. text .. ".", "..", 1, true) then return "has an empty segment: use single dots between words" end
end

local function check_name(value, what)
    local fault = name_fault(check_text(value, what))
    if fault then invalid("%s %s %s", what, quoted(value), fault) end
end

local function check_topic(system, kind)
    check_name(system, "system")
    check_name(kind, "kind")
    if find(system .. ".", "^zbus%.") then
        invalid("system %s is reserved for the bus's own events: choose another", quoted(system))
    end
end

-- JSON (W51, W52). cjson reads it, but takes too much, and does not tell `[]` from `{}`. ------------------------------

local null = cjson.null

-- An empty array has this metatable, so that it is sent as `[]` and not as `{}`.
local array_mt = {}

--- Raw bytes as data of an event. `tostring(b)` and `b.bytes` are the bytes.
-- @type Bytes
local Bytes = { __tostring = function(self) return self.bytes end }
Bytes.__index = Bytes

local read_json
do
    local plain, lax = cjson.new(), cjson.new()
    for _, parser in ipairs { plain, lax } do parser.decode_max_depth(MAX_DEPTH) end
    plain.decode_invalid_numbers(false)
    lax.decode_invalid_numbers(true)

    local function malformed() error("malformed", 0) end

    local function is_digit(c) return c >= 48 and c <= 57 end

    --- Return whether cjson certainly reads a text as it should: no control characters, empty arrays, exponents, dots
    -- without a digit, or endless numbers.
    local function is_common(text)
        local p, before, run = ffi.cast(bytes_t, text), 0, 0
        for i = 0, #text - 1 do
            local c = p[i]
            local odd = c < 32 or before == 91 and (c == 93 or c == 32) or before == 45 and c == 46
            local odd_number = run > 0 and (c == 101 or c == 69 or c == 46 and not is_digit(p[i + 1])) or run > 300
            if odd or odd_number then return false end
            run = is_digit(c) and run + 1 or 0
            before = c
        end
        return true
    end

    local WORDS = { ["true"] = true, ["false"] = true, ["null"] = true }

    local function check_token(token)
        local whole, rest = match(token, "^%-?(%d+)(.*)$")
        local exponent = whole and (match(rest, "^%.%d+(.*)$") or rest)
        local good = whole and (#whole == 1 or byte(whole) ~= 48)
            and (exponent == "" or find(exponent, "^[eE][+-]?%d+$")) and math.abs(tonumber(token)) < huge
        if not good and not WORDS[token] then malformed() end
    end

    --- Put the metatable of empty arrays where `[nan]` stands, which no well-formed text holds.
    local function mark_arrays(value)
        if type(value) ~= "table" then return value end
        if value[1] ~= value[1] then return setmetatable({}, array_mt) end
        for key, item in each_pair(value) do value[key] = mark_arrays(item) end
        return value
    end

    local function read_carefully(text)
        local strings, n = {}, 0
        text = text:gsub("\\[\\\"]", { ["\\\\"] = "\\u005c", ['\\"'] = "\\u0022" })
        local outline = text:gsub('"[^"]*"', function(part)
            if find(part, "[%z\1-\31]") then malformed() end
            strings[#strings + 1] = part
            return '"'
        end)
        for token in outline:gmatch('[^][{},:" \t\r\n]+') do check_token(token) end
        outline = outline:gsub("%[%s*%]", "[nan]"):gsub('"', function()
            n = n + 1
            return strings[n]
        end)
        return mark_arrays(lax.decode(outline))
    end

    --- Return the value of a JSON text; raise an error for any that W51 calls malformed.
    function read_json(text)
        if not is_utf8(text) then malformed() end
        if is_common(text) then return plain.decode(text) end
        return read_carefully(text)
    end
end

local json_text
do
    local ESCAPES = { ['"'] = '\\"', ["\\"] = "\\\\" }
    for c = 0, 31 do ESCAPES[string.char(c)] = format("\\u%04x", c) end

    local function string_text(text)
        if not is_utf8(text) then
            invalid("data holds %s, which is not UTF-8: send raw bytes as events.bytes(...)", quoted(sub(text, 1, 40)))
        end
        local p = ffi.cast(bytes_t, text)
        for i = 0, #text - 1 do
            local c = p[i]
            if c < 32 or c == 34 or c == 92 then return '"' .. text:gsub('[%z\1-\31"\\]', ESCAPES) .. '"' end
        end
        return '"' .. text .. '"'
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
        return tonumber(text) == value and text or format("%.17g", value)
    end

    --- Return the length of a table whose keys are 1 to n, `nil` for an object.
    local function array_length(value)
        local n, count = 0, 0
        for i in ipairs(value) do n = i end
        for _ in each_pair(value) do count = count + 1 end
        if n == count and (n > 0 or getmetatable(value) == array_mt) then return n end
    end

    local function table_text(value, depth)
        if getmetatable(value) == Bytes then
            invalid("bytes cannot be part of other data: send them alone, with events.bytes(...) as the data")
        end
        if depth > MAX_DEPTH then
            invalid("data is nested more than %d deep, or contains itself: flatten it", MAX_DEPTH)
        end
        local length, items = array_length(value), {}
        if length then
            for i = 1, length do items[i] = json_text(value[i], depth) end
            return "[" .. concat(items, ",") .. "]"
        end
        for key, item in each_pair(value) do
            if type(key) ~= "string" then invalid("data has a key of type %s: use strings, or 1 to n", type(key)) end
            items[#items + 1] = string_text(key) .. ":" .. json_text(item, depth)
        end
        return "{" .. concat(items, ",") .. "}"
    end

    local int64_t, uint64_t = ffi.typeof("int64_t"), ffi.typeof("uint64_t")

    --- Return the JSON of a value that stands inside of `depth` arrays and objects of its frame.
    function json_text(value, depth)
        local of = type(value)
        if of == "table" then return table_text(value, (depth or 0) + 1) end
        if of == "string" then return string_text(value) end
        if of == "number" then return number_text(value) end
        if of == "boolean" then return tostring(value) end
        if value == nil or value == null then return "null" end
        if of == "cdata" and (ffi.istype(int64_t, value) or ffi.istype(uint64_t, value)) then
            return (tostring(value):gsub("U?LL$", ""))
        end
        invalid("data holds a %s, which JSON cannot carry: send tables, strings, numbers and booleans", of)
    end
end

-- Patterns (W16 to W22) -----------------------------------------------------------------------------------------------

local function split(text, separator)
    local parts, from = {}, 1
    while true do
        local at = find(text, separator, from, true)
        parts[#parts + 1] = sub(text, from, (at or 0) - 1)
        if not at then return parts end
        from = at + 1
    end
end

local compile_pattern, matches, prefixes
do
    local ADVICE = {
        [">"] = "for everything below use '**', not '>'", ["#"] = "for everything below use '**', not '#'",
        ["+"] = "for exactly one segment use '*', not '+'",
        [""] = "it has an empty segment, use single dots between words, or '**' for any depth",
    }

    --- Return the sorted literals that a segment selects, which is their set, too; `nil` if one breaks the grammar.
    local function compile_choices(choices)
        local literals = {}
        for _, choice in ipairs(choices) do
            if ADVICE[choice] or find(choice, "[*()]") then return nil end
            if not literals[choice] then literals[#literals + 1] = choice end
            literals[choice] = true
        end
        sort(literals)
        return literals
    end

    --- Compile one segment: `"*"`, `"**"`, or the literals that it selects.
    local function compile_segment(part, pattern, what)
        if part == "*" or part == "**" then return part end
        local bracket = match(part, "^%((.*)%)$")
        local advice = ADVICE[part]
            or bracket and "a bracket lists whole literal segments, use '(a|b)'"
            or find(part, "*", 1, true) and "a wildcard is a whole segment, use 'orders.*' or 'orders.**'"
            or "a bracket opens and closes within one segment, use '(a|b)'"
        return compile_choices(bracket and split(bracket, "|") or { not find(part, "|") and part or "" })
            or invalid("%s is not a %s: %s", quoted(pattern), what, advice)
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
            elseif segment and (segment == "*" or segment[words[w]] == true) then
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

    local function join(heads, joint, tails)
        local both = {}
        for _, head in ipairs(heads) do
            for _, tail in ipairs(tails) do both[#both + 1] = head .. joint .. tail end
        end
        return both
    end

    --- Return the texts before the first wildcard, and whether there is none.
    local function literal_heads(segments)
        local heads = { "" }
        for i, segment in ipairs(segments) do
            local dot = i > 1 and "." or ""
            if segment == "**" then return heads, false end
            if segment == "*" or #heads * #segment > MAX_PREFIXES then return join(heads, dot, { "" }), false end
            heads = join(heads, dot, segment)
        end
        return heads, true
    end

    --- Return the ZeroMQ subscriptions of compiled patterns, sorted; `kind` may be `nil`.
    function prefixes(system, kind)
        local heads, literal = literal_heads(system)
        if literal then
            local tails, ended = { "" }, false
            if kind then
                tails, ended = literal_heads(kind)
                if #heads * #tails > MAX_PREFIXES then tails, ended = { "" }, false end
            end
            heads = join(heads, "\0", tails)
            if ended then heads = join(heads, "\0", { "" }) end
        end
        sort(heads)
        return heads
    end
end

-- Names in the directory (R1, R2, R5, R6, W26) ------------------------------------------------------------------------

local function is_id(text) return #text >= 8 and #text <= 32 and not find(text, "[^0-9a-f]") end

local function parse_epoch(text) return #text <= 18 and find(text, "^[1-9]%d*$") and decimal(text) or nil end

--- Return what a file name in the directory is: `"entry", id, epoch, overflow`, `"socket", id` and so on.
local function parse_name(name)
    if name == "token" then return "token" end
    local id, rest = match(name, "^([0-9a-f]+)%.(.*)$")
    if not id or not is_id(id) then return nil end
    if rest == "sock" then return "socket", id end
    if rest == "member" or rest == "new" then return rest, id end
    local number, overflow = match(rest, "^([0-9]+)%.([a-z]+)$")
    local epoch = number and parse_epoch(number)
    if epoch and (overflow == "drop" or overflow == "block") then return "entry", id, epoch, overflow end
    return nil
end

--- Return the id and epoch of a sentinel, `nil` for any other topic.
local function parse_sentinel(topic)
    local id, number = match(topic, "^\255([0-9a-f]+)%.([0-9]+)$")
    local epoch = id and is_id(id) and parse_epoch(number)
    if epoch then return id, epoch end
end

local function is_bus_name(name)
    return type(name) == "string" and #name <= 64 and find(name, "^[A-Za-z0-9_][A-Za-z0-9._-]*$") ~= nil
end

local statx_t = ffi.typeof [[struct {
    uint32_t mask, blksize; uint64_t attributes; uint32_t nlink, uid, gid; uint16_t mode, pad0; uint64_t ino, size,
    blocks, attributes_mask; int64_t atime_sec; uint32_t atime_nsec, pad1; int64_t btime_sec; uint32_t btime_nsec, pad2;
    int64_t ctime_sec; uint32_t ctime_nsec, pad3; int64_t mtime_sec; uint32_t mtime_nsec, pad4;
    uint32_t rdev_major, rdev_minor, dev_major, dev_minor; uint64_t spare[16]; }]]

--- Return what `path` itself is, or with `follow` what it leads to; `nil` if it is not there or cannot be seen.
local function status(path, follow)
    local info = statx_t()
    return C.statx(-100, path, follow and 0 or 0x100, 0x7ff, info) == 0 and info or nil
end

--- Return the root of all buses, and whether someone named it; `env` reads a variable of the environment.
local function find_root(env)
    local function variable(name)
        local value = env(name)
        return value ~= "" and value or nil
    end
    local chosen, runtime, uid = variable("ZBUS_DIR"), variable("XDG_RUNTIME_DIR"), C.geteuid()
    if chosen then return chosen, true end
    local info = runtime and status(runtime, true)
    if runtime and (not info or info.uid == uid) then return runtime .. "/zbus", false end
    return (variable("TMPDIR") or "/tmp") .. "/zbus-" .. uid, false
end

-- The machine: clocks and files ---------------------------------------------------------------------------------------

local timespec_t = ffi.typeof("struct { int64_t sec; int64_t nsec; }")
local sockaddr_t = ffi.typeof("struct { uint16_t family; char path[108]; }")
local dirent_t = ffi.typeof("struct { uint64_t ino; int64_t off; uint16_t reclen; uint8_t type; char name[256]; } *")

local clock = timespec_t()

local function now()
    C.clock_gettime(1, clock)
    return tonumber(clock.sec) + tonumber(clock.nsec) / 1e9
end

local function micros_of(clock_id)
    C.clock_gettime(clock_id, clock)
    return tonumber(clock.sec) * 1000000 + floor(tonumber(clock.nsec) / 1000)
end

local function pause(seconds) C.poll(nil, 0, max(1, floor(seconds * 1000))) end

local function read_file(path)
    local file = io.open(path, "rb")
    if not file then return nil end
    local text = file:read("*a")
    file:close()
    return text
end

-- In a time namespace of its own, a process cannot tell the machine's CLOCK_MONOTONIC (W8).
local offsets = read_file("/proc/self/timens_offsets")
local is_machine_time = not offsets or find(offsets, "monotonic%s+0%s+0") ~= nil

--- Return microseconds of the machine's CLOCK_MONOTONIC, `nil` if they cannot be known.
local function micros() return is_machine_time and micros_of(1) or nil end

local function list(path)
    local names, dir = {}, C.opendir(path)
    if dir == nil then return names end
    local row = C.readdir(dir)
    while row ~= nil do
        names[#names + 1] = ffi.string(ffi.cast(dirent_t, row).name)
        row = C.readdir(dir)
    end
    C.closedir(dir)
    return names
end

--- Return the id in the name of the socket at one end of each connection of this process: that `ask` tells.
local function socket_ids(ask)
    local ids, name, bytes = {}, sockaddr_t(), ffi.new("unsigned[1]")
    for _, entry in ipairs(list("/proc/self/fd")) do
        local fd = tonumber(entry)
        bytes[0] = ffi.sizeof(name)
        if fd and ask(fd, name, bytes) == 0 and name.family == 1 and bytes[0] > 2 then
            ids[fd] = match(ffi.string(name.path, min(bytes[0] - 2, 108)), "([0-9a-f]+)%.%l+%z*$")
        end
    end
    return ids
end

-- ZeroMQ --------------------------------------------------------------------------------------------------------------

local incoming = ffi.typeof("struct { uint64_t _[8]; }")() -- a zmq_msg_t
zmq.zmq_msg_init(incoming)

--- Return the next frame of a socket, `nil` if there is none now.
local function take(socket)
    while zmq.zmq_msg_recv(incoming, socket, Z.DONTWAIT) < 0 do
        if ffi.errno() ~= K.EINTR then return nil end
    end
    return ffi.string(zmq.zmq_msg_data(incoming), zmq.zmq_msg_size(incoming))
end

local pollitem_t = ffi.typeof("struct { void *socket; int fd; short events, revents; }[?]")

--- Wait until there is something to take from one of some sockets. Not compiled, so that Ctrl-C can end it.
local function wait_for(sockets, seconds)
    local items = pollitem_t(#sockets)
    for i, socket in ipairs(sockets) do items[i - 1].socket, items[i - 1].events = socket, Z.POLLIN end
    zmq.zmq_poll(items, #sockets, math.ceil(min(seconds, 1e6) * 1000))
end
jit.off(wait_for)

-- The office. All of it is about the one bus of its state. ------------------------------------------------------------

if ROLE == "zbus office" then
local office = {} -- what other states may call

local options -- of the bus: those of `DEFAULTS`
local directory = {} -- its `path`, `fd`, `group`, `token` and `token_fd`
local context -- of ZeroMQ

local function random_bytes(n)
    local file = io.open("/dev/urandom", "rb") or refused("read /dev/urandom")
    local bytes = file:read(n)
    file:close()
    return bytes
end

local function new_id()
    return (random_bytes(8):gsub(".", function(c) return format("%02x", byte(c)) end))
end

local function file_type(info) return band(info.mode, 0xF000) end

--- Remove a regular file or socket; return whether that was done (R32).
local function remove_file(path)
    local info = status(path)
    local kind = info and file_type(info)
    return (kind == K.S_IFREG or kind == K.S_IFSOCK) and C.unlink(path) == 0
end

-- Opening the directory: its rights (R1 to R4, R46 to R49) ------------------------------------------------------------

local function absolute(path)
    if sub(path, 1, 1) == "/" then return path end
    local buffer = ffi.new("char[4096]")
    if C.getcwd(buffer, 4096) == nil then refused("find the working directory") end
    return ffi.string(buffer) .. "/" .. path
end

local function parent_of(path) return match(path, "^(.+)/[^/]*$") or "/" end

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

local function is_prepared(info) return band(info.mode, 0x438) == 0x438 and band(info.mode, 2) == 0 end

--- Refuse a directory that another user controls (R46, R47); return group and mode of one prepared for a group.
local function check_directory(path, default, last)
    local info = status(path) or refused("use " .. path)
    local uid, mode, kind = C.geteuid(), info.mode, file_type(info)
    local mine, prepared = info.uid == uid, is_prepared(info)
    local passable = not last and info.uid == 0 and band(mode, 0x10) == 0 and C.access(path, 1) == 0
    local why = kind == K.S_IFLNK and "is a symbolic link: name the directory itself"
        or kind ~= K.S_IFDIR and "is not a directory: remove it or set ZBUS_DIR"
        or band(mode, 2) ~= 0 and "is writable by everybody, who could forge events: chmod o-w it"
        or default and not mine and "belongs to user " .. info.uid .. ", and it is where user " .. uid
            .. " has buses of their own: remove it, or set ZBUS_DIR. " .. SHARING
        or prepared and not in_group(info.gid) and "is for group " .. info.gid
            .. ", and this process is not in it: add the user to the group"
        or prepared and band(mode, 0x200) ~= 0
            and "has the sticky bit, so nobody could clean up after another user: chmod -t it"
        or not (mine or prepared or passable) and "belongs to user " .. info.uid
            .. ", for them alone: share another directory with them. " .. SHARING
    if why then fail(PERMISSION_DENIED, path .. " " .. why) end
    if prepared then return info.gid, band(mode, 0xFFF) end
end

local function make_private(path, mode)
    if C.mkdir(path, mode) ~= 0 and ffi.errno() ~= K.EEXIST then refused("create " .. path) end
end

--- Create a directory unless it exists, with the rights of R48.
local function make_directory(path, group, mode)
    if status(path) then return end
    if not group then return make_private(path, 0x1C0) end
    local scratch = parent_of(path) .. "/." .. new_id() .. ".new"
    make_private(scratch, band(mode, 0x1FF))
    C.chown(scratch, 0xFFFFFFFF, group)
    if C.chmod(scratch, mode) ~= 0 or C.rename(scratch, path) ~= 0 then
        local errno = ffi.errno()
        C.rmdir(scratch)
        if not status(path) then refused("create " .. path, errno) end
    end
end

local function make_parents(path)
    local parent = parent_of(path)
    if status(parent) then return end
    make_parents(parent)
    make_private(parent, 0x1FF)
end

--- Create the root and its parents, unless root would shut out the user above (R49).
local function make_root(root, named)
    local above = root
    repeat above = parent_of(above) until status(above)
    local info = status(above, true)
    if info and C.geteuid() == 0 and info.uid ~= 0 and band(info.mode, 2) == 0 and not is_prepared(info) then
        fail(PERMISSION_DENIED, root .. " would be root's, in a directory of user " .. info.uid
            .. ", who could not use it: run this as that user. " .. SHARING)
    end
    make_parents(root)
    local parent = status(parent_of(root))
    local closed = named and parent and is_prepared(parent) and band(parent.mode, 7) == 0
    make_directory(root, closed and parent.gid or nil, closed and bor(band(parent.mode, 0xFFF), 0x1C0) or nil)
end

local function open_directory(bus)
    if not is_bus_name(bus) then
        invalid("%s is not a bus name: use letters, digits, '_', '-', '.', at most 64", quoted(bus))
    end
    local root, named = find_root(os.getenv)
    root = absolute(root):gsub("(.)/+$", "%1")
    directory.path = root .. "/v1/" .. bus
    local bytes = #directory.path + 22
    if bytes > 107 then
        invalid("%s is too long: its sockets would have %d bytes of at most 107; shorten ZBUS_DIR, or the bus name",
            directory.path, bytes)
    end
    if not status(root) then make_root(root, named) end
    local group, mode = check_directory(root, not named, false)
    for _, path in ipairs { root .. "/v1", directory.path } do
        make_directory(path, group, mode)
        group, mode = check_directory(path, not named, path == directory.path)
    end
    directory.group = group
    -- Cleaners leave a locked directory alone (R35).
    directory.fd = C.open(directory.path, K.O_CLOEXEC)
    C.flock(directory.fd, K.LOCK_SH + K.LOCK_NB)
end

-- What is in the directory: the token, entries, sockets, member files (R5 to R13, R26 to R34)

local function at(name) return directory.path .. "/" .. name end

--- Create a file under a scratch name with the rights of R48; return its descriptor and path.
local function create_file(id, text)
    local path = at(id .. ".new")
    local fd = C.open(path, K.O_RDWR + K.O_CREAT + K.O_EXCL + K.O_NOFOLLOW + K.O_CLOEXEC, ffi.cast("int", 0x180))
    if fd < 0 then refused("write " .. path) end
    if directory.group then
        C.fchown(fd, 0xFFFFFFFF, directory.group)
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

local function touch()
    if C.pwrite(directory.token_fd, random_bytes(8), 8, 0) ~= 8 then refused("write " .. at("token")) end
end

local function open_token()
    local path = at("token")
    if not status(path) then
        local fd, scratch = create_file(new_id(), random_bytes(8))
        C.close(fd)
        C.link(scratch, path)
        C.unlink(scratch)
    end
    directory.token_fd = C.open(path, K.O_RDWR + K.O_NOFOLLOW + K.O_NONBLOCK + K.O_CLOEXEC)
    if directory.token_fd < 0 then refused("open " .. path) end
    local info = status(path)
    if not info or file_type(info) ~= K.S_IFREG then fail(PERMISSION_DENIED, path .. " is not a file: remove it") end
    if info.size < 8 then touch() end
    local page = C.mmap(nil, 8, 1, 1, directory.token_fd, 0)
    if ffi.cast("intptr_t", page) == -1 then refused("map " .. path) end
    directory.token = ffi.cast("volatile uint64_t *", page)
end

--- Connect a socket of our own to `path`; return it, or -1, and the error.
local function connect_probe(path, kind)
    local probe, name = C.socket(1, kind + K.O_NONBLOCK + K.O_CLOEXEC, 0), sockaddr_t(1, path)
    if probe < 0 then refused("look who is on the bus") end
    if C.connect(probe, name, ffi.sizeof(name)) == 0 then return probe, 0 end
    local errno = ffi.errno()
    C.close(probe)
    return -1, errno
end

--- Return whether a process listens at the socket of an ingress (R26). In doubt, it does.
local function is_alive(id)
    local path = at(id .. ".sock")
    local info = status(path)
    if not info then return ffi.errno() ~= K.ENOENT end
    if file_type(info) ~= K.S_IFSOCK then return false end
    local probe, errno = connect_probe(path, 2)
    if probe >= 0 then C.close(probe) end
    return errno ~= K.ECONNREFUSED and errno ~= K.ENOENT
end

--- Return the ingresses that are listed: epoch and overflow by id (R7, R13).
local function list_entries()
    local found
    repeat
        local token = directory.token[0]
        found = {}
        for _, name in ipairs(list(directory.path)) do
            local is, id, epoch, overflow = parse_name(name)
            if is == "entry" and not (found[id] and found[id].epoch >= tonumber(epoch)) then
                found[id] = { id = id, epoch = tonumber(epoch), overflow = overflow }
            end
        end
    until directory.token[0] == token
    return found
end

--- Remove what a dead ingress has left (R27). If there was something, the token moves.
local function bury(id)
    local removed = false
    for _, name in ipairs(list(directory.path)) do
        local is, of = parse_name(name)
        if is == "entry" and of == id and remove_file(at(name)) then removed = true end
    end
    if remove_file(at(id .. ".sock")) or removed then touch() end
end

--- Return whether a member file has no owner any more (R31).
local function is_unlocked(path)
    local info = status(path)
    if not info or file_type(info) ~= K.S_IFREG then return false end
    local fd = C.open(path, K.O_NONBLOCK + K.O_NOFOLLOW + K.O_CLOEXEC)
    if fd < 0 then return false end
    local free = C.flock(fd, K.LOCK_SH + K.LOCK_NB) == 0
    C.close(fd)
    return free
end

--- Remove what dead processes have left, for `seconds` at most (R28, R34).
local function reap(seconds)
    local over, checked = now() + seconds, {}
    for _, name in ipairs(list(directory.path)) do
        if now() > over then return end
        local is, id = parse_name(name)
        if (is == "entry" or is == "socket") and not checked[id] then
            checked[id] = true
            if not is_alive(id) then bury(id) end
        elseif is == "member" and is_unlocked(at(name)) then
            remove_file(at(name))
        end
    end
end

-- The member file (R29 to R31, R53) -----------------------------------------------------------------------------------

local PROCESS = match(GIVEN2 or "", "[^/]*$"):gsub("[\128-\255]", function(c) return format("\\x%02x", byte(c)) end)

local member = { origins = {} } -- its `id` and `fd`

--- Show an origin in the member file, before the first event that carries it.
local function show_origin(origin)
    table.insert(member.origins, origin)
    if #member.origins > 100 then remove(member.origins, 1) end
    local text = json_text { process = PROCESS, pid = C.getpid(), language = "lua", origins = member.origins }
    if C.pwrite(member.fd, text, #text, 128) ~= #text then refused("write the member file") end
end

local function create_member(origin)
    member.id = new_id()
    local fd, scratch = create_file(member.id, ("\0"):rep(128))
    member.fd = fd
    C.flock(fd, K.LOCK_EX)
    show_origin(origin)
    if C.rename(scratch, at(member.id .. ".member")) ~= 0 then refused("write " .. at(member.id .. ".member")) end
end

-- Sockets -------------------------------------------------------------------------------------------------------------

local option = int_t()

local function set(socket, name, value)
    option[0] = value
    if zmq.zmq_setsockopt(socket, name, option, 4) ~= 0 then refused("set an option of ZeroMQ") end
end

local function new_socket(kind, settings)
    local socket = zmq.zmq_socket(context, kind)
    if socket == nil then refused("create a ZeroMQ socket") end
    set(socket, Z.LINGER, 0)
    for name, value in each_pair(settings) do set(socket, name, value) end
    return socket
end

local function subscribe(socket, prefix)
    if zmq.zmq_setsockopt(socket, Z.SUBSCRIBE, prefix, #prefix) ~= 0 then refused("subscribe") end
end

local pending, pending_size = int_t(), ffi.new("size_t[1]", 4)

--- Have libzmq process at once what its threads have sent to a socket.
local function process_commands(socket) zmq.zmq_getsockopt(socket, Z.EVENTS, pending, pending_size) end

-- Links (R19 to R22, R40) ---------------------------------------------------------------------------------------------
--
-- The subscribers' ingresses that we send to. Each `drop` link has a socket of its own, so a send that is refused tells
-- whose queue is full. One socket serves all `block` links, which take a frame together or not at all (R24).

local links, drop_links, block_links = {}, {}, 0 -- by id; a list; a count
local block_socket

local function is_awaited(link) return link.shown < link.epoch and link.given_up < link.epoch end

local function await(link, since)
    link.first, link.since, link.pause, link.due = since, since, 0.005, since + 0.005
    link.waited = nil
end

local function connect(entry)
    local blocking, capacity = entry.overflow == "block", options.capacity
    local socket = blocking and block_socket or new_socket(Z.XPUB, {
        [Z.XPUB_NODROP] = 1, [Z.IMMEDIATE] = 1, [Z.RECONNECT_IVL_MAX] = 5000,
        [Z.SNDHWM] = blocking and min(capacity, BLOCK_CAPACITY) or capacity, [Z.SNDTIMEO] = blocking and 20 or 0,
    })
    if blocking then block_socket = socket end
    local link = {
        id = entry.id, path = at(entry.id .. ".sock"), blocking = blocking, socket = socket,
        epoch = entry.epoch, shown = 0, given_up = 0, -- epochs
        owed = {}, owed_count = 0, -- eras of topics whose mark it has yet to get
    }
    if zmq.zmq_connect(socket, "ipc://" .. link.path) ~= 0 then refused("connect " .. link.path) end
    await(link, now())
    links[link.id] = link
    if blocking then block_links = block_links + 1 else table.insert(drop_links, link) end
end

local function disconnect(link)
    links[link.id] = nil
    if link.blocking then
        block_links = block_links - 1
        zmq.zmq_disconnect(link.socket, "ipc://" .. link.path)
        return
    end
    zmq.zmq_close(link.socket)
    for i, other in ipairs(drop_links) do
        if other == link then return remove(drop_links, i) end
    end
end

--- Note that an ingress has subscribed to a sentinel, or no longer does, because its connection broke (R15).
local function note_sentinel(added, topic)
    local id, epoch = parse_sentinel(topic)
    local link = id and links[id]
    if not link then return end
    epoch = tonumber(epoch)
    if added then
        link.shown, link.given_up = max(link.shown, epoch), 0
    elseif epoch == link.shown then
        link.shown = 0
        await(link, now())
    end
end

--- Read what peers have subscribed to (W25, R20 step 3).
local function read_subscriptions()
    local sockets = { block_socket }
    for _, link in ipairs(drop_links) do sockets[#sockets + 1] = link.socket end
    for _, socket in ipairs(sockets) do
        for topic in take, socket do note_sentinel(byte(topic) == 1, sub(topic, 2)) end
    end
end

--- Return the process that listens at the other end of a link (SO_PEERCRED), `nil` if it is unknown.
local function listening_process(path)
    local credentials, probe = ffi.new("int[3]"), connect_probe(path, 1)
    if probe < 0 then return nil end
    C.getsockopt(probe, 1, 17, credentials, ffi.new("unsigned[1]", 12))
    C.close(probe)
    return credentials[0] > 0 and credentials[0] or nil
end

--- Return whether all threads of a process are stopped, and how many seconds they have waited for a CPU so far.
local function process_state(pid)
    local stopped, waited, tasks = nil, 0, format("/proc/%s/task/", pid)
    for _, task in ipairs(list(tasks)) do
        local letter = match(read_file(tasks .. task .. "/stat") or "", "^.*%) (%a)")
        local delay = match(read_file(tasks .. task .. "/schedstat") or "", "^%d+ (%d+)")
        if letter then stopped = stopped ~= false and find(letter, "[TtXZ]") ~= nil end
        waited = waited + (tonumber(delay) or 0) / 1e9
    end
    return stopped, waited
end

--- Return whether to wait no longer for a link: it has had its time, and its process is stopped, or runs freely and
-- says nothing. It is slow if it, or this process, has waited for a CPU for a third of that time (R21, R40).
local function is_over(link, time)
    local timeout = options.join_timeout
    if link.blocking or time < link.since + timeout / 2 then return false end
    link.pid = link.pid or listening_process(link.path)
    local stopped, waited = process_state(link.pid)
    waited = waited + select(2, process_state("self"))
    link.waited = link.waited or waited
    if time < link.since + timeout then return false end
    if stopped or waited - link.waited <= timeout / 6 or time > link.first + 30 * timeout then return true end
    link.since, link.waited = time - timeout / 2, waited
    return false
end

-- Settling (R20) ------------------------------------------------------------------------------------------------------

local listed, known = false, false -- the tokens at which the roster was listed, and all links were settled
local settled = -1 -- since when (W37); -1: nobody knows

local function list_roster()
    local entries = list_entries()
    for id, link in each_pair(links) do
        if not entries[id] then disconnect(link) end
    end
    for id, entry in each_pair(entries) do
        local link = links[id]
        if link and entry.epoch > link.epoch then
            link.epoch = entry.epoch
            await(link, now())
        elseif not link and is_alive(id) then
            connect(entry)
        elseif not link then
            bury(id)
        end
    end
end

--- Return the links that are still awaited, after a look at those whose look is due.
local function check_awaited()
    local awaited, time = {}, now()
    for id, link in each_pair(links) do
        if is_awaited(link) and time >= link.due then
            link.pause = min(2 * link.pause, 0.05)
            link.due = time + link.pause
            if not is_alive(id) then
                bury(id)
                disconnect(link)
            elseif is_over(link, time) then
                link.given_up = link.epoch
            end
        end
        if links[id] and is_awaited(link) then awaited[#awaited + 1] = link end
    end
    return awaited
end

local function time_out(seconds)
    local ids = {}
    for id, link in each_pair(links) do
        if link.blocking then ids[#ids + 1] = id end
    end
    local who = ids[1] and "subscriber " .. concat(ids, ", ") .. " ('block')" or "a joining subscriber"
    fail(TIMEOUT, format("%s made no room within %g s, so the event was sent to nobody: try again, or see with"
        .. " 'zbus ls' who is on the bus", who, seconds), true)
end

--- Settle the links; return false if somebody has not answered by `deadline`.
-- Unless it is `strict`, only a `block` link can make it fail: each other one gets the time it needs (R43).
local function settle(deadline, strict)
    while true do
        local asof, token = micros(), directory.token[0]
        if listed ~= token then
            listed = token
            list_roster()
        end
        read_subscriptions()
        local awaited = check_awaited()
        if awaited[1] then
            if now() > deadline then
                for _, link in ipairs(awaited) do
                    if strict or link.blocking then return false end
                end
            end
            local sockets = {}
            for i, link in ipairs(awaited) do sockets[i] = link.socket end
            wait_for(sockets, 0.005)
        elseif directory.token[0] == token and listed == token then
            known, settled = token, asof or -1
            return true
        end
    end
end

-- Topics and their marks (W46 to W48, R57 to R59). An *era* of a topic is the time with one `settled`, and `first`.

local origin
local topics, topic_count = {}, 0 -- by system and kind
local unmarked = {} -- topics with events since their last mark
local restless, active = false, false -- whether there are marks to send; whether something was sent since the last look
local wake -- an eventfd: the keeper shall look

local function mark_text(era)
    local topic = era.topic
    return format("%s%s%d%s%d\0[]", topic.head, topic.origin, topic.seq + 1, era.tail, micros_of(0))
end

local function owe(link, era)
    if link.owed[era] or link.owed_count >= MAX_MARKS then return end
    link.owed[era] = true
    link.owed_count = link.owed_count + 1
end

--- Send a frame to a `drop` link; return whether it had room.
local function send_to(link, frame)
    if zmq.zmq_send(link.socket, frame, #frame, Z.DONTWAIT) >= 0 then return true end
    process_commands(link.socket) -- there may be news of room
    return zmq.zmq_send(link.socket, frame, #frame, Z.DONTWAIT) >= 0
end

--- Send a link the mark of an era and its twin, or only the twin; return whether it got them.
local function tell(link, era, only_twin)
    if link.shown < link.epoch then return false end
    local mark = mark_text(era)
    return (only_twin or send_to(link, mark)) and send_to(link, "\255#" .. mark)
end

local function tell_all(era, only_twin)
    for _, link in ipairs(drop_links) do
        if not tell(link, era, only_twin) then owe(link, era) end
    end
    unmarked[era.topic] = nil
end

--- Send marks that are due, `most` of them; return whether none is left, except for those who have no room.
local function send_marks(most)
    for _, link in ipairs(drop_links) do
        for era in each_pair(link.owed) do
            if most == 0 then return false end
            if not tell(link, era) then break end
            link.owed[era] = nil
            link.owed_count = link.owed_count - 1
            most = most - 1
        end
    end
    for topic in each_pair(unmarked) do
        if most == 0 then return false end
        tell_all(topic.era)
        most = most - 1
    end
    return true
end

--- Return whether a link, or one that is `there`, has yet to get a mark.
local function is_owing(there)
    for _, link in ipairs(drop_links) do
        if link.owed_count > 0 and not (there and link.shown < link.epoch) then return true end
    end
    return false
end

--- Send the marks of a publisher at rest; return after how many milliseconds to look again.
function office.keep()
    if not context then return "stop" end
    if active then
        active = false
        return 200
    end
    read_subscriptions()
    if not send_marks(1000) then return 5 end
    restless = is_owing()
    return restless and 200 or -1
end

--- Begin a new era of a topic, because the links were settled again. Those who saw nothing of the former one learn of
-- it by the twin: the new `first` would tell them that it was not meant for them (W48).
local function renew_era(topic)
    if unmarked[topic] and topic.era.first <= topic.seq then tell_all(topic.era, true) end
    local tail = topic.born < 0 and "...." or settled < 0 and format(".%d...", topic.born)
        or format(".%d.%d.%d.", topic.born, settled, topic.seq + 1)
    topic.era = { topic = topic, settled = settled, first = topic.seq + 1, tail = tail }
end

--- Add a topic that was born at `born`. An origin has 65,536 at most (W35).
local function add_topic(system, kind, born)
    if topic_count >= MAX_TOPICS then
        topics, topic_count = {}, 0
        origin = new_id()
        show_origin(origin)
    end
    local topic = {
        head = system .. "\0" .. kind .. "\0", origin = "\0" .. origin .. ".", seq = 0, born = born or -1, era = {},
    }
    topics[system] = topics[system] or {}
    topics[system][kind] = topic
    topic_count = topic_count + 1
    return topic
end

-- Sending (R23, R24) --------------------------------------------------------------------------------------------------

--- Send a frame that the `block` links have taken to the others, and count it.
local function deliver(topic, frame, events)
    topic.seq = topic.seq + events
    for i = 1, #drop_links do
        local link = drop_links[i]
        if not send_to(link, frame) or link.shown < link.epoch then owe(link, topic.era) end
    end
    unmarked[topic] = true
    active = true
    if not restless then
        restless = true
        C.write(wake, ffi.new("uint64_t[1]", 1), 8)
    end
end

--- Send an event, or a batch, whose data field is `data`.
function office.send(system, kind, path, data, events, timeout)
    local deadline
    while true do
        local kinds = topics[system]
        local topic = kinds and kinds[kind]
        if not topic or directory.token[0] ~= known or block_links > 0 then
            if not topic then check_topic(system, kind) end
            local born, seconds = micros(), timeout or options.send_timeout
            deadline = deadline or now() + seconds
            if directory.token[0] ~= known and not settle(deadline, timeout) then time_out(seconds) end
            topic = topic or add_topic(system, kind, born)
        end
        if topic.era.settled ~= settled then renew_era(topic) end
        local stamp = format("%s%d%s%d\0", topic.origin, topic.seq + 1, topic.era.tail, micros_of(0))
        local frame = topic.head .. path .. stamp .. data
        if #frame > options.max_event_bytes then
            invalid("the event has %d bytes of at most %d (max_event_bytes): send a reference to the data instead",
                #frame, options.max_event_bytes)
        end
        if block_links == 0 or zmq.zmq_send(block_socket, frame, #frame, 0) >= 0 then
            return deliver(topic, frame, events)
        end
        local errno = ffi.errno()
        if errno ~= K.EAGAIN and errno ~= K.EINTR then refused("send", errno) end
        if now() > deadline then time_out(timeout or options.send_timeout) end
        process_commands(block_socket)
    end
end

-- Ingresses -----------------------------------------------------------------------------------------------------------
--
-- One for each subscription. A thread in C takes frames from the unix socket to the queue of the channel, so joins go
-- on and queues fill up exactly, whatever the user's program does.
--
--     SUB, bound ── zmq_proxy_steerable ── PUB ─┬─ SUB of the channel: `capacity` frames
--                                               └─ SUB for twins (W49), which never gets full

local ingresses = {} -- by id

local function open_sockets(ingress, topics_, capacity)
    local blocking, inner = ingress.overflow == "block", "inproc://" .. ingress.id
    local front = new_socket(Z.SUB, { [Z.SNDHWM] = 0, [Z.RCVHWM] = min(capacity, BLOCK_CAPACITY), [Z.BACKLOG] = 4096 })
    ingress.front = front
    zmq.zmq_setsockopt(front, Z.MAXMSGSIZE, ffi.new("int64_t[1]", options.max_event_bytes), 8)
    ingress.back = new_socket(Z.PUB, { [Z.SNDHWM] = 1, [Z.XPUB_NODROP] = blocking and 1 or 0 })
    zmq.zmq_bind(ingress.back, inner .. ".back")
    ingress.channel = new_socket(Z.SUB, { [Z.SNDHWM] = 0, [Z.RCVHWM] = max(1, capacity - 1) })
    zmq.zmq_connect(ingress.channel, inner .. ".back")
    for _, topic in ipairs(topics_) do
        subscribe(front, topic)
        subscribe(ingress.channel, topic)
    end
    if not blocking then
        ingress.twins = new_socket(Z.SUB, { [Z.SNDHWM] = 0, [Z.RCVHWM] = MAX_MARKS })
        zmq.zmq_connect(ingress.twins, inner .. ".back")
        subscribe(front, "\255#")
        for _, topic in ipairs(topics_) do subscribe(ingress.twins, "\255#" .. topic) end -- those of the channel only
    end
    subscribe(front, "\255" .. ingress.id .. ".1")
    process_commands(ingress.back) -- so that both subscriptions are in force before the first frame
    ingress.control, ingress.controlled = new_socket(Z.PAIR, {}), new_socket(Z.PAIR, {})
    zmq.zmq_bind(ingress.control, inner .. ".control")
    zmq.zmq_connect(ingress.controlled, inner .. ".control")
end

--- Listen, and put the ingress on the roster; return the time of W38.
local function announce(ingress, text)
    local scratch, path = at(ingress.id .. ".new"), at(ingress.id .. ".sock")
    if zmq.zmq_bind(ingress.front, "ipc://" .. scratch) ~= 0 then refused("listen at " .. scratch) end
    ingress.thread = start_thread("zbus forwarder", address(ingress.front), address(ingress.back),
        address(ingress.controlled))
    if directory.group then -- in a private directory the mode of a socket does not matter (R48)
        C.chown(scratch, 0xFFFFFFFF, directory.group)
        C.chmod(scratch, 0x1B0)
    end
    if C.rename(scratch, path) ~= 0 then refused("listen at " .. path) end
    local fd, new = create_file(ingress.id, text)
    C.close(fd)
    if C.rename(new, ingress.entry) ~= 0 then refused("write " .. ingress.entry) end
    local announced = micros()
    touch()
    return announced
end

local function stop_forwarder(ingress)
    if not ingress.thread then return end
    zmq.zmq_send(ingress.control, "TERMINATE", 9, 0)
    join_thread(ingress.thread)
    ingress.thread = nil
end

--- Take an ingress off the roster (R18). What it has then can still be received, until it is shut.
function office.leave(id)
    local ingress = ingresses[id]
    remove_file(ingress.entry)
    remove_file(at(id .. ".sock"))
    C.unlink(at(id .. ".new"))
    pcall(touch)
    -- A forwarder whose channel is full with `block` waits in its send: only the end of the channel frees it.
    if ingress.overflow == "drop" then stop_forwarder(ingress) end
end

function office.shut(id)
    local ingress = ingresses[id]
    ingresses[id] = nil
    zmq.zmq_close(ingress.channel)
    stop_forwarder(ingress)
    for _, name in ipairs { "twins", "controlled", "control", "back", "front" } do zmq.zmq_close(ingress[name]) end
end

--- Join: once this returns, every event that is sent reaches the channel (R16). Return the id of the ingress, the
-- addresses of the sockets to receive from, and the time of W38.
function office.subscribe(system, kind, overflow, capacity)
    local id = new_id()
    local ingress = { id = id, overflow = overflow, entry = at(id .. ".1." .. overflow) }
    ingresses[id] = ingress
    local well, announced = pcall(function()
        local kinds = kind and compile_pattern(kind, "kind pattern")
        open_sockets(ingress, prefixes(compile_pattern(system, "system pattern"), kinds), capacity)
        return announce(ingress, json_text {
            process = PROCESS, pid = C.getpid(), language = "lua", member = member.id, channels = 1,
            patterns = { { system, kind or "*", overflow } },
        })
    end)
    if not well then
        office.leave(id)
        office.shut(id)
        error(announced, 0)
    end
    return id, address(ingress.channel), ingress.twins and address(ingress.twins), announced
end

-- Opening and closing -------------------------------------------------------------------------------------------------

--- Open the bus, with the JSON of its options; return its directory.
function office.open(bus, text)
    options = read_json(text)
    open_directory(bus)
    open_token()
    reap(0.2)
    wake, context = GIVEN, zmq.zmq_ctx_new()
    if context == nil then refused("open a bus") end
    zmq.zmq_ctx_set(context, Z.MAX_SOCKETS, 65535)
    origin = new_id()
    create_member(origin)
    return directory.path
end

--- Send the last marks; while somebody has no room for them, wait for that until `deadline` (R59).
local function finish(deadline)
    repeat
        read_subscriptions()
        if send_marks(MAX_MARKS) and not is_owing(true) then return end
        pause(0.005)
    until now() > deadline
end

--- Return duplicates of the connections to those who have subscribed (R25).
local function duplicate_connections()
    local held = {}
    for fd, id in each_pair(socket_ids(C.getpeername)) do
        local copy = links[id] and links[id].shown > 0 and C.dup(fd) or -1
        if copy >= 0 then held[#held + 1] = copy end
    end
    return held
end

--- Wait until the peer of a connection has read everything (SIOCOUTQ), until `deadline` at most.
local function wait_until_read(fd, deadline)
    local unread = int_t()
    while C.ioctl(fd, 0x5411, ffi.cast("int *", unread)) == 0 and unread[0] > 0 and now() < deadline do pause(0.001) end
end

--- Leave the bus: hand over what was sent within `linger` seconds. All ingresses are shut.
function office.close()
    local deadline = now() + options.linger
    finish(deadline)
    local held = duplicate_connections()
    local sockets = { block_socket }
    for _, link in ipairs(drop_links) do sockets[#sockets + 1] = link.socket end
    for _, socket in ipairs(sockets) do
        set(socket, Z.LINGER, floor(max(0, deadline - now()) * 1000))
        zmq.zmq_close(socket)
    end
    while zmq.zmq_ctx_term(context) ~= 0 and ffi.errno() == K.EINTR do end
    context = nil
    for _, fd in ipairs(held) do
        wait_until_read(fd, deadline)
        C.close(fd)
    end
    remove_file(at(member.id .. ".member"))
    for _, fd in ipairs { member.fd, directory.token_fd, directory.fd } do C.close(fd) end
end

local function told(well, ...)
    if well then return true, ... end
    local err = ...
    if getmetatable(err) ~= Error then error(err, 0) end
    return false, err:kind(), err:message(), err:retryable()
end

for name, run in each_pair(office) do
    _G[name] = function(...) return told(pcall(run, ...)) end
end

return
end

-- Loss (W27 to W41, W56): a channel decodes the frames that reach it, and counts those that did not

--- Decodes and counts the frames of one channel. `lost` and `malformed` count from the join.
local Decoder = {}
Decoder.__index = Decoder

--- Return a decoder for one channel, which joined at the times of W38 and W28, in microseconds; `nil` if unknown.
function Decoder.new(system, kind, announced, joined, limit)
    return setmetatable({
        systems = compile_pattern(system, "system pattern"),
        kinds = kind and compile_pattern(kind, "kind pattern") or nil,
        announced = announced, joined = joined,
        forgetful = joined == nil, -- whether `first` counts no longer (W34)
        topics = {}, topic_count = 0,
        -- When there are `limit` young streams they become the old ones, and those are forgotten.
        limit = limit or MAX_STREAMS, young = {}, young_count = 0, old = nil, latest_born = 0,
        lost = 0, malformed = 0,
        gaps = {}, -- those of the latest frame
    }, Decoder)
end

--- Return the topic of `key`, system and kind with a NUL between; `nil` if these are no names.
local function find_topic(self, key)
    local system, kind = match(key, "^(%Z*)%z(%Z*)$")
    if name_fault(system) or name_fault(kind) or not is_utf8(key) then return nil end
    if self.topic_count >= MAX_TOPICS then self.topics, self.topic_count = {}, 0 end
    local wanted = matches(self.systems, system) and (not self.kinds or matches(self.kinds, kind))
    local topic = { key = key, system = system, kind = kind, wanted = wanted }
    self.topics[key] = topic
    self.topic_count = self.topic_count + 1
    return topic
end

--- Return what a stamp tells, `nil` if it is malformed (W5 to W8).
local function read_stamp(text)
    local origin, seq, more = match(text, "^([0-9a-f]+)%.(%d+)(.*)$")
    if not origin or #origin < 8 or #origin > 16 or more ~= "" and byte(more) ~= 46 then return nil end
    seq = decimal(seq)
    if not seq or seq == 0 then return nil end
    local born, settled, first, time = match(more .. "....", "^%.([^.]*)%.([^.]*)%.([^.]*)%.([^.]*)")
    return {
        origin = origin, seq = seq, born = decimal(born), settled = decimal(settled), first = decimal(first),
        time = decimal(time),
    }
end

--- Return which number is due when a stream is first seen, `nil` for nothing (W29).
local function first_due(self, stamp)
    local settled, first = stamp.settled, stamp.first
    if stamp.born and self.joined and stamp.born > self.joined then return 1 end
    if not settled then return stamp.seq end
    if self.announced and settled <= self.announced then return nil end
    if first and first > 0 and first <= stamp.seq and not self.forgetful then return first end
    return stamp.seq
end

--- Note that the numbers from `due` to the one before `seq` are lost.
local function lose(self, topic, origin, due, seq)
    if due >= seq then return end
    local events = tonumber(seq - due)
    self.lost = self.lost + events
    self.gaps[#self.gaps + 1] = {
        origin = origin, system = topic.system, kind = topic.kind, first = due, last = seq - 1, events = events,
    }
end

local function keep_stream(self, key, stream)
    if self.young_count >= self.limit then
        if self.old then -- what is forgotten may come back: then neither 1 nor `first` is due (W34)
            self.joined = self.joined and max(self.joined, self.latest_born)
            self.forgetful = true
        end
        self.old, self.young, self.young_count = self.young, {}, 0
    end
    self.young[key] = stream
    self.young_count = self.young_count + 1
end

local function find_stream(self, key)
    local stream = self.young[key] or self.old and self.old[key]
    if stream and not self.young[key] then
        self.old[key] = nil
        keep_stream(self, key, stream)
    end
    return stream
end

--- Count what a mark shows that was lost before the stream was counted (W40).
local function count_head(self, topic, stream, stamp)
    local settled, first, begin = stamp.settled, stamp.first, stream.begin
    if self.forgetful or not settled or not first or first == 0 or first >= begin then return end
    if self.announced and settled <= self.announced or begin - first > MAX_GAP then return end
    lose(self, topic, stamp.origin, first, begin)
    stream.begin = first
end

local VIA = "^" .. ("[^.]*%."):rep(6) .. "([^.]*)"
local BUS = ("[0-9a-f]"):rep(16) .. "%-"

--- Return whether a stamp names the buses on which the events have been, 1 to 32: a link has sent them (W55).
local function is_relayed(text)
    local via = match(text, VIA)
    return via ~= nil and #via <= 32 * 17 and (via .. "-"):gsub(BUS, "") == ""
end

--- Count a frame of `events` events, a mark if there are none; return false if its number is too high (W41). Else
-- return true, and whether to skip it: it came before, and a link has sent it again (W56).
local function count(self, topic, stamp, events, text)
    local seq, key = stamp.seq, topic.key .. stamp.origin
    local stream = find_stream(self, key)
    local due
    if stream then due = stream.due else due = first_due(self, stamp) end
    if due and seq > due and seq - due > MAX_GAP then return false end
    if stream and events > 0 and seq + events <= due and is_relayed(text) then return true, true end
    if not stream then
        self.latest_born = max(self.latest_born, tonumber(stamp.born or 0))
        if not due then return true end
        stream = { begin = due, due = due }
        keep_stream(self, key, stream)
    elseif events == 0 then
        count_head(self, topic, stream, stamp)
    end
    lose(self, topic, stamp.origin, due, seq)
    if events > 0 or seq > due then stream.due = seq + events end
    return true
end

local function new_event(topic, path, data, stamp, offset)
    if data == null then data = nil end
    if not stamp then return { system = topic.system, kind = topic.kind, path = path, data = data } end
    return {
        system = topic.system, kind = topic.kind, path = path, data = data,
        origin = stamp.origin, seq = stamp.seq + offset, time = stamp.time and tonumber(stamp.time) / 1e6 or nil,
    }
end

--- Return whether `rows` are those of a batch (W12).
local function is_batch(rows, stamped)
    if type(rows) ~= "table" then return false end
    if #rows == 0 then return getmetatable(rows) == array_mt and stamped end
    for _, row in ipairs(rows) do
        local path = type(row) == "table" and row[1]
        if type(path) ~= "string" or path == "" or find(path, "%z") or row[3] ~= nil then return false end
    end
    return true
end

--- Return the data of an event, and whether it is well-formed (W9).
local function read_data(field)
    if field == "" then return nil, true end
    if byte(field) == 0 then return setmetatable({ bytes = sub(field, 2) }, Bytes), true end
    local well, data = pcall(read_json, field)
    return data, well
end

local function reject(self)
    self.malformed = self.malformed + 1
    return nil
end

--- Decode a frame; return its event, or `nil` and the list of events of a batch, or nothing.
-- `gaps` then holds what it showed as lost.
function Decoder:feed(frame)
    if self.gaps[1] then self.gaps = {} end
    if byte(frame) == 0xFF then return nil end
    local key, path, stamp_text, at = match(frame, "^(%Z*%z%Z*)%z(%Z*)%z(%Z*)%z()")
    local topic = key and (self.topics[key] or find_topic(self, key))
    if not topic then return reject(self) end
    if not topic.wanted then return nil end
    local stamp
    if stamp_text ~= "" then
        stamp = read_stamp(stamp_text)
        if not stamp then return reject(self) end
    end
    self.stamp = stamp
    local data, well = read_data(sub(frame, at))
    if not well or not is_utf8(path) then return reject(self) end
    if path == "" and not is_batch(data, stamp ~= nil) then return reject(self) end
    if stamp then
        local well_numbered, again = count(self, topic, stamp, path ~= "" and 1 or #data, stamp_text)
        if not well_numbered then return reject(self) end
        if again then return nil end
    end
    if path ~= "" then return new_event(topic, path, data, stamp, 0) end
    for i, row in ipairs(data) do data[i] = new_event(topic, row[1], row[2], stamp, i - 1) end
    return nil, data
end

--- Return the data field of a frame (W9).
local function data_field(data)
    if data == nil or data == null then return "" end
    if getmetatable(data) == Bytes then return "\0" .. data.bytes end
    return json_text(data)
end

--- Return the data field of a batch (W12).
local function batch_field(items)
    if type(items) ~= "table" then invalid("items must be a list of {path, data} pairs, not %s", type(items)) end
    local rows = {}
    for i = 1, #items do
        local item = items[i]
        if type(item) ~= "table" then invalid("item %d must be a {path, data} pair, not %s", i, type(item)) end
        local path, data = check_text(item[1], "path"), item[2]
        rows[i] = "[" .. json_text(path) .. (data == nil and "" or "," .. json_text(data, 2)) .. "]"
    end
    return "[" .. concat(rows, ",") .. "]"
end

-- The user's side: subscriptions --------------------------------------------------------------------------------------

local FORKED = "this process was forked from the one that opened the bus: open one of its own"

--- Receives events, from `events.subscribe`. It is its own channel.
-- @type Subscription
local Subscription = {}
Subscription.__index = Subscription

--- Return the next frame that has arrived, and after all frames the marks that came with them (W49).
local function next_frame(self)
    local frame = self.socket and take(self.socket)
    if frame then return frame end
    if self.held_next > #self.held then
        self.held, self.held_next = {}, 1
        if not self.twins then return nil end
        for twin in take, self.twins do table.insert(self.held, sub(twin, 3)) end
        if self.held[1] then return next_frame(self) end -- what arrived before them goes first
        return nil
    end
    self.held_next = self.held_next + 1
    return self.held[self.held_next - 1]
end

--- Return the next event that has arrived, `nil` if there is none now.
local function next_event(self)
    local decoder = self.decoder
    while true do
        if self.batch then
            local event = self.batch[self.batch_next]
            self.batch_next = self.batch_next + 1
            if event then return event end
        end
        local frame = next_frame(self)
        if not frame then return nil end
        local event, batch = decoder:feed(frame)
        self.batch, self.batch_next = batch, 1
        for _, gap in ipairs(self.on_gap and decoder.gaps or {}) do self.on_gap(gap) end
        if event then return event end
    end
end

--- Wait for the first of several subscriptions, in the order given.
-- @tparam table subscriptions a list
-- @tparam[opt] number timeout seconds; forever by default
-- @return the one that has it, the event, and true; or, if it is closed and drained, that one, `nil` and false;
-- nothing if the time is over
-- @function events.select
local function select_event(subscriptions, timeout)
    local deadline = timeout and now() + timeout
    while true do
        local sockets = {}
        for _, self in ipairs(subscriptions) do
            if self.socket and self.bus.pid ~= C.getpid() then return self, nil, false, new_error(CANCELED, FORKED) end
            local event = next_event(self)
            if event then return self, event, true end
            if not self.socket then return self, nil, false end
            sockets[#sockets + 1] = self.socket
            sockets[#sockets + 1] = self.twins
        end
        local left = deadline and deadline - now() or 1
        if left <= 0 then return nil end
        wait_for(sockets, left)
    end
end

--- Return the next event and true. It waits until there is one.
--
-- An event has `system`, `kind`, `path`, `data`, and `origin`, `seq` and `time` (seconds since 1970). Once the
-- subscription is closed and what had arrived is taken, this returns `nil, false`.
-- @tparam[opt] number timeout seconds to wait at most; forever by default
-- @return `nil`, false and an error (kind Timeout, retryable) if the time is over: nothing is lost
function Subscription:receive(timeout)
    local found, event, open, err = select_event({ self }, timeout)
    if found then return event, open, err end
    return nil, false, new_error(TIMEOUT, format("no event within %g s", timeout), true)
end

--- Return where the events arrive.
function Subscription:channel() return self end
--- How many events were lost so far: dropped because the queue was full.
function Subscription:lost() return self.decoder.lost end
--- How many frames were skipped because they were no events.
function Subscription:malformed() return self.decoder.malformed end

--- Unsubscribe. What has arrived can still be received. Closing twice does nothing.
-- @treturn boolean true
function Subscription:close()
    if self.bus.pid ~= C.getpid() then return self.bus:close() end
    if not self.socket then return true end
    self.bus.subscriptions[self] = nil
    call(self.bus.office, "leave", self.id)
    local held = {}
    for frame in next_frame, self do held[#held + 1] = frame end
    self.held, self.socket, self.twins = held, nil, nil
    call(self.bus.office, "shut", self.id)
    return true
end

-- Bus -----------------------------------------------------------------------------------------------------------------

--- One process's place on a bus, from `events.open`. The functions of the module open one when it is first needed.
-- @type Bus
local Bus = {}
Bus.__index = Bus

local open_buses = {}

-- The least number that an option may be, and the highest integer; nothing for a text.
local MOST = 2 ^ 31 - 1
local SUBSCRIBE_OPTIONS = { overflow = {}, capacity = { 1, MOST }, on_gap = {} }
local BUS_OPTIONS = {
    bus = {}, capacity = { 1, MOST }, linger = { 0 }, send_timeout = { 0 }, join_timeout = { 0 },
    max_event_bytes = { 276, MOST },
}

local function check_options(options, allowed)
    for name, value in each_pair(options or {}) do
        local limits = allowed[name] or invalid("there is no option %s", quoted(name))
        local least, most = limits[1], limits[2]
        if least and not (type(value) == "number" and value >= least) then
            invalid("%s must be a number, at least %d", name, least)
        end
        if most and (value > most or value % 1 ~= 0) then invalid("%s must be an integer up to %d", name, most) end
    end
    return options or {}
end

local function open_bus(given)
    given = check_options(given, BUS_OPTIONS)
    local name, all = given.bus or os.getenv("ZBUS_BUS"), {}
    if not name or name == "" then name = "default" end
    for key, value in each_pair(DEFAULTS) do all[key] = given[key] or value end
    local wake = C.eventfd(0, K.O_NONBLOCK + K.O_CLOEXEC)
    if wake < 0 then refused("open a bus") end
    local state = new_state("zbus office", wake, arg and arg[0] or "luajit")
    local office = { state = state, mutex = buffer_t(64) }
    local well, path = pcall(call, office, "open", name, json_text(all))
    if not well then
        C.lua_close(state)
        C.close(wake)
        error(path, 0)
    end
    local self = {
        pid = C.getpid(), office = office, path = path, wake = wake, capacity = all.capacity, subscriptions = {},
        keeper = start_thread("zbus keeper", address(state), address(office.mutex), wake),
    }
    open_buses[self] = true
    return setmetatable(self, Bus)
end

--- Return a method which returns `failed, err` if `run` raises an error.
local function method(failed, run)
    return function(self, ...)
        if self.pid ~= C.getpid() then return failed, new_error(CANCELED, FORKED) end
        if self.closed then return failed, new_error(CANCELED, "the bus is closed: open another") end
        return returning(failed, pcall(run, self, ...))
    end
end

--- Subscribe. Once this returns, every event of every process that is sent reaches the subscription.
-- @tparam string system a pattern: `orders`, `orders.*` (one segment), `orders.**` (any depth), `(eu|us).orders`, `*`
-- @tparam[opt] string kind a pattern too; every kind by default
-- @tparam[opt] table options `overflow`: what a full queue means, `"drop"` (the newest events are dropped and counted)
-- or `"block"` (publishers wait); `capacity`: frames that wait; `on_gap`: called with each gap, a table with `origin`,
-- `system`, `kind`, `first`, `last` and `events`
-- @treturn Subscription or `nil` and an error
-- @function Bus:subscribe
Bus.subscribe = method(nil, function(self, system, kind, options)
    options = check_options(options, SUBSCRIBE_OPTIONS)
    if system == nil or system == "" then invalid("system pattern is required") end
    if kind == "" or kind == "*" then kind = nil end
    local overflow = options.overflow or "drop"
    if overflow ~= "drop" and overflow ~= "block" then
        invalid("overflow must be 'drop' or 'block', not %s", quoted(overflow))
    end
    local id, socket, twins, announced =
        call(self.office, "subscribe", system, kind, overflow, options.capacity or self.capacity)
    local subscription = setmetatable({
        bus = self, id = id, decoder = Decoder.new(system, kind, announced, micros()), on_gap = options.on_gap,
        socket = pointer(socket), twins = twins and pointer(twins), held = {}, held_next = 1,
    }, Subscription)
    self.subscriptions[subscription] = true
    return subscription
end)

--- Send an event. No subscriber is not an error.
-- @tparam string system its name, for example `orders`
-- @tparam string kind for example `order.created`
-- @tparam string path for example `/orders/123`
-- @param[opt] data a table, string, number or boolean; or `events.bytes(...)`
-- @tparam[opt] number timeout seconds to wait for a `block` subscriber
-- @treturn boolean true; or false and an error: kind Invalid: nothing was sent; Timeout (retryable): a `block`
-- subscriber made no room, and nobody got it
-- @function Bus:send
Bus.send = method(false, function(self, system, kind, path, data, timeout)
    check_text(path, "path")
    call(self.office, "send", system, kind, path, data_field(data), 1, timeout)
    return true
end)

--- Send events of one topic, a list of `{path, data}`, as one frame, all or none: cheaper than one by one.
-- @treturn number how many; or `nil` and an error, as `send`
-- @function Bus:send_many
Bus.send_many = method(nil, function(self, system, kind, items, timeout)
    local field = batch_field(items)
    if #items > 0 then call(self.office, "send", system, kind, "", field, #items, timeout) end
    return #items
end)

--- In a forked child: close the descriptors of the parent's bus (R31).
local function abandon(self)
    for _, ask in ipairs { C.getpeername, C.getsockname } do
        for fd in each_pair(socket_ids(ask)) do C.close(fd) end
    end
    local target = ffi.new("char[4096]")
    for _, name in ipairs(list("/proc/self/fd")) do
        local bytes = C.readlink("/proc/self/fd/" .. name, target, 4096)
        if bytes > 0 and sub(ffi.string(target, bytes), 1, #self.path) == self.path then C.close(tonumber(name)) end
    end
    C.close(self.wake)
    for subscription in each_pair(self.subscriptions) do subscription.socket, subscription.twins = nil, nil end
end

--- Close the bus: end its subscriptions, hand over what was sent within `linger` seconds, leave the roster.
-- What has arrived in its subscriptions can still be received. Closing twice does nothing.
-- @treturn boolean true
function Bus:close()
    if self.closed then return true end
    self.closed = true
    open_buses[self] = nil
    if self.pid ~= C.getpid() then
        abandon(self)
        return true
    end
    for subscription in each_pair(self.subscriptions) do subscription:close() end
    call(self.office, "close")
    C.write(self.wake, ffi.new("uint64_t[1]", 1), 8)
    join_thread(self.keeper)
    C.lua_close(self.office.state)
    C.close(self.wake)
    return true
end

-- The module ----------------------------------------------------------------------------------------------------------

local events = { select = select_event }

--- The kinds of errors, as in `err:kind() == events.errors.INVALID`.
events.errors = {
    INVALID = INVALID, -- the call is wrong: a malformed name or pattern, or data that cannot be sent
    TIMEOUT = TIMEOUT, -- time ran out: no event arrived, or a `block` subscriber made no room
    CANCELED = CANCELED, -- the bus is closed, or belongs to the parent of this forked process
    PERMISSION_DENIED = PERMISSION_DENIED, -- the bus directory is not safe to use
    UNAVAILABLE = UNAVAILABLE, -- the operating system refused something
}

--- JSON null within data. Data that is null as a whole is `nil`.
events.null = null

--- Open a bus. The other functions of the module open one by themselves.
-- @tparam[opt] table options `bus`: its name (`$ZBUS_BUS`, or `default`); `capacity`: frames that wait in a channel
-- (65,536); `send_timeout`: seconds that a send waits for a `block` subscriber (5); `join_timeout`: seconds that it
-- waits for a joining one (1); `linger`: seconds that closing may take (1); `max_event_bytes`: the largest frame
-- (16 MiB), the same for all peers
-- @treturn Bus or `nil` and an error
function events.open(options) return returning(nil, pcall(open_bus, options)) end

local default_bus

-- `events.subscribe`, `events.send` and `events.send_many` are those of a bus that is opened when it is first needed.
for _, name in ipairs { "subscribe", "send", "send_many" } do
    events[name] = function(...)
        if default_bus and default_bus.pid ~= C.getpid() then default_bus:close() end
        if not default_bus or default_bus.closed then
            local err
            default_bus, err = events.open()
            if err then return name ~= "send" and nil, err end
        end
        return default_bus[name](default_bus, ...)
    end
end

--- Close the bus that `subscribe` and `send` use. The next call opens it again.
function events.close()
    if default_bus then default_bus:close() end
    default_bus = nil
    return true
end

--- Return raw bytes to send as data. Data that arrives as bytes is like that too: `tostring(evt.data)`.
function events.bytes(text)
    if type(text) ~= "string" then error("bytes must be a string, not " .. type(text), 2) end
    return setmetatable({ bytes = text }, Bytes)
end

function events.is_bytes(value) return getmetatable(value) == Bytes end

--- Mark a table as an array, so that it is sent as `[]` when it is empty. Arrays that arrive empty are marked.
function events.array(items) return setmetatable(items or {}, array_mt) end

-- Contexts must end before the process does (R60): at the end of the state, and before `os.exit`.
local function close_all()
    for bus in each_pair(open_buses) do pcall(bus.close, bus) end
end

events._anchor = newproxy(true)
getmetatable(events._anchor).__gc = close_all

local exit = os.exit
function os.exit(...) -- luacheck: ignore 122
    close_all()
    return exit(...)
end

-- For the conformance kit: patterns, names and frames without a bus.
events._internals = {
    Decoder = Decoder, compile_pattern = compile_pattern, matches = matches, prefixes = prefixes,
    parse_name = parse_name, parse_sentinel = parse_sentinel, is_bus_name = is_bus_name, find_root = find_root,
    read_json = read_json, json_text = json_text, now = now, micros = micros,
    encode = function(system, kind, path, data, items, stamp)
        check_topic(system, kind)
        if not items then check_text(path, "path") end
        local field = items and batch_field(items) or data_field(data)
        return system .. "\0" .. kind .. "\0" .. (items and "" or path) .. "\0" .. stamp .. "\0" .. field
    end,
}

return events
