// The driver of the Node peer: a JSON line is a request, and one is its answer. See docs/howto/conform.md.
import fs from "node:fs"
import readline from "node:readline"
import { ZbusError, internals, open } from "./zbus.mjs"

const micros = () => Number(process.hrtime.bigint() / 1000n)
const seconds = () => performance.now() / 1000
const block = (time) => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, time * 1000)
const sleep = (time) => new Promise((resolve) => setTimeout(resolve, time * 1000))

/** Return JSON text that keeps whole numbers beyond 2^53. */
function text(value) {
  const marked = JSON.stringify(value, (_, item) => (typeof item === "bigint" ? `\u0001${item}\u0001` : item))
  return marked.replace(/"\\u0001(\d+)\\u0001"/g, "$1")
}

function dataOf(fields) {
  if (fields.hex !== undefined) return Buffer.from(fields.hex, "hex")
  if (fields.json === undefined) return undefined
  try {
    return JSON.parse(fields.json)
  } catch (error) {
    throw new ZbusError("Invalid", `data is not JSON: ${error.message}`)
  }
}

/** Return a name of a request; bytes that are not UTF-8 become half surrogate pairs, which no name may hold. */
function nameOf(fields, field) {
  const hex = fields[`${field}_hex`]
  if (hex === undefined) return fields[field]
  const bytes = Buffer.from(hex, "hex")
  const plain = bytes.toString("utf8")
  return Buffer.from(plain).equals(bytes) ? plain : `${plain}\ud800`
}

function told({ system, kind, path, data, origin, seq, time }) {
  const row = { system, kind, path, origin, seq, time }
  if (data instanceof Uint8Array) row.hex = Buffer.from(data).toString("hex")
  else if (data !== null) row.json = JSON.stringify(data)
  return row
}

function tryTo(action, failed) {
  try {
    return action()
  } catch (error) {
    if (error instanceof ZbusError) return failed
    throw error
  }
}

const rules = {
  patterns({ cases = [], prefixes = [], invalid = [] }) {
    const compiled = (pattern) => internals.compilePattern(pattern, "pattern")
    const found = (row) => internals.prefixes(compiled(row.system), compiled(row.kind || "**"))
    const hexes = (row) =>
      found(row)
        .map((item) => Buffer.from(item).toString("hex"))
        .sort()
    return {
      matches: cases.map((row) => tryTo(() => internals.matches(compiled(row.pattern), row.name), null)),
      prefixes: prefixes.map((row) => tryTo(() => hexes(row), null)),
      refused: invalid.map((row) => tryTo(() => !compiled(row.pattern), true)),
    }
  },
  decode({ system, kind, announced, joined, limit, frames }) {
    const decoder = new internals.Decoder(system, kind, limit)
    decoder.join(announced ?? null, joined ?? null)
    const feed = ({ hex }) => {
      decoder.stamp = null
      const events = decoder.feed(internals.frameAlone(Buffer.from(hex, "hex"))).map(told)
      const { gaps, lost, malformed, stamp } = decoder
      return {
        events,
        gaps,
        lost,
        malformed,
        born: stamp?.born,
        settled: stamp?.settled,
        first: stamp?.first,
      }
    }
    return { frames: frames.map(feed) }
  },
  encode({ items, stamp = "", ...fields }) {
    const [system, kind, name] = ["system", "kind", "path"].map((field) => nameOf(fields, field))
    internals.checkTopic(system, kind)
    if (!items) internals.checkText(name, "path")
    const field = items
      ? internals.batchField(items.map((item) => [nameOf(item, "path"), dataOf(item)]))
      : internals.dataField(dataOf(fields))
    const frame = internals.frameOf(`${system}\0${kind}\0${items ? "" : name}\0`, stamp, field)
    return { hex: Buffer.from(frame).toString("hex") }
  },
  names({ files = [], sentinels = [], buses = [], roots = [] }) {
    const bytes = ({ hex }) => Buffer.from(hex, "hex")
    const file = (row) => {
      const { id, epoch, overflow, is } = internals.parseFile(bytes(row).toString("latin1")) ?? {}
      if (is) return { is: is === "sock" ? "socket" : is }
      return id ? { id, epoch, overflow } : null
    }
    const sentinel = (row) => {
      const found = internals.parseSentinel(bytes(row).toString("latin1"))
      return found && { ingress: found.id, epoch: found.epoch }
    }
    return {
      files: files.map(file),
      sentinels: sentinels.map(sentinel),
      buses: buses.map((row) => internals.isBusName(row.name)),
      roots: roots.map((row) => internals.findRoot(row.env)[0]),
    }
  },
}

let bus = null
let options = []
const subs = new Map()

const opened = () => {
  if (!bus) throw new ZbusError("Canceled", "no bus is open: open one first")
  return bus
}

/** Yield events until there are so many, or so many received and lost, or until nothing goes on. */
async function* each(sub, { count = Infinity, until = Infinity, timeout }) {
  let [got, progress, seen] = [0, seconds(), ""]
  while (got < count && sub.received + sub.lost < until && !sub.ended) {
    try {
      const evt = await sub.receive({ timeout: until < Infinity ? 0.05 : timeout })
      if (evt === undefined) sub.ended = true
      else {
        got++
        yield evt
      }
    } catch (error) {
      if (error.kind !== "Timeout") throw error
    }
    const state = `${sub.received} ${sub.lost} ${sub.malformed}`
    if (state !== seen) [seen, progress] = [state, seconds()]
    else if (seconds() - progress >= timeout) return
  }
}

const answerOf = ({ received, lost, malformed, ended }) => ({ received, lost, malformed, open: !ended })

async function tally(sub, fields, pause = 0) {
  const [seen, found] = [new Map(), { first: 0, last: 0, ordered: true }]
  for await (const evt of each(sub, fields)) {
    const stream = `${evt.origin} ${evt.system} ${evt.kind}`
    found.ordered &&= evt.seq > (seen.get(stream) ?? 0)
    seen.set(stream, evt.seq)
    found.last = evt.data?.n ?? 0
    found.first ||= found.last
    if (pause) block(pause)
  }
  return { ...found, ...answerOf(sub) }
}

const topicOf = (fields) => [nameOf(fields, "system"), nameOf(fields, "kind")]

function subscribe({ overflow, capacity, ...fields }) {
  const [system, kind] = topicOf(fields)
  return opened().subscribe(system, { kind, overflow, capacity })
}

const verbs = {
  ...rules,
  hello: () => ({ language: "node", library: `ZMTP 3.0 of its own, Node ${process.versions.node}`, pid: process.pid }),
  async open({ bus: name, capacity, linger, send_timeout: sendTimeout, max_event_bytes: maxEventBytes }) {
    options = [name, { capacity, linger, sendTimeout, maxEventBytes }]
    bus = await open(...options)
  },
  async subscribe(fields) {
    subs.set(fields.name, await subscribe(fields))
  },
  async receive(fields) {
    const sub = subs.get(fields.name)
    if (fields.tally) return tally(sub, fields)
    const events = []
    for await (const evt of each(sub, fields)) events.push(told(evt))
    return { events, ...answerOf(sub) }
  },
  slow: ({ name, pause, until, timeout }) => tally(subs.get(name), { until, timeout }, pause),
  busy: (fields) => void block(fields.seconds),
  send: (fields) => opened().send(...topicOf(fields), nameOf(fields, "path"), dataOf(fields)),
  async burst({ system, kind, path = "/conform", count, batch, bytes, interval }) {
    const pad = bytes ? { pad: "x".repeat(bytes) } : {}
    const began = seconds()
    for (let n = 1; n <= count; n += batch || 1) {
      if (batch) {
        const rows = Array.from({ length: Math.min(batch, count + 1 - n) }, (_, i) => [
          path,
          { n: n + i, ...pad },
        ])
        await opened().sendMany(system, kind, rows)
      } else await opened().send(system, kind, path, { n, ...pad })
      if (interval) await sleep(interval)
    }
    return { sent: count, seconds: seconds() - began }
  },
  async stream({ system, kind, path = "/conform", until, interval }) {
    for (let n = 1, prev = 0; ; n++) {
      const at = micros()
      await opened().send(system, kind, path, { n, at, prev })
      prev = at
      if (fs.existsSync(until)) return { sent: n }
      await sleep(interval)
    }
  },
  async joins({ system, kind, path = "/conform", count }) {
    const found = []
    for (let n = 1; n <= count; n++) {
      const began = seconds()
      const other = await open(...options)
      await other.send(system, kind, path, { n })
      found.push(seconds() - began)
      await other.close()
    }
    return { seconds: found }
  },
  async churn(fields) {
    const rounds = []
    for (let i = 0; i < fields.count; i++) {
      const sub = await subscribe(fields)
      const joined = micros()
      const { data } = await sub.receive({ timeout: fields.timeout })
      rounds.push({ joined, n: data.n, prev: data.prev, lost: sub.lost })
      await sub.close()
    }
    return { rounds }
  },
  async close({ name }) {
    if (name !== undefined) return subs.get(name).close()
    await bus?.close()
    bus = null
  },
  async speed(fields) {
    if (fields.role === "send") return verbs.burst(fields)
    const sub = subs.get(fields.name)
    await sub.receive()
    const began = seconds()
    for (let i = 1; i < fields.count; i++) await sub.receive()
    return { seconds: seconds() - began }
  },
  async echo({ name, system, kind, count }) {
    for (let i = 0; i < count; i++) {
      const evt = await subs.get(name).receive()
      await opened().send(system, kind, evt.path, evt.data)
    }
  },
  async ping({ name, system, kind, count }) {
    const found = []
    for (let n = 0; n < count; n++) {
      const began = seconds()
      await opened().send(system, kind, "/conform", { n })
      await subs.get(name).receive()
      found.push((seconds() - began) * 1e6)
    }
    return { micros: found }
  },
}

async function answer(request) {
  const action = Object.hasOwn(verbs, request.verb) && verbs[request.verb]
  if (!action) return { unsupported: `there is no verb ${request.verb}` }
  try {
    return { ok: true, ...(await action(request)) }
  } catch (error) {
    if (!(error instanceof ZbusError)) throw error
    return { error: { kind: error.kind, message: error.message, retryable: error.retryable } }
  }
}

for await (const line of readline.createInterface({ input: process.stdin })) {
  process.stdout.write(`${text(await answer(JSON.parse(line)))}\n`)
}
await verbs.close({})
