// Subscribe to orders, and send one a second: `node example.mjs`. Python's example sees them, and the other way round.
import { open } from "./zbus.mjs"

const bus = await open()
const sub = await bus.subscribe("orders.**", {
  onGap: ({ first, last }) => console.log(`lost ${first} to ${last}`),
})
const stop = new AbortController()
process.once("SIGINT", () => stop.abort())
stop.signal.addEventListener("abort", () => bus.close())

async function sendOrders() {
  for (let n = 1; !stop.signal.aborted; n++) {
    await bus.send("orders.eu", "order.created", `/orders/${n}`, { total: 9.5 * n })
    await new Promise((resolve) => setTimeout(resolve, 1000))
  }
}

sendOrders().catch((error) => console.error(`${error.kind}: ${error.message}`))
for await (const evt of sub) console.log(evt.system, evt.kind, evt.path, evt.data)
