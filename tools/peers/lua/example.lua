-- Subscribe and send, beside any other peer of the bus:
--
--     luajit example.lua receive &
--     luajit example.lua send
--
-- `zbus sub "orders.**"` and `zbus send orders.eu order.created /orders/1 '{"total": 9.5}'` speak with it, too.

package.path = (arg[0]:match("^(.*)/") or ".") .. "/?.lua;" .. package.path

local events = require("events")

local function receive()
    local sub, err = events.subscribe("orders.**", nil, {
        on_gap = function(gap) print(("lost %d events of %s %s"):format(gap.events, gap.system, gap.kind)) end,
    })
    if err then return err end
    local ch = sub:channel()
    while true do
        local evt, ok = ch:receive()
        if not ok or evt.kind == "closed" then break end
        print(evt.system, evt.kind, evt.path, evt.data and evt.data.total)
    end
end

local function send()
    for number = 1, 3 do
        local _, err = events.send("orders.eu", "order.created", "/orders/" .. number, { total = number * 9.5 })
        if err then return err end
    end
    local _, err = events.send("orders.eu", "closed", "/orders")
    return err
end

local err = (arg[1] == "receive" and receive or send)()
if err then
    io.stderr:write(err:kind(), ": ", err:message(), "\n")
    os.exit(1)
end
