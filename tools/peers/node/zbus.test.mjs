// What the conformance kit does not reach: connections that come in pieces, speak something else, or end too early.
import assert from "node:assert/strict"
import { spawn } from "node:child_process"
import { once } from "node:events"
import fs from "node:fs"
import net from "node:net"
import os from "node:os"
import path from "node:path"
import { afterEach, test } from "node:test"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { open } from "./zbus.mjs"

const TIMEOUT = 60
const patient = { timeout: TIMEOUT * 1000 }
const MECHANISM = "NULL".padEnd(20, "\0")
const ID = "0123456789abcdef"

process.env.ZBUS_DIR = fs.mkdtempSync(path.join(os.tmpdir(), "zbus-test-"))
process.on("exit", () => fs.rmSync(process.env.ZBUS_DIR, { recursive: true, force: true }))

const folder = (bus) => path.join(process.env.ZBUS_DIR, "v1", bus)
const bytes = (text) => Buffer.from(text, "latin1")
const frame = (text, flags = 0) => {
  const head = text.length > 255 ? Buffer.alloc(9) : Buffer.of(flags, text.length)
  if (text.length > 255) {
    head[0] = flags | 2
    head.writeBigUInt64BE(BigInt(text.length), 1)
  }
  return Buffer.concat([head, bytes(text)])
}
const greeting = ({ version = "\x03", mechanism = MECHANISM } = {}) =>
  Buffer.concat([bytes(`\xff\0\0\0\0\0\0\0\x01\x7f${version}\0${mechanism}`), Buffer.alloc(32)])
const ready = (type) => frame(`\x05READY\x0bSocket-Type\0\0\0${String.fromCharCode(type.length)}${type}`, 4)
const event = (n, more = "") => frame(`s\0k\0/p\0${ID}.${n}\0{"n":${n}${more}}`)

/** Wait until a condition holds. */
async function until(holds) {
  for (const end = performance.now() + TIMEOUT * 1000; !holds(); ) {
    assert.ok(performance.now() < end, `never: ${holds}`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

/** Return a connection to the only subscription of a bus. */
async function connect(bus) {
  const name = fs.readdirSync(folder(bus)).find((name) => name.endsWith(".sock"))
  const socket = net.connect(path.join(folder(bus), name)).on("error", () => {})
  left.push(() => socket.destroy())
  socket.resume()
  await once(socket, "connect")
  return socket
}

async function subscribed(bus, options, more) {
  const opened = await open(bus, options)
  const sub = await opened.subscribe("s", more)
  return { opened, sub, next: () => sub.receive({ timeout: TIMEOUT }) }
}

// What a test has left open would keep it from ending.
const left = []
afterEach(() => left.splice(0).forEach((end) => end()))

/** Listen as an ingress; `serve` speaks for it. */
async function ingress(bus, overflow, serve, id = ID) {
  const socket = path.join(folder(bus), `${id}.sock`)
  const server = net.createServer((connection) => {
    left.push(() => connection.destroy())
    serve(connection.on("error", () => {}))
  })
  left.push(() => server.close())
  server.listen(socket)
  await once(server, "listening")
  fs.writeFileSync(path.join(folder(bus), `${id}.1.${overflow}`), JSON.stringify({ pid: process.pid }))
  return server
}

const welcomeOf = (id, system) => {
  const topics = [`${system}\0`, "\xff#", `\xff${id}.1`]
  return Buffer.concat([greeting(), ready("SUB"), ...topics.map((topic) => frame(`\x01${topic}`))])
}
const welcome = welcomeOf(ID, "s")

/** Return the stamps' numbers of the frames that came after the greeting, marks as -n and twins as "~n". */
function numbers(received) {
  const found = []
  for (let at = 64; at < received.length; ) {
    const isLong = received[at] & 2
    const length = isLong ? Number(received.readBigUInt64BE(at + 1)) : received[at + 1]
    const from = at + (isLong ? 9 : 2)
    if (from + length > received.length) break
    const text = received.latin1Slice(from, from + length)
    const stamp = /\0[0-9a-f]{16}\.(\d+)\./.exec(text)
    const sign = text.endsWith("\0[]") ? -1 : 1
    if (stamp) found.push(text.startsWith("\xff") ? `~${stamp[1]}` : sign * Number(stamp[1]))
    at = from + length
  }
  return found
}

test("what comes byte by byte is read", patient, async () => {
  const { opened, next } = await subscribed("pieces")
  const socket = await connect("pieces")
  const all = Buffer.concat([greeting(), ready("XPUB"), event(1), event(2, `,"pad":"${"x".repeat(300)}"`), event(3)])
  for (const byte of all) {
    socket.write(Buffer.of(byte))
    await new Promise(setImmediate)
  }
  for (const n of [1, 2, 3]) assert.equal((await next()).data.n, n)
  socket.destroy()
  await opened.close()
})

const strangers = {
  "another protocol": bytes(`GET / HTTP/1.1\r\n${"x".repeat(64)}`),
  "ZMTP 2": greeting({ version: "\x01" }),
  "another mechanism": greeting({ mechanism: "CURVE".padEnd(20, "\0") }),
  "an error instead of READY": Buffer.concat([greeting(), frame("\x05ERROR\x02no", 4)]),
  "a message instead of READY": Buffer.concat([greeting(), event(1)]),
  "a READY without an end": Buffer.concat([greeting(), Buffer.of(6, 0, 0, 0, 0, 0, 1, 0, 0)]),
  "a frame that is too large": Buffer.concat([greeting(), ready("XPUB"), event(1, `,"pad":"${"x".repeat(2000)}"`)]),
  "a frame of 2^63 bytes": Buffer.concat([greeting(), ready("XPUB"), Buffer.of(2, 128, 0, 0, 0, 0, 0, 0, 0)]),
}
for (const [what, said] of Object.entries(strangers)) {
  test(`${what} ends that connection alone`, patient, async () => {
    const { opened, sub, next } = await subscribed("strangers", { maxEventBytes: 1000 })
    const [good, bad] = [await connect("strangers"), await connect("strangers")]
    good.write(Buffer.concat([greeting(), ready("XPUB"), event(1)]))
    bad.write(said)
    await once(bad, "close")
    good.write(event(2))
    for (const n of [1, 2]) assert.equal((await next()).data.n, n)
    assert.equal(sub.malformed, 0)
    good.destroy()
    await opened.close()
  })
}

test("who leaves in the middle of a greeting or a frame costs nothing", patient, async () => {
  const { opened, sub, next } = await subscribed("leavers")
  const whole = Buffer.concat([greeting(), ready("XPUB"), event(1)])
  for (const length of [0, 1, 63, 64, 66, whole.length - 1]) {
    const socket = await connect("leavers")
    await new Promise((resolve) => socket.write(whole.subarray(0, length), resolve))
    socket.destroy()
  }
  const socket = await connect("leavers")
  socket.write(whole)
  assert.equal((await next()).data.n, 1)
  assert.equal(sub.received, 1)
  socket.destroy()
  await opened.close()
})

test("a full block subscription keeps what connections said that have ended", patient, async () => {
  const { opened, sub, next } = await subscribed("held", {}, { overflow: "block", capacity: 2 })
  const sockets = await Promise.all([1, 2, 3].map(() => connect("held")))
  for (const [i, socket] of sockets.entries()) {
    const frames = Array.from({ length: 100 }, (_, n) => frame(`s\0k${i}\0/p\0\0{"n":${n}}`))
    socket.end(Buffer.concat([greeting(), ready("XPUB"), ...frames]))
  }
  const due = { k0: 0, k1: 0, k2: 0 }
  for (let i = 0; i < 300; i++) {
    const evt = await next()
    assert.equal(evt.data.n, due[evt.kind]++)
  }
  assert.deepEqual([due, sub.lost], [{ k0: 100, k1: 100, k2: 100 }, 0])
  await opened.close()
})

test("a send waits for an ingress that greets late and in pieces", patient, async () => {
  const bus = await open("late", { sendTimeout: TIMEOUT })
  let received = Buffer.alloc(0)
  const server = await ingress("late", "drop", async (connection) => {
    connection.on("data", (chunk) => (received = Buffer.concat([received, chunk])))
    for (const byte of welcome) {
      if (connection.destroyed) return
      connection.write(Buffer.of(byte))
      await new Promise(setImmediate)
    }
  })
  await bus.send("s", "k", "/p", 1)
  await until(() => numbers(received).includes(1))
  server.close()
  await bus.close()
})

test("an ingress that dies while it greets is given up at once", patient, async () => {
  const bus = await open("dies", { sendTimeout: TIMEOUT })
  let greeted = 0
  const server = await ingress("dies", "drop", (connection) => {
    connection.write(welcome.subarray(0, 70))
    connection.once("data", () => {
      greeted++
      server.close()
      // A server that closes removes its socket; one that dies does not.
      fs.writeFileSync(path.join(folder("dies"), `${ID}.sock`), "")
      connection.destroy()
    })
  })
  await bus.send("s", "k", "/p", 1)
  assert.ok(greeted > 0)
  await bus.close()
})

test("a subscriber that reads nothing misses what has no room, and is told how much", patient, async () => {
  const bus = await open("full", { capacity: 10, linger: TIMEOUT, sendTimeout: TIMEOUT })
  const connections = []
  let received = Buffer.alloc(0)
  const server = await ingress("full", "drop", (connection) => {
    connections.push(connection)
    connection.write(welcome)
  })
  const sent = 2000
  for (let n = 1; n <= sent; n++) await bus.send("s", "k", "/p", { n, pad: "x".repeat(10000) })
  for (const connection of connections) {
    connection.on("data", (chunk) => (received = Buffer.concat([received, chunk])))
  }
  const closing = bus.close()
  await until(() => numbers(received).includes(`~${sent + 1}`))
  const events = numbers(received).filter((n) => n > 0)
  assert.deepEqual(numbers(received).slice(-2), [-(sent + 1), `~${sent + 1}`])
  assert.deepEqual(events, events.toSorted((a, b) => a - b))
  assert.ok(events.length > 10 && events.length < sent)
  await closing
  server.close()
})

test("a burst beyond the capacity is written, not dropped, while the kernel takes it", patient, async () => {
  const bus = await open("burst", { capacity: 10, sendTimeout: TIMEOUT })
  let received = Buffer.alloc(0)
  const server = await ingress("burst", "drop", (connection) => {
    connection.on("data", (chunk) => (received = Buffer.concat([received, chunk])))
    connection.write(welcome)
  })
  const sent = Array.from({ length: 100 }, (_, i) => i + 1)
  for (const n of sent) await bus.send("s", "k", "/p", n)
  await until(() => numbers(received).includes(sent.at(-1)))
  assert.deepEqual(numbers(received).slice(0, sent.length), sent)
  server.close()
  await bus.close()
})

test("what waits for a subscriber that reads nothing is bounded in bytes", patient, async () => {
  const bus = await open("bytes", { sendTimeout: TIMEOUT, linger: 0 })
  const connections = []
  await ingress("bytes", "drop", (connection) => connections.push(connection) && connection.write(welcome))
  const [pad, sent] = [Buffer.alloc(1 << 20), 100]
  for (let n = 1; n <= sent; n++) await bus.send("s", "k", "/p", pad)
  let received = 0
  for (const connection of connections) connection.on("data", (chunk) => (received += chunk.length))
  await until(() => received > 60 * pad.length)
  await bus.close()
  await Promise.all(connections.map((connection) => connection.closed || once(connection, "close")))
  assert.ok(received < 70 * pad.length, `${received} bytes`)
})

test("what waits for one subscriber does not keep what others have read", patient, async () => {
  const bus = await open("slabs", { sendTimeout: TIMEOUT, linger: 0 })
  await ingress("slabs", "drop", (connection) => connection.write(welcome))
  const other = ID.replace("0", "a")
  let received = 0
  const reads = (connection) => {
    connection.on("data", (chunk) => (received += chunk.length))
    connection.write(welcomeOf(other, "t"))
  }
  await ingress("slabs", "drop", reads, other)
  const [small, large] = ["x".repeat(1000), "x".repeat(50_000)]
  for (let n = 1; n <= 1000; n++) {
    await bus.send("s", "k", "/p", small)
    await bus.send("t", "k", "/p", large)
  }
  await until(() => received > 1000 * large.length)
  setFlagsFromString("--expose-gc")
  const gc = runInNewContext("gc")
  await until(() => gc() ?? process.memoryUsage().arrayBuffers < 20e6)
  await bus.close()
})

test("marks of many topics go out whole", patient, async () => {
  const bus = await open("marks", { linger: TIMEOUT, sendTimeout: TIMEOUT })
  let received = Buffer.alloc(0)
  const server = await ingress("marks", "drop", (connection) => {
    connection.on("data", (chunk) => (received = Buffer.concat([received, chunk])))
    connection.write(welcome)
  })
  const topics = 3000
  for (let n = 0; n < topics; n++) await bus.send("s", `k${n}`, "/p")
  const closing = bus.close()
  await until(() => numbers(received).length === 3 * topics)
  assert.deepEqual(new Set(numbers(received)), new Set([1, -2, "~2"]))
  await closing
  server.close()
})

const RUN = { env: process.env, stdio: ["ignore", "pipe", "inherit"] }
const script = (text) => {
  const child = spawn(process.execPath, ["--input-type=module", "-e", text], RUN)
  left.push(() => child.kill("SIGKILL"))
  return child
}
const sender = (bus, text) => `
  import { open } from "${new URL("zbus.mjs", import.meta.url)}"
  const bus = await open("${bus}", { linger: ${TIMEOUT}, sendTimeout: ${TIMEOUT} })
  ${text}`

test("an event that comes alone leaves though the process is busy from then on", patient, async () => {
  const { opened, next } = await subscribed("busy")
  const child = script(sender("busy", 'await bus.send("s", "k", "/p", 1); for (;;);'))
  assert.equal((await next()).data, 1)
  child.kill("SIGKILL")
  await opened.close()
})

test("process.exit hands over what was sent to a slow reader", patient, async () => {
  const { opened, sub, next } = await subscribed("exits", {}, { overflow: "block", capacity: 2 })
  const sent = 1000
  const child = script(
    sender(
      "exits",
      `import fs from "node:fs"
      for (let n = 1; n <= ${sent}; n++) await bus.send("s", "k", "/p", { n, pad: "x".repeat(1000) })
      fs.writeSync(1, "sent")
      process.exit()`,
    ),
  )
  const closed = once(child, "close")
  await once(child.stdout, "data")
  for (let n = 1; n <= sent; n++) assert.equal((await next()).data.n, n)
  await closed
  assert.equal(sub.lost, 0)
  await opened.close()
})
