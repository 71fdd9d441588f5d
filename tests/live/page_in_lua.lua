-- Runs a block of the original's page, unchanged, with stand-ins for what the page leaves to its reader.
--
--     luajit page_in_lua.lua NAME < chunk
--
-- NAME says which stand-ins do something. What happens is told on stdout, a JSON line each.

local cjson = require("cjson")

local name = arg[1]
local chunk = assert(loadstring(io.read("*a"), "=page"))

local function tell(fact)
    io.write(cjson.encode(fact), "\n")
    io.flush()
end

json = cjson
logger = { info = function(_, message, fields) tell { logged = message, fields = fields } end }
time = { now = function() return { format = function() return "2026-11-24T12:00:00+00:00" end } end }
user = { id = "7", email = "a@example.org" }
payment = { id = "9", order_id = "123", amount = 99.99, method = "card" }
print = function(...) tell { printed = { ... } } end

local events = require("events")
local handled = 0

--- Handle an event; the second one ends the program's bus, as the end of its process would.
function handle_event(evt)
    handled = handled + 1
    tell { handled = evt.path, data = evt.data }
    if handled == 2 then events.close() end
end

if name == "channel" or name == "close" then
    sub = assert(events.subscribe("orders"))
    tell { ready = true }
end

local function told(call, ...)
    local result, err = call(...)
    return {
        result = result or false, kind = err:kind(), message = err:message(), text = tostring(err), retryable = err:retryable(),
    }
end

if name == "errors" then
    tell { errors = {
        told(events.subscribe, ""), told(events.send, "", "k", "/p"), told(events.send, "s", "", "/p"),
        told(events.send, "s", "k", ""),
    }, invalid = events.errors.INVALID }
end

local result, err = chunk()
if err then tell { failed = err:message() } end
if name == "close" then
    local evt, ok = sub:channel():receive()
    tell { closed = not ok and evt == nil, same = sub:channel() == sub:channel(), again = sub:close() }
end
tell { ended = true }
