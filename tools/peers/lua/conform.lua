-- The driver of the Lua peer for tools/conform: a JSON line is a request, and one is its answer.
-- See docs/howto/conform.md.

package.path = (arg[0]:match("^(.*)/") or ".") .. "/?.lua;" .. package.path

local ffi = require("ffi")
local cjson = require("cjson")
local events = require("events")

local internals = events._internals
local now, micros, read_json = internals.now, internals.micros, internals.read_json
local LOOK, PATH = 0.05, "/conform"

local function list(items) return events.array(items or {}) end

local function bytes_of(hex)
    return (hex:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end))
end

local function hex_of(text)
    return (text:gsub(".", function(c) return ("%02x"):format(c:byte()) end))
end

--- Raise the error of a call that returned `nil, err` or `false, err`.
local function checked(result, err)
    if err then error(err, 0) end
    return result
end

local function name_of(fields, field)
    local hex = fields[field .. "_hex"]
    if hex then return bytes_of(hex) end
    return fields[field]
end

--- Return the data of a request, as a user would pass it.
local function data_of(fields)
    if fields.hex then return events.bytes(bytes_of(fields.hex)) end
    if not fields.json then return nil end
    local well, value = pcall(read_json, fields.json)
    if not well then well, value = pcall(cjson.decode, fields.json) end -- it takes NaN
    if not well then
        checked(events.send("a", "b", "/c", "\255")) -- what a text that is not UTF-8 is refused with
    end
    return value
end

local function told(evt)
    local row = {
        system = evt.system, kind = evt.kind, path = evt.path, origin = evt.origin or "", seq = evt.seq or 0,
        time = evt.time and math.floor(evt.time * 1e6 + 0.5) or events.null,
    }
    if events.is_bytes(evt.data) then
        row.hex = hex_of(tostring(evt.data))
    elseif evt.data ~= nil then
        row.json = internals.json_text(evt.data)
    end
    return row
end

------------------------------------------------------------------------------------------------------------
-- Live verbs

local bus, bus_options
local subscriptions = {}

local function sleep(seconds) ffi.C.poll(nil, 0, math.floor(seconds * 1000 + 0.5)) end

local function subscribe(fields)
    return checked(bus:subscribe(name_of(fields, "system"), name_of(fields, "kind"), {
        overflow = fields.overflow, capacity = fields.capacity,
    }))
end

--- Call `visit` for each event until there are `most`, or `until_` were received or lost, or nothing goes on.
local function each(ours, most, until_, timeout, visit)
    local channel = ours.channel
    local got, progress, seen = 0, now(), nil
    while got < most and ours.count + channel:lost() < until_ and ours.open do
        local evt, ok, err = channel:receive(until_ < math.huge and math.min(LOOK, timeout) or timeout)
        if evt then
            got, ours.count = got + 1, ours.count + 1
            visit(evt)
        elseif not ok and not err then
            ours.open = false
        end
        local state = ours.count + channel:lost() + channel:malformed()
        if state ~= seen then
            seen, progress = state, now()
        elseif now() - progress >= timeout then
            return
        end
    end
end

local function state_of(ours, answer)
    answer.received, answer.lost, answer.malformed, answer.open =
        ours.count, ours.channel:lost(), ours.channel:malformed(), ours.open
    return answer
end

local function new_tally()
    local tally, seen = { first = 0, last = 0, ordered = true }, {}
    return tally, function(evt)
        local stream = tostring(evt.origin) .. evt.system .. "\0" .. evt.kind
        if seen[stream] and evt.seq <= seen[stream] then tally.ordered = false end
        seen[stream] = evt.seq
        tally.last = type(evt.data) == "table" and evt.data.n or 0
        if tally.first == 0 then tally.first = tally.last end
    end
end

local function receive(fields, pause)
    local ours = subscriptions[fields.name]
    local most, until_ = fields.count or math.huge, fields["until"] or math.huge
    if not fields.tally and not pause then
        local found = {}
        each(ours, most, until_, fields.timeout, function(evt) found[#found + 1] = told(evt) end)
        return state_of(ours, { events = list(found) })
    end
    local tally, add = new_tally()
    each(ours, most, until_, fields.timeout, function(evt)
        add(evt)
        if pause then sleep(pause) end
    end)
    return state_of(ours, tally)
end

local function burst(fields)
    local system, kind, path = fields.system, fields.kind, fields.path or PATH
    local count, batch = fields.count, fields.batch or 0
    local pad = fields.bytes and fields.bytes > 0 and ("x"):rep(fields.bytes) or nil
    local began = now()
    for n = 1, count, math.max(batch, 1) do
        if batch > 0 then
            local items = {}
            for i = n, math.min(n + batch - 1, count) do items[#items + 1] = { path, { n = i, pad = pad } } end
            checked(bus:send_many(system, kind, items))
        else
            checked(bus:send(system, kind, path, { n = n, pad = pad }))
        end
        if fields.interval and fields.interval > 0 then sleep(fields.interval) end
    end
    return { sent = count, seconds = now() - began }
end

local function exists(path)
    local file = io.open(path)
    return file and file:close()
end

local verbs = {}

function verbs.hello()
    local major, minor, patch = ffi.new("int[1]"), ffi.new("int[1]"), ffi.new("int[1]")
    ffi.load("libzmq.so.5").zmq_version(major, minor, patch)
    local library = ("libzmq %d.%d.%d"):format(major[0], minor[0], patch[0])
    return { language = "lua", library = library .. ", " .. jit.version, pid = ffi.C.getpid() }
end

function verbs.open(fields)
    bus_options = {
        bus = fields.bus, capacity = fields.capacity, linger = fields.linger, send_timeout = fields.send_timeout,
        max_event_bytes = fields.max_event_bytes,
    }
    bus = checked(events.open(bus_options))
    return {}
end

function verbs.subscribe(fields)
    local sub = subscribe(fields)
    subscriptions[fields.name] = { sub = sub, channel = sub:channel(), count = 0, open = true }
    return {}
end

function verbs.receive(fields) return receive(fields) end

function verbs.slow(fields) return receive(fields, fields.pause) end

function verbs.busy(fields)
    sleep(fields.seconds) -- as the other drivers do; a loop would take one of the machine's CPUs from the publishers
    return {}
end

function verbs.send(fields)
    local system, kind, path = name_of(fields, "system"), name_of(fields, "kind"), name_of(fields, "path")
    checked(bus:send(system, kind, path, data_of(fields)))
    return {}
end

verbs.burst = burst

function verbs.stream(fields)
    local before, n = 0, 0
    repeat
        n = n + 1
        local at = micros()
        checked(bus:send(fields.system, fields.kind, fields.path or PATH, { n = n, at = at, prev = before }))
        before = at
        local done = exists(fields["until"])
        if not done then sleep(fields.interval) end
    until done
    return { sent = n }
end

function verbs.joins(fields)
    local seconds = {}
    for n = 1, fields.count do
        local began = now()
        local other = checked(events.open(bus_options))
        checked(other:send(fields.system, fields.kind, fields.path or PATH, { n = n }))
        seconds[n] = now() - began
        other:close()
    end
    return { seconds = list(seconds) }
end

function verbs.churn(fields)
    local rounds = {}
    for i = 1, fields.count do
        local sub = subscribe(fields)
        local joined = micros()
        local evt, _, err = sub:channel():receive(fields.timeout)
        checked(evt, err)
        rounds[i] = { joined = joined, n = evt.data.n, prev = evt.data.prev, lost = sub:lost() }
        sub:close()
    end
    return { rounds = list(rounds) }
end

function verbs.close(fields)
    if fields.name then
        subscriptions[fields.name].sub:close()
    elseif bus then
        bus:close()
        bus = nil
    end
    return {}
end

function verbs.speed(fields)
    if fields.role == "send" then return burst(fields) end
    local channel = subscriptions[fields.name].channel
    channel:receive()
    local began = now()
    for _ = 2, fields.count do channel:receive() end
    return { seconds = now() - began }
end

function verbs.echo(fields)
    local channel = subscriptions[fields.name].channel
    for _ = 1, fields.count do
        local evt = channel:receive()
        checked(bus:send(fields.system, fields.kind, evt.path, evt.data))
    end
    return {}
end

function verbs.ping(fields)
    local channel, found = subscriptions[fields.name].channel, {}
    for n = 1, fields.count do
        local began = now()
        checked(bus:send(fields.system, fields.kind, PATH, { n = n }))
        channel:receive()
        found[n] = (now() - began) * 1e6
    end
    return { micros = list(found) }
end

------------------------------------------------------------------------------------------------------------
-- The rules, without a bus

--- Return a list of `action(row)` for each row; null for nothing, and for what is refused.
local function each_of(rows, action)
    local found = {}
    for i, row in ipairs(rows or {}) do
        local well, value = pcall(action, row)
        if not well and type(value) ~= "table" then error(value, 0) end
        if not well or value == nil then value = events.null end
        found[i] = value
    end
    return list(found)
end

function verbs.patterns(fields)
    return {
        matches = each_of(fields.cases, function(case)
            return internals.matches(internals.compile_pattern(case.pattern, "pattern"), case.name)
        end),
        prefixes = each_of(fields.prefixes, function(case)
            local kind = case.kind ~= events.null and case.kind or nil
            local found = internals.prefixes(internals.compile_pattern(case.system, "pattern"),
                kind and kind ~= "" and internals.compile_pattern(kind, "pattern") or nil)
            for i, prefix in ipairs(found) do found[i] = hex_of(prefix) end
            return list(found)
        end),
        refused = each_of(fields.invalid, function(case)
            return not pcall(internals.compile_pattern, case.pattern, "pattern")
        end),
    }
end

function verbs.decode(fields)
    local function given(name) return fields[name] ~= events.null and fields[name] or nil end
    local decoder =
        internals.Decoder.new(fields.system, given("kind"), given("announced"), given("joined"), given("limit"))
    return {
        frames = each_of(fields.frames, function(row)
            decoder.stamp = nil
            local event, rows = decoder:feed(bytes_of(row.hex))
            local found, gaps, stamp = {}, {}, decoder.stamp
            for i, evt in ipairs(rows or { event }) do found[i] = told(evt) end
            for i, gap in ipairs(decoder.gaps) do gaps[i] = list { gap.first, gap.last } end
            for i = 1, #found do found[i].time = stamp and stamp.time or events.null end
            return {
                events = list(found), gaps = list(gaps), lost = decoder.lost, malformed = decoder.malformed,
                born = stamp and (stamp.born or -1), settled = stamp and (stamp.settled or -1),
                first = stamp and (stamp.first or -1),
            }
        end),
    }
end

function verbs.encode(fields)
    local data, items
    if fields.items then
        items = {}
        for i, item in ipairs(fields.items) do items[i] = { name_of(item, "path"), data_of(item) } end
    else
        data = data_of(fields)
    end
    local frame = internals.encode(name_of(fields, "system"), name_of(fields, "kind"), name_of(fields, "path"), data,
        items, fields.stamp or "")
    return { hex = hex_of(frame) }
end

function verbs.names(fields)
    return {
        files = each_of(fields.files, function(row)
            local is, id, epoch, overflow = internals.parse_name(bytes_of(row.hex))
            if is == "entry" then return { id = id, epoch = epoch, overflow = overflow } end
            return is and { is = is } or nil
        end),
        sentinels = each_of(fields.sentinels, function(row)
            local id, epoch = internals.parse_sentinel(bytes_of(row.hex))
            return id and { ingress = id, epoch = epoch } or nil
        end),
        buses = each_of(fields.buses, function(row) return internals.is_bus_name(row.name) end),
        roots = each_of(fields.roots, function(row)
            return (internals.find_root(function(name) return row.env[name] end))
        end),
    }
end

------------------------------------------------------------------------------------------------------------

local function answer(request)
    local verb = verbs[request.verb]
    if not verb then return { unsupported = "there is no verb " .. tostring(request.verb) } end
    local well, result = pcall(verb, request)
    if well then
        result.ok = true
        return result
    end
    if type(result) == "table" and result.kind then
        return { error = { kind = result:kind(), message = result:message(), retryable = result:retryable() } }
    end
    error(result, 0)
end

for line in io.lines() do
    io.write(internals.json_text(answer(read_json(line))), "\n")
    io.flush()
end
verbs.close {}
