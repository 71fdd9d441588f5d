/**
 * Events between processes without a broker: the Node peer of zbus.
 *
 *     const bus = await open()
 *     await using sub = await bus.subscribe("orders.*")
 *     await bus.send("orders.eu", "order.created", "/orders/1", { total: 9.5 })
 *     for await (const evt of sub) console.log(evt.system, evt.kind, evt.path, evt.data)
 *
 * The file reads from the inside out: errors, JSON, patterns, frames, loss, the directory, connections, the
 * receiving thread, the publisher, and last what users call. The clauses (W.., R..) are those of docs/spec of zbus.
 */
import { isAscii, isUtf8 } from "node:buffer"
import { spawn, spawnSync } from "node:child_process"
import { randomBytes } from "node:crypto"
import fs from "node:fs"
import net from "node:net"
import path from "node:path"
import { Worker, isMainThread, parentPort, workerData } from "node:worker_threads"

const MAX_EVENT_BYTES = 16 * 1024 * 1024
const MAX_TOPICS = 65536
const MAX_STREAMS = 65536
const MAX_GAP = 2 ** 40
const MAX_DEPTH = 1024
const MAX_PREFIXES = 16
const MAX_WAITING_BYTES = 64 * 1024 * 1024
const CAPACITY = 65536
const BLOCK_CAPACITY = 1000
const BACKLOG = 4096
const CHUNK = 512
const CHUNK_BYTES = 64 * 1024
const SLAB_BYTES = 64 * 1024
const TURN_BYTES = 128 * 1024
const EAGER = 0.001
const JOIN_TIMEOUT = 1
const REST_MS = 200
const LOOK_MS = 1000
// A look at a member file starts a program.
const REAP_SECONDS = 1
const DAY_MS = 86400000
const WARNING = "ZbusWarning"

// ---------------------------------------------------------------------------------------------------------
// Errors

/** What went wrong on the bus: `kind` says which error, `retryable` whether the same call may succeed later. */
export class ZbusError extends Error {
  constructor(kind, message, retryable = false) {
    super(message)
    this.name = "ZbusError"
    this.kind = kind
    this.retryable = retryable
  }
}

const invalid = (message) => new ZbusError("Invalid", message)
const canceled = (message, retryable) => new ZbusError("Canceled", message, retryable)
const denied = (message) => new ZbusError("PermissionDenied", message)
const timeout = (message) => new ZbusError("Timeout", message, true)

/** Turn what the operating system refused into an error of the bus. */
function refused(what, error) {
  if (error instanceof ZbusError) return error
  const kind = ["EACCES", "EPERM"].includes(error.code) ? "PermissionDenied" : "Unavailable"
  const passing = ["EINTR", "EAGAIN", "ENOMEM", "EMFILE", "ENFILE", "ENOSPC", "EDQUOT"].includes(error.code)
  return new ZbusError(kind, `cannot ${what}: ${error.message}`, passing)
}

// ---------------------------------------------------------------------------------------------------------
// JSON (W51, W52): JSON.parse is strict but for numbers, depth and half surrogate pairs

class Malformed extends Error {}
const malformed = () => new Malformed("malformed frame")

const STRINGS = /"(?:[^"\\]|\\.)*"/gs
const NUMBERS = /[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/g
const LONG_NUMBER = /[eE][+-]?[0-9]{3}|[0-9]{200}/
const ESCAPES =
  /\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})/g

function hasHalfPair(text) {
  if (!text.includes("\\u")) return false
  return [...text.matchAll(ESCAPES)].some((match) => match[1])
}

function isTooDeep(bare) {
  let depth = 0
  for (const c of bare.match(/[[\]{}]/g) ?? []) {
    depth += c === "[" || c === "{" ? 1 : -1
    if (depth > MAX_DEPTH) return true
  }
  return false
}

/** Return the text of bytes that must be UTF-8. */
function utf8(bytes, from, to) {
  const text = bytes.utf8Slice(from, to)
  if (text.includes("\ufffd") && !isUtf8(bytes.subarray(from, to))) throw malformed()
  return text
}

/** Return the value of JSON text; throw for any that W51 calls malformed. */
function readJson(text) {
  if (text.length > 2 * MAX_DEPTH || LONG_NUMBER.test(text)) {
    const bare = text.replace(STRINGS, '""')
    const isInfinite = (number) => !Number.isFinite(Number(number))
    if (isTooDeep(bare) || (LONG_NUMBER.test(bare) && bare.match(NUMBERS).some(isInfinite))) throw malformed()
  }
  if (hasHalfPair(text)) throw malformed()
  try {
    return JSON.parse(text)
  } catch {
    throw malformed()
  }
}

/** Refuse what JSON.stringify would send as something else (W10). */
function checkData(value, depth = 0) {
  if (value === null || typeof value === "string" || typeof value === "boolean") return
  if (typeof value === "number" && Number.isFinite(value)) return
  if (typeof value !== "object") {
    const what = typeof value === "number" ? value : `a ${typeof value}`
    throw invalid(`data holds ${what}, which JSON cannot carry: send objects, arrays, texts and numbers`)
  }
  if (depth >= MAX_DEPTH) throw invalid(`data is nested more than ${MAX_DEPTH} deep, or contains itself`)
  const isBytes = ArrayBuffer.isView(value) || value instanceof ArrayBuffer
  if (isBytes || value instanceof Map || value instanceof Set) {
    throw invalid(`data holds a ${value.constructor.name}: send bytes alone, and plain objects and arrays`)
  }
  if (Array.isArray(value)) for (const item of value) checkData(item, depth + 1)
  else if (typeof value.toJSON === "function") checkData(value.toJSON(), depth + 1)
  else for (const item of Object.values(value)) if (item !== undefined) checkData(item, depth + 1)
}

function writeJson(value) {
  checkData(value)
  const text = JSON.stringify(value)
  if (hasHalfPair(text)) throw invalid("data holds half of a surrogate pair: send whole characters")
  return text
}

// ---------------------------------------------------------------------------------------------------------
// Names and patterns (W3, W16 to W22)

const hasWildcard = (text) => /[*()|]/.test(text)
const hasEmptySegment = (text) => text.startsWith(".") || text.endsWith(".") || text.includes("..")

function checkText(value, what) {
  if (value === undefined || value === null || value === "") throw invalid(`${what} is required`)
  if (typeof value !== "string") throw invalid(`${what} must be a string, not ${typeof value}`)
  if (value.includes("\0")) throw invalid(`${what} contains NUL, which separates fields: remove it`)
  if (!value.isWellFormed()) throw invalid(`${what} holds half of a surrogate pair: send whole characters`)
}

function checkTopic(system, kind) {
  for (const [what, value] of Object.entries({ system, kind })) {
    checkText(value, what)
    const no = (why) => invalid(`${what} '${value}' ${why}`)
    if (hasWildcard(value))
      throw no("contains a wildcard, which only a subscription may: send a literal name")
    if (hasEmptySegment(value)) throw no("has an empty segment: use single dots between words")
  }
  if (/^zbus(\.|$)/.test(system)) {
    throw invalid(`system '${system}' is reserved for the bus's own events: choose another`)
  }
}

/** Compile one segment: "*", "**", or the set of the literals that it selects. */
function compileSegment(part, no) {
  if (part === "*" || part === "**") return part
  if (part === "") throw no("it has an empty segment, use single dots between words, or '**' for any depth")
  const choices = /^\(.*\)$/s.test(part) ? part.slice(1, -1).split("|") : [part]
  for (const choice of choices) {
    if (choice === "") throw no("an alternative is empty, use '(a|b)'")
    if (choice === ">" || choice === "#") throw no(`for everything below use '**', not '${choice}'`)
    if (choice === "+") throw no("for exactly one segment use '*', not '+'")
    if (hasWildcard(choice)) throw no("a wildcard or bracket is a whole segment, use 'orders.*' or '(a|b)'")
  }
  return new Set(choices.sort())
}

function compilePattern(pattern, what) {
  checkText(pattern, what)
  if (pattern === "*") return ["**"]
  const no = (advice) => invalid(`'${pattern}' is not a ${what}: ${advice}`)
  return pattern.split(".").map((part) => compileSegment(part, no))
}

/** Return whether a compiled pattern selects a name. */
function matches(segments, name) {
  const words = name.split(".")
  let [s, w, star, mark] = [0, 0, -1, 0]
  while (w < words.length) {
    const segment = segments[s]
    if (segment === "**") {
      star = s++
      mark = w
    } else if (segment === "*" || segment?.has(words[w])) {
      s++
      w++
    } else if (star >= 0) {
      w = ++mark
      s = star + 1
    } else return false
  }
  return segments.slice(s).every((segment) => segment === "**")
}

/** Return the texts before the first wildcard, and whether there is none. */
function literalHeads(segments) {
  let heads = [""]
  for (const [i, segment] of segments.entries()) {
    const dot = i ? "." : ""
    if (segment === "**") return [heads, false]
    if (segment === "*" || heads.length * segment.size > MAX_PREFIXES) {
      return [heads.map((head) => head + dot), false]
    }
    heads = heads.flatMap((head) => [...segment].map((word) => head + dot + word))
  }
  return [heads, true]
}

/** Return what a channel subscribes to (W22). */
function prefixes(system, kind) {
  const [heads, literal] = literalHeads(system)
  if (!literal) return heads
  const [tails, ended] = literalHeads(kind)
  if (heads.length * tails.length > MAX_PREFIXES) return heads.map((head) => `${head}\0`)
  return heads.flatMap((head) => tails.map((tail) => `${head}\0${tail}${ended ? "\0" : ""}`))
}

// ---------------------------------------------------------------------------------------------------------
// Frames (W2 to W15)

const DIGITS = /^[0-9]{1,19}$/
const ORIGIN = /^[0-9a-f]{8,16}$/
const VIA = /^\.[0-9a-f]{16}(-[0-9a-f]{16}){0,31}(\.|$)/

/** Return the number of a text of digits: a bigint beyond 2^53, -1 if it is none. */
function decimal(text) {
  if (text === undefined || !DIGITS.test(text)) return -1
  const number = Number(text)
  return number <= Number.MAX_SAFE_INTEGER ? number : BigInt(text)
}

function add(a, b) {
  const sum = Number(a) + b
  return sum <= Number.MAX_SAFE_INTEGER ? sum : BigInt(a) + BigInt(b)
}

const distance = (from, to) => Number(typeof from === typeof to ? to - from : BigInt(to) - BigInt(from))

/**
 * The frames of a chunk, one of them at a time from `from` to `to`. Latin-1 has a character for each byte, so the
 * places in `text` are those in `bytes`. One call makes it for all frames, and a search in it calls no C++.
 */
class Frames {
  from = 0
  to = 0
  #next = 0
  #lengths

  constructor(bytes, lengths = [bytes.length]) {
    this.bytes = bytes
    this.text = bytes.latin1Slice()
    this.isAscii = isAscii(bytes)
    this.#lengths = lengths
  }

  /** Go to the next frame; say whether there is one. */
  next() {
    if (this.#next >= this.#lengths.length) return false
    this.from = this.to
    this.to += this.#lengths[this.#next++]
    return true
  }
}

function frameAlone(bytes) {
  const frames = new Frames(bytes)
  frames.next()
  return frames
}

/** Return the place of the next NUL of a frame. */
function nulAt({ text, to }, from) {
  const at = text.indexOf("\0", from)
  if (at < 0 || at >= to) throw malformed()
  return at
}

/** Return a field of a frame, which must be UTF-8: a text of its own, not a slice that keeps the whole chunk. */
function fieldOf({ bytes, isAscii }, from, to) {
  return isAscii ? bytes.latin1Slice(from, to) : utf8(bytes, from, to)
}

function parseName(frame, from, to) {
  const text = fieldOf(frame, from, to)
  if (text === "" || hasWildcard(text) || hasEmptySegment(text)) throw malformed()
  return text
}

function endOfField(bytes, from, to) {
  while (from < to && bytes[from] !== 0x2e) from++
  return from
}

/** Return the number of a field, as `decimal` does; without making a text of it if it is below 2^53. */
function numberAt(bytes, from, to) {
  if (to <= from || to - from > 19) return -1
  let number = 0
  for (let i = from; i < to; i++) {
    const digit = bytes[i] - 0x30
    if (!(digit >= 0 && digit <= 9)) return -1
    number = number * 10 + digit
  }
  return number <= Number.MAX_SAFE_INTEGER ? number : decimal(bytes.latin1Slice(from, to))
}

/**
 * Return the fields of a stamp (W5), `null` if it is empty. An origin like the `known` one is that text. What follows
 * the time is between `end` and `to`.
 */
function parseStamp({ bytes, text }, from, to, known) {
  if (from === to) return null
  let end = endOfField(bytes, from, to)
  const isKnown = end - from === known.length && text.startsWith(known, from)
  const origin = isKnown ? known : bytes.latin1Slice(from, end)
  if (!isKnown && !ORIGIN.test(origin)) throw malformed()
  const next = () => {
    const begin = end + 1
    end = begin < to ? endOfField(bytes, begin, to) : to
    return numberAt(bytes, begin, end)
  }
  const stamp = { origin, seq: next(), born: next(), settled: next(), first: next(), time: next(), end, to }
  if (stamp.seq < 1) throw malformed()
  return stamp
}

/** Return whether a stamp names the buses on which the events have been: a link has sent them (W55). */
const isRelayed = ({ bytes }, { end, to }) => VIA.test(bytes.latin1Slice(end, to))

/** Return the events of a frame as [path, data] pairs (W9, W12). */
function parseEvents({ bytes, text, isAscii, to }, path, from, stamped) {
  if (path !== "" && from === to) return [[path, null]]
  if (path !== "" && bytes[from] === 0) return [[path, Buffer.from(bytes.subarray(from + 1, to))]]
  const isJson = from < to && bytes[from] !== 0
  const value = isJson ? readJson(isAscii ? text.slice(from, to) : utf8(bytes, from, to)) : null
  if (path !== "") return [[path, value]]
  if (!Array.isArray(value) || !(value.length || stamped)) throw malformed()
  for (const row of value) {
    const good = Array.isArray(row) && (row.length === 1 || row.length === 2) && typeof row[0] === "string"
    if (!good || row[0] === "" || row[0].includes("\0")) throw malformed()
    if (row.length === 1) row.push(null)
  }
  return value
}

/** Write the data field (W9): a text of JSON, or bytes with a NUL before them. */
function dataField(data) {
  if (data === undefined || data === null) return ""
  if (data instanceof Uint8Array) return Buffer.concat([Buffer.of(0), data])
  return writeJson(data)
}

/** Write the data field of a batch (W12). */
function batchField(items) {
  if (!Array.isArray(items)) throw invalid(`items must be an array of [path, data] pairs`)
  for (const [i, item] of items.entries()) {
    const isPair = Array.isArray(item) && (item.length === 1 || item.length === 2)
    if (!isPair) throw invalid(`item ${i} must be a [path, data] pair`)
    checkText(item[0], "path")
  }
  return writeJson(items.map((item) => (item[1] === undefined ? [item[0]] : item)))
}

function frameOf(head, stamp, field) {
  if (typeof field === "string") return `${head}${stamp}\0${field}`
  return Buffer.concat([Buffer.from(`${head}${stamp}\0`), field])
}

/** Refuse a frame beyond the limit of W14; 128 bytes are set aside for the stamp. */
function checkSize(head, field, most) {
  if ((head.length + field.length + 128) * 3 <= most) return
  const bytes = Buffer.byteLength(head) + Buffer.byteLength(field) + 128
  if (bytes > most) throw invalid(`${bytes} bytes are more than maxEventBytes (${most}): send less at once`)
}

// ---------------------------------------------------------------------------------------------------------
// Loss (W27 to W41, W56): a channel decodes the frames that reach it, and counts those that did not

const UNSTAMPED = { origin: "", seq: 0, time: -1 }

class Decoder {
  topics = new Map()
  // The topic of the latest frame; no frame that is decoded begins with this byte.
  topic = { head: "\xff" }
  streams = new Map()
  gaps = []
  lost = 0
  malformed = 0
  latestBorn = -1
  announced = -1
  joined = Infinity
  forgetful = true

  constructor(system, kind, limit = MAX_STREAMS) {
    this.system = compilePattern(system, "system pattern")
    this.kind = compilePattern(kind || "**", "kind pattern")
    this.limit = limit
  }

  /** Note when the channel was announced and when it had joined, `null` if unknown. */
  join(announced, joined) {
    this.announced = announced ?? -1
    this.joined = joined ?? Infinity
    this.forgetful = joined === null
  }

  /** Return the events of the frame that `frames` is at. `gaps` then holds what the frame shows as lost. */
  feed(frames) {
    this.gaps = []
    if (frames.bytes[frames.from] === 0xff && frames.from < frames.to) return []
    try {
      return this.decode(frames)
    } catch (error) {
      if (!(error instanceof Malformed)) throw error
      this.malformed++
      return []
    }
  }

  /** The hot path: what repeats in a stream, the topic, the path and the origin, is compared and not read again. */
  decode(frame) {
    const { text, from, to } = frame
    const topic = text.startsWith(this.topic.head, from) ? this.topic : (this.topic = this.find(frame))
    const path = from + topic.head.length
    const stamped = nulAt(frame, path) + 1
    const data = nulAt(frame, stamped) + 1
    if (!topic.selected) return []
    const stamp = parseStamp(frame, stamped, data - 1, topic.origin)
    if (!(frame.isAscii && topic.path.length === stamped - 1 - path && text.startsWith(topic.path, path))) {
      topic.path = fieldOf(frame, path, stamped - 1)
    }
    const rows = parseEvents(frame, topic.path, data, stamp !== null)
    const isNew = !stamp || this.count(frame, topic, stamp, rows.length)
    this.stamp = stamp
    if (!isNew) return []
    const { system, kind } = topic
    const { origin, seq, time } = stamp ?? UNSTAMPED
    const sent = time >= 0 ? time : null
    const eventOf = ([path, data], i) => {
      return { system, kind, path, data, origin, seq: i && stamp ? add(seq, i) : seq, time: sent }
    }
    return rows.map(eventOf)
  }

  /** Find what is known of the topic of a frame. */
  find(frame) {
    const { bytes, from } = frame
    const a = nulAt(frame, from)
    const b = nulAt(frame, a + 1)
    const head = bytes.latin1Slice(from, b + 1)
    let topic = this.topics.get(head)
    if (topic === undefined) {
      const [system, kind] = [parseName(frame, from, a), parseName(frame, a + 1, b)]
      const selected = matches(this.system, system) && matches(this.kind, kind)
      topic = { head, system, kind, selected, path: "", origin: "\0", stream: null }
      if (this.topics.size >= MAX_STREAMS) this.topics.clear()
      this.topics.set(head, topic)
    }
    return topic
  }

  /** Count a frame; return false if it came before, and a link has sent it again: then nothing changes (W56). */
  count(frame, topic, stamp, events) {
    const isLast = topic.stream?.isKept && topic.origin === stamp.origin
    const key = isLast ? topic.stream.key : `${stamp.origin}${topic.head}`
    const stream = isLast ? topic.stream : this.streams.get(key)
    topic.origin = stamp.origin
    topic.stream = stream
    const due = stream ? stream.due : this.firstDue(stamp)
    if (due !== null && distance(due, stamp.seq) > MAX_GAP) throw malformed()
    if (stream && events && add(stamp.seq, events) <= due && isRelayed(frame, stamp)) return false
    if (!stream && stamp.born > this.latestBorn) this.latestBorn = stamp.born
    if (due === null) return true
    if (stream && !events) this.countHead(stream, stamp)
    this.lose(due, stamp.seq)
    const next = events || stamp.seq > due ? add(stamp.seq, events) : due
    if (stream) {
      stream.due = next
      stream.used = true
    } else {
      this.keep(topic, { key, due: next, begin: due, used: false, isKept: true })
    }
    return true
  }

  /** Return the number that is due when a stream is first seen, `null` for none (W29). */
  firstDue({ seq, born, settled, first }) {
    if (born > this.joined) return 1
    if (settled < 0) return seq
    if (settled <= this.announced) return null
    return first > 0 && first <= seq && !this.forgetful ? first : seq
  }

  /** Count what a mark shows that was lost before the stream was counted (W40). */
  countHead(stream, { settled, first }) {
    if (this.forgetful || settled <= this.announced || first < 1 || first >= stream.begin) return
    if (distance(first, stream.begin) > MAX_GAP) return
    this.lose(first, stream.begin)
    stream.begin = first
  }

  lose(due, seq) {
    if (!(due < seq)) return
    this.gaps.push([due, add(seq, -1)])
    this.lost += distance(due, seq)
  }

  /** Keep a new stream; of too many, forget one that was not used since the last round over all (W34). */
  keep(topic, stream) {
    topic.stream = stream
    this.streams.set(stream.key, stream)
    if (this.streams.size <= this.limit) return
    for (const [oldest, old] of this.streams) {
      this.streams.delete(oldest)
      old.isKept = old.used
      if (!old.used) break
      old.used = false
      this.streams.set(oldest, old)
    }
    if (this.latestBorn > this.joined) this.joined = this.latestBorn
    this.forgetful = true
  }
}

// ---------------------------------------------------------------------------------------------------------
// Names in the directory (R2, R5, R6, W26)

const ENTRY = /^([0-9a-f]{8,32})\.([1-9][0-9]{0,17})\.(drop|block)$/
const OTHER = /^([0-9a-f]{8,32})\.(sock|member|new)$/
const SENTINEL = /^\xff([0-9a-f]{8,32})\.([1-9][0-9]{0,17})$/

/** Say what a name in the directory is: an entry, something else of ours, or nothing (`null`). */
function parseFile(name) {
  if (name === "token") return { is: "token" }
  const [, id, is] = OTHER.exec(name) ?? []
  if (id) return { id, is }
  const [, entry, epoch, overflow] = ENTRY.exec(name) ?? []
  return entry ? { id: entry, epoch: decimal(epoch), overflow, name } : null
}

/** Return the id and epoch of a sentinel (W26), `null` for any other topic. */
function parseSentinel(topic) {
  const [, id, epoch] = SENTINEL.exec(topic) ?? []
  return id ? { id, epoch: decimal(epoch) } : null
}

const isBusName = (name) => typeof name === "string" && /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$/.test(name)

// ---------------------------------------------------------------------------------------------------------
// The machine

const newId = () => randomBytes(8).toString("hex")
/** Wait for 5 ms where promises do not work any more. */
const nap = () => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5)
const now = () => performance.now() / 1000
const namespace = (name) => fs.readlinkSync(`/proc/self/ns/${name}`)

/** Return what CLOCK_MONOTONIC of this time namespace is ahead of the machine's, `null` if unknown (W8). */
function namespaceOffset() {
  try {
    const text = fs.readFileSync("/proc/self/timens_offsets", "latin1")
    if (namespace("time") !== namespace("time_for_children")) return null
    const match = /^monotonic\s+(-?\d+)\s+(\d+)/m.exec(text)
    return match ? BigInt(match[1]) * 1000000n + BigInt(match[2]) / 1000n : null
  } catch (error) {
    const hasNone = !fs.existsSync("/proc/self/ns/time") && fs.existsSync("/proc/self/ns/pid")
    return error.code === "ENOENT" && hasNone ? 0n : null
  }
}

const OFFSET = namespaceOffset()

/** Return CLOCK_MONOTONIC of the machine in microseconds, `null` if it cannot be determined. */
const micros = () => (OFFSET === null ? null : Number(process.hrtime.bigint() / 1000n - OFFSET))

let clock = performance.timeOrigin

/** Return CLOCK_REALTIME in microseconds. `Date.now()` has cut it to milliseconds: outside, it was set (W45). */
function wall() {
  const floor = Date.now()
  const elapsed = performance.now()
  if (clock + elapsed < floor || clock + elapsed >= floor + 2) clock = floor - elapsed
  return Math.floor(Math.min(clock + elapsed, floor + 0.999) * 1000)
}

/** Lock the open file `fd` without waiting; the lock lasts while this process has it open. */
function lock(fd, mode) {
  const done = spawnSync("flock", [mode, "-n", "3"], { stdio: ["ignore", "ignore", "ignore", fd] })
  if (done.error) throw refused("lock a file: install util-linux, which has flock", done.error)
  return done.status === 0
}

/** Return what an action returns, or `undefined` if the machine refuses it. */
function attempt(action) {
  try {
    return action()
  } catch {
    return undefined
  }
}

const lstat = (file) => attempt(() => fs.lstatSync(file, { bigint: true }))
const remove = (file) => attempt(() => fs.unlinkSync(file) ?? true) ?? false

/** Say whether a process listens at the path of a socket (R26). */
function answers(file) {
  return new Promise((resolve) => {
    const socket = net.connect(file)
    const end = (alive) => {
      socket.destroy()
      resolve(alive)
    }
    socket.once("connect", () => end(true))
    socket.once("error", (error) => end(error.code !== "ECONNREFUSED" && error.code !== "ENOENT"))
  })
}

/** Say whether the process that wrote an entry wants to run and cannot (R40). */
function isSlow(entry) {
  const look = () => {
    const tasks = `/proc/${Number(JSON.parse(fs.readFileSync(entry, "utf8")).pid)}/task`
    return fs.readdirSync(tasks).some((task) => {
      const stat = fs.readFileSync(`${tasks}/${task}/stat`, "latin1")
      return "RD".includes(stat.charAt(stat.lastIndexOf(")") + 2))
    })
  }
  return attempt(look) ?? false
}

// JavaScript can neither duplicate a descriptor nor ask how much of a connection was read, so a child does. It holds
// connections until this process has closed its own descriptors, and then until the readers have read everything
// (SIOCOUTQ, 0x5411), but not longer than so many rounds of 5 ms.
const HAND_OVER = `
  my ($pid, $rounds, @numbers) = @ARGV;
  my @held;
  for my $i (0 .. $#numbers) {
    open my $socket, "+<&=", 3 + $i or next;
    push @held, [$socket, "/proc/$pid/fd/$numbers[$i]", "socket:[" . (stat $socket)[1] . "]"];
  }
  while (@held && $rounds-- > 0) {
    @held = grep {
      my ($socket, $link, $name) = @$_;
      my $unread = pack "i", 0;
      (readlink($link) // "") eq $name || (ioctl($socket, 0x5411, $unread) && unpack "i", $unread)
    } @held;
    select undef, undef, undef, 0.005;
  }
`

/** Return a child that holds the connections with these descriptors until all of them is read (R25). */
function handOver(fds, seconds) {
  const warn = (error) =>
    process.emitWarning(`cannot hand over to slow readers, as perl does: ${error}`, WARNING)
  try {
    const words = ["-e", HAND_OVER, process.pid, Math.ceil(seconds * 200), ...fds].map(String)
    const stdio = ["ignore", "ignore", "ignore", ...fds]
    return spawn("perl", words, { stdio, detached: true }).once("error", warn)
  } catch (error) {
    return warn(error)
  }
}

/** Wait for the end of a child where promises do not work any more. */
function waitAtExit({ pid }) {
  const gone = () => / [ZX] /.test(fs.readFileSync(`/proc/${pid}/stat`, "latin1"))
  while (pid && !gone()) nap()
}

// ---------------------------------------------------------------------------------------------------------
// The directory (R1 to R13, R26 to R28, R46 to R50)

/** Return the root (R1), and whether someone has named it. */
function findRoot(env) {
  const uid = process.geteuid()
  if (env.ZBUS_DIR) return [env.ZBUS_DIR, true]
  const runtime = env.XDG_RUNTIME_DIR
  const owner = runtime && fs.statSync(runtime, { throwIfNoEntry: false })?.uid
  if (runtime && (owner ?? uid) === uid) return [`${runtime}/zbus`, false]
  return [`${env.TMPDIR || "/tmp"}/zbus-${uid}`, false]
}

const isPrepared = (info) => (info.mode & 0o2070) === 0o2070 && (info.mode & 0o1002) === 0
const inGroup = (gid) => process.geteuid() === 0 || [process.getegid(), ...process.getgroups()].includes(gid)

/** Refuse a directory whose rights are not those of R46 and R47. */
function checkDirectory(where, isNamed, isLast) {
  const info = fs.lstatSync(where)
  const isOnTheWay = !isLast && info.uid === 0 && (info.mode & 0o020) === 0
  const isGroups = isPrepared(info) && inGroup(info.gid)
  if (!info.isDirectory()) throw denied(`${where} is not a directory: remove it`)
  if (info.mode & 0o002) throw denied(`${where} is writable by everyone: chmod o-w it`)
  if (info.uid === process.geteuid()) return info
  if (!isNamed) throw denied(`${where} belongs to another user: set ZBUS_DIR`)
  if (isGroups || isOnTheWay) return info
  throw denied(`${where} belongs to another user, who has to share it: install -d -g GROUP -m 2770 it`)
}

/** Create a directory with the rights of R48, if it is missing; a group's has them before it has its name. */
function makeDirectory(where, group) {
  if (lstat(where)) return
  const draft = group ? path.join(path.dirname(where), `.${newId()}.new`) : where
  try {
    fs.mkdirSync(draft, { mode: 0o700 })
    if (group) fs.chownSync(draft, process.geteuid(), group.gid)
    fs.chmodSync(draft, group ? group.mode & 0o7777 : 0o700)
    if (group) fs.renameSync(draft, where)
  } catch (error) {
    if (group && lstat(draft)) fs.rmdirSync(draft)
    if (!lstat(where)) throw error
  }
}

/** Create what leads to the root, but nothing of root's inside a directory of another user (R49). */
function makeParents(root) {
  const parent = path.dirname(root)
  let above = parent
  while (!fs.existsSync(above)) above = path.dirname(above)
  const info = fs.statSync(above)
  const foreign = process.geteuid() === 0 && info.uid !== 0 && !isPrepared(info) && !(info.mode & 0o002)
  if (foreign && !lstat(root)) throw denied(`${above} belongs to another user: create ${root} as that user`)
  fs.mkdirSync(parent, { recursive: true })
  return fs.statSync(parent)
}

const { O_RDONLY, O_RDWR, O_NOFOLLOW, O_NONBLOCK } = fs.constants

class Directory {
  dead = new Map()
  bytes = Buffer.alloc(8)
  words = new Int32Array(this.bytes.buffer, this.bytes.byteOffset, 2)
  last = new Int32Array(2)
  value = "\0".repeat(8)

  constructor(bus) {
    const [root, isNamed] = findRoot(process.env)
    this.root = path.resolve(root)
    this.isNamed = isNamed
    this.path = path.join(this.root, "v1", bus)
    if (Buffer.byteLength(this.path) + 38 > 107) {
      throw invalid(`the path ${this.path} is too long for a socket: set a shorter ZBUS_DIR`)
    }
    this.open()
  }

  open() {
    try {
      this.make()
      this.token = this.openToken()
      this.fd = fs.openSync(this.path, O_RDONLY)
    } catch (error) {
      throw refused(`open the bus in ${this.path}`, error)
    }
    lock(this.fd, "-s")
  }

  make() {
    const parent = makeParents(this.root)
    this.group = this.isNamed && isPrepared(parent) && !(parent.mode & 0o007) ? parent : null
    for (const where of [this.root, path.dirname(this.path), this.path]) {
      makeDirectory(where, this.group)
      const info = checkDirectory(where, this.isNamed, where === this.path)
      this.group = isPrepared(info) ? info : null
    }
  }

  /** Say whether another directory or token is at the path than this one, or none (R36). */
  get hasMoved() {
    const differs = (fd, file) => {
      const [ours, there] = [fs.fstatSync(fd, { bigint: true }), lstat(file)]
      return ours.ino !== there?.ino || ours.dev !== there.dev
    }
    return differs(this.fd, this.path) || differs(this.token, this.at("token"))
  }

  at(name) {
    return `${this.path}/${name}`
  }

  /** Give a file the group and mode that R48 asks for. */
  own(file) {
    if (this.group) fs.chownSync(file, process.geteuid(), this.group.gid)
    fs.chmodSync(file, this.group ? 0o660 : 0o600)
  }

  /** Write a new file under its draft name, and return that name. */
  draft(id, content) {
    const file = this.at(`${id}.new`)
    fs.writeFileSync(file, content, { mode: 0o600, flag: "wx" })
    this.own(file)
    return file
  }

  openToken() {
    const file = this.at("token")
    if (!lstat(file)) {
      const draft = this.draft(newId(), randomBytes(8))
      try {
        fs.linkSync(draft, file)
      } catch (error) {
        if (error.code !== "EEXIST") throw error
      } finally {
        remove(draft)
      }
    }
    const fd = fs.openSync(file, O_RDWR | O_NOFOLLOW | O_NONBLOCK)
    if (!fs.fstatSync(fd).isFile()) throw new ZbusError("Unavailable", `${file} is not a file: remove it`)
    if (fs.readSync(fd, this.bytes, 0, 8, 0) < 8) this.touch(fd)
    return fd
  }

  /** Return the token. Each send compares it, so a new value is made only when it has changed. */
  read() {
    fs.readSync(this.token, this.bytes, 0, 8, 0)
    const { words, last } = this
    if (words[0] !== last[0] || words[1] !== last[1]) {
      last.set(words)
      this.value = this.bytes.latin1Slice()
    }
    return this.value
  }

  touch(token = this.token) {
    fs.writeSync(token, randomBytes(8), 0, 8, 0)
  }

  /** Return the token and the entries, the highest epoch of each id (R7, R13). */
  entries() {
    for (;;) {
      const before = this.read()
      const found = new Map()
      for (const name of fs.readdirSync(this.path)) {
        const entry = parseFile(name)
        if (!entry?.epoch || this.isBuried(entry.id)) continue
        if (!(found.get(entry.id)?.epoch >= entry.epoch)) found.set(entry.id, entry)
      }
      if (this.read() === before) return [before, found]
    }
  }

  fingerprint(id) {
    const info = lstat(this.at(`${id}.sock`))
    return info ? `${info.dev}.${info.ino}.${info.ctimeNs}` : ""
  }

  isBuried(id) {
    return this.dead.size > 0 && this.dead.get(id) === this.fingerprint(id)
  }

  alive(id) {
    return answers(this.at(`${id}.sock`))
  }

  /** Remove what a dead ingress has left, its socket last (R27, R33); say whether anything was removed. */
  bury(id) {
    this.dead.set(id, this.fingerprint(id))
    let removed = false
    for (const name of fs.readdirSync(this.path)) {
      const isEntry = name.startsWith(`${id}.`) && parseFile(name)?.epoch
      if (isEntry && lstat(this.at(name))?.isFile()) removed = remove(this.at(name)) || removed
    }
    const socket = this.at(`${id}.sock`)
    return (lstat(socket)?.isSocket() && remove(socket)) || removed
  }

  /** Remove leftovers (R28), for a moment at most (R34). */
  async reap() {
    const until = now() + REAP_SECONDS
    let removed = false
    for (const name of fs.readdirSync(this.path)) {
      if (now() > until) break
      const file = parseFile(name)
      if (file?.is === "member") this.reapMember(this.at(name))
      else if (file?.is === "new") this.reapDraft(this.at(name))
      else if (file?.id && lstat(this.at(name)) && !this.isBuried(file.id) && !(await this.alive(file.id))) {
        removed = this.bury(file.id) || removed
      }
    }
    if (removed) this.touch()
  }

  /** Remove a member file that nobody has locked (R31). */
  reapMember(file) {
    if (!lstat(file)?.isFile()) return
    const fd = attempt(() => fs.openSync(file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK))
    if (fd === undefined) return
    if (fs.fstatSync(fd).isFile() && lock(fd, "-s")) remove(file)
    fs.closeSync(fd)
  }

  /** Remove a draft that is older than a day. */
  reapDraft(file) {
    const info = lstat(file)
    const isOurs = info?.isFile() || info?.isSocket()
    if (isOurs && Date.now() - Number(info.mtimeMs) > DAY_MS) remove(file)
  }

  close() {
    fs.closeSync(this.token)
    fs.closeSync(this.fd)
  }
}

// ---------------------------------------------------------------------------------------------------------
// The connection: ZMTP 3.0 (https://rfc.zeromq.org/spec/23/) without security, over a unix socket

const LONG = 2 // the length has 8 bytes
const COMMAND = 4
const HEAD_BYTES = 9
const GREETING_BYTES = 64
const READY_BYTES = 4096 // at most
const READY = "\x05READY"
const NO_SECURITY = "NULL".padEnd(20, "\0")

/** Write the head of a frame, always the long one. */
function writeHead(bytes, at, length, flags = 0) {
  bytes[at] = LONG | flags
  bytes.writeUInt32BE(0, at + 1)
  bytes.writeUInt32BE(length, at + 5)
}

function zmtpFrame(body, flags) {
  const frame = Buffer.alloc(HEAD_BYTES + body.length)
  writeHead(frame, 0, body.length, flags)
  frame.set(body, HEAD_BYTES)
  return frame
}

/** Return what a socket of this type says first. */
function greetingOf(type) {
  const greeting = Buffer.alloc(GREETING_BYTES)
  greeting.latin1Write(`\xff\0\0\0\0\0\0\0\x01\x7f\x03\0${NO_SECURITY}`)
  const ready = `${READY}\x0bSocket-Type\0\0\0${String.fromCharCode(type.length)}${type}`
  return Buffer.concat([greeting, zmtpFrame(Buffer.from(ready, "latin1"), COMMAND)])
}

/**
 * One connection. Its owner has `opened` called when the other side has greeted, `heard` for each message while it
 * is not `isHolding`, and `ended` at the end, which also comes when the other side says what is not ZMTP.
 */
class Connection {
  isOpen = false
  isHeld = false
  #owner
  #most
  #read = this.#greet
  #parts = []
  #bytes = 0
  #due = GREETING_BYTES

  constructor(socket, type, most, owner) {
    this.socket = socket
    this.#most = most
    this.#owner = owner
    socket.on("error", () => {}) // the end follows
    socket.on("close", () => owner.ended(this))
    socket.on("data", (chunk) => this.#take(chunk))
    socket.write(greetingOf(type))
  }

  /** Go on after `isHolding`. */
  resume() {
    this.isHeld = false
    this.#parse()
    if (!this.isHeld) this.socket.resume()
  }

  #take(chunk) {
    this.#parts.push(chunk)
    this.#bytes += chunk.length
    if (this.#bytes >= this.#due) this.#parse()
  }

  /** Read what is complete; `due` then says how many bytes the next part takes. */
  #parse() {
    const bytes = this.#parts.length === 1 ? this.#parts[0] : Buffer.concat(this.#parts)
    let at = 0
    for (let size; (size = this.#read(bytes, at)) > 0; at += size);
    this.#parts = at < bytes.length ? [bytes.subarray(at)] : []
    this.#bytes = bytes.length - at
  }

  /** Return false if less than `size` bytes are there. */
  #has(bytes, at, size) {
    this.#due = size
    return bytes.length - at >= size
  }

  #refuse(why) {
    this.#read = () => 0
    this.socket.destroy(new Error(why))
    return 0
  }

  #greet(bytes, at) {
    if (!this.#has(bytes, at, GREETING_BYTES)) return 0
    const isGood = bytes[at] === 0xff && bytes[at + 10] >= 3
    if (!isGood || bytes.latin1Slice(at + 12, at + 32) !== NO_SECURITY) return this.#refuse("it is not ZMTP 3")
    this.#read = this.#readFrame
    return GREETING_BYTES
  }

  /** Read a frame, if it is complete; return its size with the head, 0 if there is nothing to read. */
  #readFrame(bytes, at) {
    if (!this.#has(bytes, at, 2)) return 0
    const flags = bytes[at]
    const head = flags & LONG ? HEAD_BYTES : 2
    if (!this.#has(bytes, at, head)) return 0
    const length = head === 2 ? bytes[at + 1] : bytes.readUInt32BE(at + 1) * 2 ** 32 + bytes.readUInt32BE(at + 5)
    if (length > (this.isOpen ? this.#most : READY_BYTES)) return this.#refuse(`a frame has ${length} bytes`)
    if (!this.#has(bytes, at, head + length)) return 0
    if (this.isOpen && this.#owner.isHolding) return this.#hold()
    this.#hear(flags, bytes.subarray(at + head, at + head + length))
    return head + length
  }

  #hold() {
    this.isHeld = true
    this.socket.pause()
    return 0
  }

  #hear(flags, body) {
    if (!(flags & COMMAND) && this.isOpen) {
      if (body.length) this.#owner.heard(this, body)
    } else if (!this.isOpen) {
      if (!(flags & COMMAND) || body.latin1Slice(0, READY.length) !== READY) return this.#refuse("it refuses")
      this.isOpen = true
      this.#owner.opened(this)
    }
  }
}

// ---------------------------------------------------------------------------------------------------------
// The receiving thread: owns the listening socket of one subscription, so that others can join while JavaScript is
// busy. It hands over raw frames in chunks, each when the user's thread asks for one.

const isMark = (frame) => {
  const isEmpty = frame.at(-1) === 0x5d && frame.at(-2) === 0x5b && frame.at(-3) === 0
  return isEmpty && frame[frame.indexOf(0, frame.indexOf(0) + 1) + 1] === 0
}

/** Return the stream of a stamped frame with its `settled`, and the mark that would follow it. */
function markAfter(frame) {
  const { bytes } = frame
  const b = nulAt(frame, nulAt(frame, 0) + 1)
  const c = nulAt(frame, b + 1)
  const d = nulAt(frame, c + 1)
  const stamp = parseStamp(frame, c + 1, d, "\0")
  if (!stamp) throw malformed()
  const rows = parseEvents(frame, fieldOf(frame, b + 1, c), d + 1, true)
  const { origin, seq, born, settled, first, time } = stamp
  const told = [add(seq, rows.length), born, settled, first, time].map((n) => (n < 0 ? "" : n)).join(".")
  const topic = bytes.latin1Slice(0, b)
  return [`${origin}.${settled}\0${topic}`, Buffer.from(`${topic}\0\0${origin}.${told}\0[]`, "latin1")]
}

// What the two threads of a subscription share: how many frames were handed to the user's thread, which has yet to
// begin with them; and whether more wait for that.
const HANDED = 0
const WAITING = 1

class Receiver {
  frames = []
  bytes = 0
  // What did not fit leaves a mark of what is lost: the latest of each stream and `settled` (W39).
  marks = new Map()
  isDue = false
  isEnding = false
  hasHeard = false
  servers = []
  connections = new Set()

  constructor({ system, kind, topics, capacity, isBlock, maxBytes, shared }) {
    Object.assign(this, { capacity, isBlock, maxBytes, shared })
    this.decoder = new Decoder(system, kind)
    this.topics = Buffer.concat(topics.map((topic) => zmtpFrame(Buffer.concat([Buffer.of(1), topic]))))
    parentPort.on("message", (message) => this.obey(message))
  }

  listen(path) {
    const server = net.createServer((socket) => {
      this.connections.add(new Connection(socket, "SUB", this.maxBytes, this))
    })
    this.servers.push(server)
    server.on("error", (error) => {
      if (!server.listening) throw error
    })
    server.listen({ path, backlog: BACKLOG }, () => parentPort.postMessage({ bound: true }))
  }

  opened({ socket }) {
    socket.write(this.topics)
  }

  heard(_, frame) {
    this.hasHeard = true
    this.keep(frame)
    if (!this.isEmpty) this.serveSoon()
  }

  ended(connection) {
    if (!connection.isHeld) this.connections.delete(connection)
  }

  /** Say whether to stop reading, as a full `block` queue does; then the user's thread asks for more. */
  get isHolding() {
    if (!this.isBlock || !this.isFull || this.isEnding) return false
    Atomics.store(this.shared, WAITING, 1)
    return this.isFull
  }

  resume() {
    for (const connection of this.connections) {
      if (!connection.isHeld) continue
      connection.resume()
      if (connection.socket.destroyed) this.ended(connection)
    }
  }

  get isFull() {
    const { frames, shared, capacity } = this
    return frames.length + Atomics.load(shared, HANDED) >= capacity || this.bytes >= MAX_WAITING_BYTES
  }

  get isEmpty() {
    return !this.frames.length && !this.marks.size
  }

  keep(frame) {
    // Of what is for the bus itself only a twin is of use: the mark in it reaches a full queue, too (W47).
    if (frame[0] === 0xff) {
      if (frame[1] === 0x23 && frame.length > 2) this.keepMark(frame.subarray(2))
    } else if (isMark(frame) || (this.isFull && !this.isBlock)) this.keepMark(frame)
    else {
      this.frames.push(frame)
      this.bytes += frame.length
    }
  }

  keepMark(bytes) {
    try {
      const frame = frameAlone(bytes)
      // Twins are of any topic: those of others would take all the room.
      if (!this.decoder.find(frame).selected) return
      const [key, mark] = markAfter(frame)
      if (this.marks.size < MAX_STREAMS || this.marks.has(key)) this.marks.set(key, mark)
    } catch (error) {
      if (!(error instanceof Malformed)) throw error
    }
  }

  /** Return the next frames, `most` at most. Marks go last: none may come before an event that it counts (W39). */
  take(most, mostBytes) {
    let [count, bytes] = [0, 0]
    while (count < Math.min(most, this.frames.length) && bytes < mostBytes) bytes += this.frames[count++].length
    const frames = this.frames.splice(0, count)
    this.bytes -= bytes
    if (this.frames.length) return frames
    frames.push(...this.marks.values())
    this.marks.clear()
    return frames
  }

  obey({ bind, close }) {
    if (bind) this.listen(bind)
    if (close) this.end()
    this.serve()
    this.resume()
  }

  /** Hand the user's thread what waits, unless it has yet to begin with the chunk before; then it will ask. */
  serve() {
    this.isDue = false
    if (this.isEmpty) return
    Atomics.store(this.shared, WAITING, 1)
    if (Atomics.load(this.shared, HANDED)) return
    const frames = this.take(CHUNK, CHUNK_BYTES)
    if (this.isEmpty) Atomics.store(this.shared, WAITING, 0)
    this.hand(frames)
    this.resume()
  }

  /** Serve once all that has arrived is read: a chunk of many frames costs hardly more than one of one frame. */
  serveSoon() {
    if (this.frames.length >= CHUNK || this.isFull) this.serve()
    else if (!this.isDue) {
      this.isDue = true
      setImmediate(() => this.serve())
    }
  }

  /** Move frames to the user's thread as one buffer, which is faster than many. */
  hand(frames) {
    const lengths = Uint32Array.from(frames, (frame) => frame.length)
    const bytes = new Uint8Array(lengths.reduce((sum, length) => sum + length, 0))
    let at = 0
    for (const frame of frames) {
      bytes.set(frame, at)
      at += frame.length
    }
    Atomics.store(this.shared, HANDED, frames.length)
    parentPort.postMessage({ bytes, lengths }, [bytes.buffer])
  }

  /** End once what has arrived is read: when two turns of the event loop bring nothing, or after a moment. */
  async end() {
    this.isEnding = true
    for (const server of this.servers) server.close()
    const until = now() + 0.02
    for (let quiet = 0; quiet < 2 && now() < until; quiet++) {
      this.hasHeard = false
      await new Promise(setImmediate)
      if (this.hasHeard) quiet = 0
    }
    for (const { socket } of this.connections) socket.destroy()
    // What is left goes to the user's thread at once, so that this one ends.
    this.hand(this.take(Infinity, Infinity))
    parentPort.postMessage({ end: true })
    parentPort.close()
  }
}

if (!isMainThread && workerData?.zbusIngress) new Receiver(workerData.zbusIngress)

// ---------------------------------------------------------------------------------------------------------
// The publisher (R19 to R25, R40 to R43, R57 to R59): a link to each ingress with a queue of its own, numbers, marks

const DONE = Promise.resolve()
const TWIN = Buffer.from("\xff#", "latin1")

const turnOfLoop = () => new Promise(setImmediate)

/** The connection to one ingress, and what waits for it. */
class Link {
  connection = null
  shown = 0
  missed = 0
  prefixes = new Set()
  // Pieces of slabs that wait, the first `kept` of them copied, and those that are on their way to the kernel; and how
  // many frames and bytes all of them hold.
  waiting = []
  written = []
  kept = 0
  frames = 0
  bytes = 0
  // Marks of what was sent since the last ones, and whether it has missed any of that.
  owed = new Map()
  latestOwed = null
  isPaying = false

  constructor(publisher, entry) {
    this.publisher = publisher
    this.most = entry.overflow === "block" ? Math.min(BLOCK_CAPACITY, publisher.capacity) : publisher.capacity
    this.expect(entry)
    this.dial()
  }

  /** Wait for an epoch from this moment on. */
  expect({ id, epoch, overflow, name }) {
    Object.assign(this, { id, epoch, overflow, name, since: now(), due: now() + 0.005, pause: 0.005 })
  }

  get isAwaited() {
    return this.shown < this.epoch && this.missed < this.epoch
  }

  dial() {
    const { directory, bus } = this.publisher
    const socket = net.connect(directory.at(`${this.id}.sock`)).unref()
    this.connection = new Connection(socket, "XPUB", bus.maxEventBytes, this)
  }

  /** @hidden What is subscribed follows. */
  opened() {}

  /** Note what the ingress has subscribed or unsubscribed (W25). */
  heard(connection, body) {
    if (connection !== this.connection) return
    const isAdded = body[0] === 1
    const topic = body.latin1Slice(1)
    const sentinel = parseSentinel(topic)
    if (!sentinel) this.prefixes[isAdded ? "add" : "delete"](topic)
    else if (sentinel.id !== this.id) return
    else if (isAdded) this.show(sentinel.epoch)
    else if (sentinel.epoch === this.shown) this.lose()
    this.publisher.haveChanged()
  }

  show(epoch) {
    this.shown = Math.max(this.shown, epoch)
    if (!this.missed || this.missed > this.shown) return
    this.missed = 0
    this.pay()
  }

  /** Wait for the ingress anew: the next send settles, before anything more is missed. */
  lose() {
    if (!this.isAwaited) this.expect(this)
    this.shown = this.missed = 0
    this.publisher.known = null
  }

  ended(connection) {
    if (connection !== this.connection) return
    this.lose()
    this.disconnect()
  }

  /** Close the connection. What waited for it is lost. */
  disconnect() {
    this.connection?.socket.destroy()
    this.connection = null
    this.prefixes.clear()
    Object.assign(this, { shown: 0, waiting: [], written: [], kept: 0, frames: 0, bytes: 0 })
    this.publisher.haveChanged()
  }

  selects(topic) {
    for (const prefix of this.prefixes) if (topic.startsWith(prefix)) return true
    return false
  }

  /** Say whether something is on its way to an ingress that answers. */
  get isPending() {
    return this.shown > 0 && !this.missed && (this.frames > 0 || this.owed.size > 0)
  }

  fits(bytes) {
    return !this.frames || (this.frames < this.most && this.bytes + bytes <= MAX_WAITING_BYTES)
  }

  /** Queue a frame that lies in a slab. Frames next to each other are one piece. */
  put(slab, from, to) {
    const last = this.waiting.at(-1)
    if (last?.slab === slab && last.to === from) {
      last.to = to
      last.frames++
    } else this.waiting.push({ slab, from, to, frames: 1 })
    this.frames++
    this.bytes += to - from
  }

  /** Hand what waits to the kernel, unless it still has to take what was handed to it before. */
  flush() {
    if (this.written.length) return this.keep()
    while (this.waiting.length && !this.written.length) this.hand(this.waiting.splice(0, CHUNK))
    // These marks go in the next turn.
    if (this.isPaying && !this.frames) this.pay()
  }

  hand(pieces) {
    const { socket } = this.connection
    const last = pieces.at(-1)
    this.written = pieces
    this.kept = Math.max(0, this.kept - CHUNK)
    socket.cork()
    for (const piece of pieces) {
      const { slab, from, to } = piece
      socket.write(slab.subarray(from, to), piece === last ? () => this.finish(pieces) : undefined)
    }
    socket.uncork()
    // Most often the kernel takes all of it at once. The call that comes later then has nothing to do.
    if (!socket.writableLength) this.count(pieces)
  }

  /** Copy what has to wait longer: a small piece would keep a whole slab. */
  keep() {
    const fresh = this.waiting.splice(this.kept)
    if (!fresh.length) return
    const slab = Buffer.concat(fresh.map(({ slab, from, to }) => slab.subarray(from, to)))
    const frames = fresh.reduce((sum, piece) => sum + piece.frames, 0)
    this.kept = this.waiting.push({ slab, from: 0, to: slab.length, frames })
  }

  finish(pieces) {
    if (pieces !== this.written) return
    this.count(pieces)
    this.flush()
    this.publisher.tell?.()
  }

  /** Note that the kernel has these pieces. */
  count(pieces) {
    this.written = []
    for (const { from, to, frames } of pieces) {
      this.frames -= frames
      this.bytes -= to - from
    }
  }

  /** Remember that a mark has to follow the latest events of a topic. */
  owe(mark, missed) {
    if (this.latestOwed === mark && !missed) return
    if (this.owed.size < MAX_STREAMS || this.owed.has(mark)) this.owed.set(mark, missed || this.owed.get(mark))
    this.latestOwed = mark
  }

  /** Queue the marks that are owed (W46), as far as there is room. */
  pay() {
    this.isPaying = true
    this.latestOwed = null
    for (const mark of this.owed.keys()) {
      if (this.shown < this.epoch || this.frames >= Math.min(this.most, BLOCK_CAPACITY)) return
      this.owed.delete(mark)
      if (!this.selects(mark.topic.prefix)) continue
      this.publisher.put(this, markOf(mark))
      this.tell(mark)
    }
    this.isPaying = false
  }

  /** Queue the twin of a mark (W47). */
  tell(mark) {
    if (this.selects(TWIN.latin1Slice())) this.publisher.put(this, twinOf(mark))
  }

  /** The process ends: write what waits, as far as the kernel takes it; say whether that is all. */
  writeNow() {
    if (!this.connection) return true
    this.takeBack()
    try {
      for (const piece of this.waiting) {
        const { slab, to } = piece
        while (piece.from < to) piece.from += fs.writeSync(this.descriptor, slab, piece.from, to - piece.from)
      }
    } catch (error) {
      return error.code !== "EAGAIN"
    }
    return true
  }

  /** Take back what the kernel has not taken. No public call tells how much that is, nor the descriptor. */
  takeBack() {
    let left = this.connection.socket._handle?.writeQueueSize ?? 0
    for (const { slab, from, to } of this.written.reverse()) {
      const piece = { slab, from: Math.max(from, to - left), to }
      left -= to - piece.from
      this.waiting.unshift(piece)
    }
    this.written = []
  }

  get descriptor() {
    return this.connection.socket._handle?.fd
  }
}

const frameOfTopic = ({ head, origin, seq }, told, path, field) =>
  frameOf(`${head}${path}\0`, `${origin}.${seq + 1}${told}${wall()}`, field)

const markOf = ({ topic, told }) => frameOfTopic(topic, told, "", "[]")
const twinOf = (mark) => Buffer.concat([TWIN, Buffer.from(markOf(mark))])

class Publisher {
  links = new Map()
  topics = new Map()
  origin = newId()
  listed = null
  known = null
  settled = ""
  // Of the links, and of what they have subscribed.
  version = 0
  lastSent = 0
  timer = null
  // Whether a step runs, and who waits for the next (R23).
  isBusy = false
  waiting = []
  // Tells a step that waits that something has changed.
  tell = null
  // Where frames are written, and how much was since the last turn of the event loop.
  slab = Buffer.alloc(0)
  used = 0
  unturned = 0
  turn = null
  lastFlush = 0

  constructor(bus, { capacity, linger }) {
    this.bus = bus
    this.directory = bus.directory
    this.capacity = capacity
    this.linger = linger
  }

  /** Wait for those who came before; then the step is the caller's, until `pass` (R23). */
  async enter() {
    if (this.isBusy) await new Promise((resolve) => this.waiting.push(resolve))
    this.isBusy = true
  }

  pass() {
    if (this.waiting.length) this.waiting.shift()()
    else this.isBusy = false
  }

  async exclusively(run) {
    await this.enter()
    try {
      return await run()
    } finally {
      this.pass()
    }
  }

  haveChanged() {
    this.version++
    this.tell?.()
  }

  /** Wait until something has changed, or for so long at most. */
  async change(ms) {
    let timer
    await new Promise((resolve) => {
      this.tell = resolve
      timer = setTimeout(resolve, ms)
    })
    clearTimeout(timer)
    this.tell = null
  }

  disconnect(link) {
    this.links.delete(link.id)
    link.disconnect()
  }

  bury(id) {
    if (this.directory.bury(id)) this.directory.touch()
  }

  async list() {
    await this.bus.renew()
    const [token, entries] = this.directory.entries()
    for (const link of this.links.values()) {
      if (!entries.has(link.id) && !(link.isFollowing && link.shown)) this.disconnect(link)
    }
    for (const entry of entries.values()) {
      const link = this.links.get(entry.id)
      if (link) link.isFollowing = false
      if (link?.epoch < entry.epoch) link.expect(entry)
      else if (!link && (await this.directory.alive(entry.id))) this.links.set(entry.id, new Link(this, entry))
      else if (!link) this.bury(entry.id)
    }
    this.version++
    this.listed = token
  }

  /** Keep the links that have yet to follow this process to a new directory (R39). */
  follow() {
    for (const link of this.links.values()) link.isFollowing = true
  }

  /** Wait until every listed ingress has shown its epoch, or is given up (R20). */
  async settle(deadline) {
    for (;;) {
      const asof = micros()
      const token = this.directory.read()
      if (token !== this.listed) await this.list()
      const awaited = [...this.links.values()].filter((link) => link.isAwaited)
      for (const link of awaited) if (now() >= link.due) await this.check(link)
      if (!awaited.length && this.listed === token && this.directory.read() === token) {
        this.known = token
        this.settled = asof ?? ""
        return
      }
      if (!awaited.length) continue
      if (now() > deadline) throw timeout(`${awaited[0].name} has not joined: look at its process`)
      await this.change(5)
    }
  }

  async check(link) {
    link.pause = Math.min(0.05, link.pause * 2)
    link.due = now() + link.pause
    if (!(await this.directory.alive(link.id))) {
      this.disconnect(link)
      this.bury(link.id)
      this.listed = null
      return
    }
    if (!link.connection) link.dial()
    if (this.isOver(link)) {
      link.missed = link.epoch
      this.version++
      this.bus.count({ joinTimeouts: 1 })
      process.emitWarning(`${link.name} does not answer: events go on without it until it does`, WARNING)
    }
  }

  /** Say whether an ingress that has not shown its epoch is given up (R21, R22, R40). */
  isOver(link) {
    const waited = now() - link.since
    if (link.overflow === "block" || waited < JOIN_TIMEOUT) return false
    return waited > 30 * JOIN_TIMEOUT || !isSlow(this.directory.at(link.name))
  }

  add(head) {
    if (this.topics.size >= MAX_TOPICS) {
      this.topics.clear()
      this.origin = newId()
      this.bus.showOrigin(this.origin)
    }
    const topic = { head, prefix: Buffer.from(head).latin1Slice(), origin: this.origin, seq: 0, born: micros() ?? "" }
    this.topics.set(head, topic)
    return topic
  }

  /** Number a frame of so many events and hand it to the links (R20, R24). The hot path waits for nothing. */
  send(head, path, field, events, seconds) {
    const topic = this.topics.get(head)
    if (this.isBusy || !topic || this.directory.read() !== this.known || !this.emit(topic, path, field, events)) {
      return this.sendLater(head, path, field, events, seconds)
    }
    if (this.unturned < TURN_BYTES) return DONE
    this.isBusy = true
    return turnOfLoop().finally(() => this.pass())
  }

  async sendLater(head, path, field, events, seconds) {
    const deadline = now() + seconds
    await this.enter()
    try {
      for (;;) {
        this.bus.checkOpen()
        // A new topic is born before the token is compared (W8).
        const topic = this.topics.get(head) ?? this.add(head)
        if (this.directory.read() !== this.known) await this.settle(deadline)
        if (this.emit(topic, path, field, events)) break
        if (now() > deadline) throw timeout(`${this.obstacle} is full and makes no room: the event went to nobody`)
        await this.change(20)
      }
      if (this.unturned >= TURN_BYTES) await turnOfLoop()
    } catch (error) {
      if (error.kind === "Timeout") this.bus.count({ sendTimeouts: 1 })
      throw refused("send", error)
    } finally {
      this.pass()
    }
  }

  /** Queue a frame for every link, or, if a `block` link has no room, for none: then it takes no number (R24). */
  emit(topic, path, field, events) {
    if (topic.version !== this.version) this.choose(topic)
    if (topic.settled !== this.settled) this.renew(topic)
    const { audience, absent, mark } = topic
    for (const link of audience) if (!link.fits(0)) link.flush()
    const size = audience.length && this.write(frameOfTopic(topic, mark.told, path, field))
    for (const link of audience) if (link.overflow === "block" && !link.fits(size)) return false
    const [from, to] = [this.used, (this.used += size)]
    for (const link of audience) {
      const fits = link.fits(size)
      if (fits) link.put(this.slab, from, to)
      if (link.overflow === "drop") link.owe(mark, !fits)
    }
    for (const link of absent) link.owe(mark, true)
    topic.seq += events
    this.lastSent = now()
    this.flushLater(size)
    // What comes alone goes at once, since the turn may be long.
    if (this.lastSent - this.lastFlush > EAGER) this.flush(this.lastSent)
    this.watch()
    return true
  }

  /** The entry of the `block` ingress that is full. */
  get obstacle() {
    const blocking = [...this.links.values()].filter((link) => link.overflow === "block")
    return blocking.sort((a, b) => b.frames - a.frames)[0]?.name
  }

  /** Queue a frame for one link, whatever room it has. */
  put(link, frame) {
    const size = this.write(frame)
    link.put(this.slab, this.used, (this.used += size))
    this.flushLater(size)
  }

  /** Write a frame behind the latest one, and return its size. It stays there once `used` has grown by that. */
  write(frame) {
    const isText = typeof frame === "string"
    if (this.slab.length - this.used < HEAD_BYTES + frame.length * (isText ? 3 : 1)) {
      this.slab = Buffer.allocUnsafeSlow(Math.max(SLAB_BYTES, HEAD_BYTES + Buffer.byteLength(frame)))
      this.used = 0
    }
    const at = this.used + HEAD_BYTES
    const length = isText ? this.slab.write(frame, at) : frame.copy(this.slab, at)
    writeHead(this.slab, this.used, length)
    return HEAD_BYTES + length
  }

  /** Write at the end of this turn of the event loop: one call for many frames is far cheaper. */
  flushLater(size) {
    this.unturned += size + HEAD_BYTES
    this.turn ??= setImmediate(() => {
      this.turn = null
      this.unturned = 0
      this.flush(now())
    })
  }

  flush(time) {
    this.lastFlush = time
    let isIdle = true
    for (const link of this.links.values()) {
      link.flush()
      isIdle &&= !link.waiting.length && !link.written.length
    }
    // The kernel has it all: the next frames take the place of these, unless it is large.
    if (isIdle) this.used = this.slab.length > SLAB_BYTES ? this.slab.length : 0
  }

  /** Find the links that a topic is for, and those that miss it. */
  choose(topic) {
    const links = [...this.links.values()]
    topic.version = this.version
    topic.audience = links.filter((link) => link.selects(topic.prefix))
    topic.absent = links.filter((link) => link.shown < link.epoch)
  }

  /** Before a new `settled`: a twin tells of the events so far (W48). */
  renew(topic) {
    for (const link of topic.audience) {
      const missed = link.owed.get(topic.mark)
      if (missed === undefined) continue
      link.tell(topic.mark)
      if (!missed) link.owed.delete(topic.mark)
    }
    topic.settled = this.settled
    const first = topic.settled === "" ? "" : topic.seq + 1
    topic.mark = { topic, told: `.${topic.born}.${topic.settled}.${first}.` }
  }

  /** Look in a moment whether this publisher is at rest (R58). */
  watch() {
    this.timer ??= setTimeout(() => this.rest(), REST_MS).unref()
  }

  /** Send marks at rest; look again while some are due. */
  rest() {
    this.timer = null
    if (this.bus.isClosed) return
    if (now() - this.lastSent > REST_MS / 1000 - 0.02) this.pay()
    if ([...this.links.values()].some((link) => link.owed.size)) this.watch()
  }

  pay() {
    for (const link of this.links.values()) link.pay()
  }

  /** Send the last marks, wait until everything is written, and hand it over. */
  async close() {
    const until = now() + this.linger
    this.pay()
    while ([...this.links.values()].some((link) => link.isPending) && now() < until) await this.change(20)
    const child = this.leave()
    if (child) await new Promise((resolve) => child.once("close", resolve))
  }

  /** The process ends: only calls that wait are left. Write what waits, for as long as the linger. */
  writeOut() {
    const until = now() + this.linger
    this.pay()
    while ([...this.links.values()].filter((link) => !link.writeNow()).length && now() < until) nap()
  }

  /** Close the connections, and return the child that hands over what was sent, if there is one. */
  leave() {
    clearTimeout(this.timer)
    const links = [...this.links.values()].filter((link) => link.connection && link.shown)
    const child = links.length > 0 && this.linger > 0 && handOver(links.map((link) => link.descriptor), this.linger)
    for (const link of this.links.values()) link.disconnect()
    return child
  }
}

// ---------------------------------------------------------------------------------------------------------
// What users call

/** Events of one subscription, in order: `for await (const evt of sub)`. */
export class Subscription {
  received = 0
  #bus
  #decoder
  #worker
  #id = newId()
  #patterns
  #entry
  #text
  #capacity
  #onGap
  #chunks = []
  #frames = null
  #events = []
  #taken = 0
  #isEnded = false
  #isClosed = false
  #hasExited = false
  #wakers = new Set()
  #bound
  #shared = new Int32Array(new SharedArrayBuffer(8))

  /** @hidden */
  constructor(bus, system, { kind, overflow, capacity, onGap }) {
    this.#bus = bus
    this.#decoder = new Decoder(system, kind)
    this.#patterns = { system, kind }
    this.#entry = `${this.#id}.1.${overflow}`
    const patterns = [[system, kind || "*", overflow]]
    this.#text = JSON.stringify({ ...bus.describe(), patterns, channels: 1 })
    this.#capacity = capacity
    this.#onGap = onGap
  }

  get lost() {
    return this.#decoder.lost
  }

  get malformed() {
    return this.#decoder.malformed
  }

  /** @hidden Join, step by step (R16). */
  async join() {
    const topics = prefixes(this.#decoder.system, this.#decoder.kind).map((text) => Buffer.from(text))
    for (const control of ["#", `${this.#id}.1`]) topics.push(Buffer.from(`\xff${control}`, "latin1"))
    const isBlock = this.#entry.endsWith("block")
    const limits = { isBlock, maxBytes: this.#bus.maxEventBytes, capacity: this.#capacity }
    const told = { ...this.#patterns, ...limits, topics, shared: this.#shared }
    this.#worker = new Worker(new URL(import.meta.url), { workerData: { zbusIngress: told } })
    this.#worker.on("message", (message) => (message.bound ? this.#bound.resolve() : this.#take(message)))
    this.#worker.on("error", (error) => {
      this.#bound.reject(refused("listen", error))
      this.#end()
    })
    this.#worker.on("exit", () => {
      this.#hasExited = true
      this.#bound.resolve()
      this.#end()
    })
    await this.appear()
    const announced = micros()
    this.#bus.directory.touch()
    this.#decoder.join(announced, micros())
    this.#worker.unref()
  }

  /** @hidden Create what others find this subscription by, where it is missing; say whether anything was. */
  async appear() {
    const directory = this.#bus.directory
    const socket = directory.at(`${this.#id}.sock`)
    const isUnbound = !lstat(socket)
    if (isUnbound) {
      const draft = directory.at(`${this.#id}.new`)
      await new Promise((resolve, reject) => {
        this.#bound = { resolve, reject }
        this.#worker.postMessage({ bind: draft })
      })
      if (this.#isClosed) return false
      directory.own(draft)
      fs.renameSync(draft, socket)
    }
    if (lstat(directory.at(this.#entry))) return isUnbound
    fs.renameSync(directory.draft(this.#id, this.#text), directory.at(this.#entry))
    return true
  }

  #take(message) {
    if (message.end) this.#isEnded = true
    else this.#chunks.push(message)
    this.#wake()
  }

  /** Return the next event that is here, `undefined` if there is none. */
  #next() {
    while (this.#taken === this.#events.length) if (!this.#decode()) return undefined
    this.received++
    return this.#events[this.#taken++]
  }

  /** Decode a frame when the user takes its first event, so that `lost` fits; say whether there was one. */
  #decode() {
    if (!this.#frames?.next() && !this.#begin()) return false
    this.#events = this.#decoder.feed(this.#frames)
    this.#taken = 0
    // A microtask comes before the event, and what it throws does not end this call.
    for (const [first, last] of this.#decoder.gaps) queueMicrotask(() => this.#onGap?.({ first, last }))
    return true
  }

  /** Begin with the next chunk that is not empty, and let the thread hand over more. */
  #begin() {
    if (this.#frames) this.#bus.count()
    this.#frames = null
    const chunk = this.#chunks.shift()
    if (!chunk) return false
    Atomics.store(this.#shared, HANDED, 0)
    if (Atomics.exchange(this.#shared, WAITING, 0)) this.#worker.postMessage({})
    const { buffer, byteOffset, byteLength } = chunk.bytes
    this.#frames = new Frames(Buffer.from(buffer, byteOffset, byteLength), chunk.lengths)
    return this.#frames.next() || this.#begin()
  }

  #end() {
    this.#isEnded = true
    this.#wake()
  }

  #wake() {
    for (const wake of this.#wakers) wake()
  }

  /**
   * Return the next event, or `undefined` once the subscription is closed and what had arrived is taken.
   * @throws {ZbusError} Timeout, retryable, if none comes in that many seconds.
   */
  receive(options) {
    const evt = this.#next()
    return evt === undefined ? this.#arrival(options?.timeout) : Promise.resolve(evt)
  }

  async #arrival(seconds) {
    const until = seconds === undefined ? Infinity : now() + seconds
    for (;;) {
      const evt = this.#next()
      if (evt !== undefined || this.#isEnded) return evt
      if (now() >= until) throw timeout(`no event within ${seconds} s`)
      await this.#wait(until)
    }
  }

  async #wait(until) {
    this.#worker.ref()
    let wake, timer
    await new Promise((resolve) => {
      wake = resolve
      this.#wakers.add(wake)
      if (until < Infinity) timer = setTimeout(wake, Math.max(1, (until - now()) * 1000))
    })
    clearTimeout(timer)
    this.#wakers.delete(wake)
    if (!this.#wakers.size) this.#worker.unref()
  }

  /** By hand: a generator would make several promises for each event. */
  [Symbol.asyncIterator]() {
    const result = (value) => ({ value, done: value === undefined })
    return {
      next: () => {
        const evt = this.#next()
        return evt === undefined ? this.#arrival().then(result) : Promise.resolve(result(evt))
      },
      [Symbol.asyncIterator]() {
        return this
      },
    }
  }

  /** Remove the files of this subscription (R18), and tell its thread to end. */
  #withdraw() {
    this.#isClosed = true
    const directory = this.#bus.directory
    for (const name of [this.#entry, `${this.#id}.sock`]) remove(directory.at(name))
    directory.touch()
    this.#worker.postMessage({ close: true })
  }

  /** Leave. What had arrived can still be received. */
  async close() {
    if (this.#isClosed) return
    this.#withdraw()
    this.#bus.forget(this)
    while (!this.#hasExited) await this.#wait(now() + 1)
  }

  /** @hidden The process ends. */
  abandon() {
    this.#withdraw()
  }
}

const openBuses = new Set()
process.on("beforeExit", () => {
  for (const bus of openBuses) bus.close()
})
process.on("exit", () => {
  for (const bus of openBuses) bus.abandon()
})

/** A process on the bus: it sends, and subscribes. Make one with `open()`. */
export class Bus {
  isClosed = false
  #publisher
  #options
  #subscriptions = new Set()
  #id = newId()
  #member
  #origins = []
  #counters = { joinTimeouts: 0, sendTimeouts: 0, lost: 0, malformed: 0 }
  #written = ""
  #renewal = null
  #timer

  /** @hidden Use `open()`. */
  constructor(name, options) {
    this.#options = options
    this.maxEventBytes = options.maxEventBytes
    this.directory = new Directory(name)
    this.#publisher = new Publisher(this, options)
    this.showOrigin(this.#publisher.origin)
    this.#timer = setInterval(() => this.#look(), LOOK_MS).unref()
    openBuses.add(this)
  }

  /** @hidden */
  describe() {
    const name = path.basename(process.argv[1] ?? "node")
    return { process: name, pid: process.pid, language: "node", member: this.#id }
  }

  get #memberFile() {
    return this.directory.at(`${this.#id}.member`)
  }

  /** @hidden Write the member file, or write its origins again (R29, R53). */
  showOrigin(origin) {
    this.#origins = [...this.#origins, origin].slice(-16)
    const { member, ...told } = this.describe()
    const text = Buffer.from(JSON.stringify({ ...told, origins: this.#origins }).padEnd(1024))
    if (this.#member !== undefined && lstat(this.#memberFile)) {
      fs.writeSync(this.#member, text, 0, text.length, 128)
      return
    }
    const draft = this.directory.draft(this.#id, Buffer.concat([Buffer.alloc(128), text]))
    if (this.#member !== undefined) fs.closeSync(this.#member)
    this.#member = fs.openSync(draft, "r+")
    lock(this.#member, "-x")
    fs.renameSync(draft, this.#memberFile)
    this.#written = ""
    this.count()
  }

  /** @hidden Add to the counters, and write them when they have changed (R30). */
  count(added = {}) {
    for (const [name, n] of Object.entries(added)) this.#counters[name] += n
    const { joinTimeouts, sendTimeouts, ...left } = this.#counters
    for (const sub of this.#subscriptions) for (const name of ["lost", "malformed"]) left[name] += sub[name]
    const counters = [left.lost, left.malformed, joinTimeouts, sendTimeouts]
    if (this.isClosed || counters.join() === this.#written) return
    this.#written = counters.join()
    fs.writeSync(this.#member, Buffer.from(BigUint64Array.from(counters, BigInt).buffer), 0, 32, 0)
  }

  /** Look once a second, unless the directory was removed for good (R37). */
  #look() {
    if (lstat(this.directory.path)) this.renew().catch((error) => process.emitWarning(error))
  }

  /** @hidden Be found again if the directory, or a file of ours in it, was removed (R36 to R38). */
  renew() {
    const fail = (error) => Promise.reject(refused("find the bus again", error))
    return (this.#renewal ??= this.#appear()
      .catch(fail)
      .finally(() => (this.#renewal = null)))
  }

  async #appear() {
    const { token, fd, hasMoved } = this.directory
    if (hasMoved) {
      this.directory.open()
      this.#publisher.follow()
    }
    try {
      if (!lstat(this.#memberFile)) this.showOrigin(this.#origins.pop())
      let isNew = hasMoved
      for (const sub of this.#subscriptions) isNew = (await sub.appear()) || isNew
      if (isNew) this.directory.touch()
    } finally {
      // Others who still have the former token open notice by it.
      if (hasMoved) this.directory.touch(token)
      if (hasMoved) for (const old of [token, fd]) fs.closeSync(old)
    }
  }

  /** @hidden */
  checkOpen() {
    if (this.isClosed) throw canceled("the bus is closed: open another")
  }

  /** Subscribe; events sent after this returns arrive, whoever sends them. */
  async subscribe(system, { kind, overflow = "drop", capacity, signal, onGap } = {}) {
    this.checkOpen()
    if (overflow !== "drop" && overflow !== "block") throw invalid(`overflow must be "drop" or "block"`)
    capacity ??= overflow === "block" ? BLOCK_CAPACITY : this.#options.capacity
    if (!Number.isSafeInteger(capacity) || capacity < 1) throw invalid("capacity must be a number above 0")
    if (signal?.aborted) throw canceled("the signal was aborted before the subscription", true)
    const sub = new Subscription(this, system, { kind, overflow, capacity, onGap })
    await this.renew()
    try {
      await sub.join()
    } catch (error) {
      await sub.close()
      throw refused("subscribe", error)
    }
    this.#subscriptions.add(sub)
    signal?.addEventListener("abort", () => sub.close(), { once: true })
    if (this.#subscriptions.size === 1) await this.directory.reap()
    return sub
  }

  /** @hidden */
  forget(sub) {
    this.#subscriptions.delete(sub)
    this.count({ lost: sub.lost, malformed: sub.malformed })
  }

  /** Send one event. It has its number when this returns, and leaves in this turn of the event loop at the latest. */
  send(system, kind, eventPath, data, options) {
    try {
      this.checkOpen()
      checkText(eventPath, "path")
      return this.#publish(system, kind, eventPath, dataField(data), 1, options)
    } catch (error) {
      return Promise.reject(refused("send", error))
    }
  }

  /** Send `[path, data]` pairs of one topic as one frame, which arrives or is lost as a whole. */
  async sendMany(system, kind, items, options) {
    this.checkOpen()
    const field = batchField(items)
    if (items.length) await this.#publish(system, kind, "", field, items.length, options)
    else checkTopic(system, kind)
  }

  #publish(system, kind, eventPath, field, events, options) {
    const publisher = this.#publisher
    const head = `${system}\0${kind}\0`
    if (!publisher.topics.has(head)) checkTopic(system, kind)
    checkSize(`${head}${eventPath}`, field, this.maxEventBytes)
    return publisher.send(head, eventPath, field, events, options?.timeout ?? this.#options.sendTimeout)
  }

  /** Close every subscription, hand over what was sent within `linger`, and leave. */
  async close() {
    for (const sub of this.#subscriptions) await sub.close()
    await this.#publisher.exclusively(async () => {
      if (this.isClosed) return
      await this.#publisher.close()
      await this.#renewal?.catch(() => {})
      this.#leave()
    })
  }

  /** @hidden The process ends without `close`: remove what others would find, hand over what was sent. */
  abandon() {
    for (const sub of this.#subscriptions) sub.abandon()
    this.#publisher.writeOut()
    const child = this.#publisher.leave()
    this.#leave()
    if (child) waitAtExit(child)
  }

  #leave() {
    this.isClosed = true
    clearInterval(this.#timer)
    openBuses.delete(this)
    remove(this.#memberFile)
    fs.closeSync(this.#member)
    this.directory.close()
  }
}

for (const { prototype } of [Subscription, Bus]) {
  prototype[Symbol.asyncDispose ?? Symbol.for("Symbol.asyncDispose")] = prototype.close
}

/** Open a bus: the directory through which all processes of the user find each other. */
export async function open(name, options = {}) {
  const bus = name ?? (process.env.ZBUS_BUS || "default")
  if (!isBusName(bus)) throw invalid(`'${bus}' is no name of a bus: use letters, digits, '_', '-' and '.'`)
  const chosen = { capacity: CAPACITY, linger: 1, sendTimeout: 5, maxEventBytes: MAX_EVENT_BYTES }
  for (const [key, value = chosen[key]] of Object.entries(options)) {
    if (!(key in chosen)) throw invalid(`there is no option ${key}: use ${Object.keys(chosen).join(", ")}`)
    if (typeof value !== "number" || !(value >= 0)) throw invalid(`${key} must be a number, not ${value}`)
    chosen[key] = value
  }
  try {
    return new Bus(bus, chosen)
  } catch (error) {
    throw refused("open the bus", error)
  }
}

/** For the conformance kit: the same code without a bus. */
export const internals = {
  ...{ Decoder, frameAlone, checkText, checkTopic, dataField, batchField, frameOf, compilePattern, matches, prefixes },
  ...{ parseFile, parseSentinel, isBusName, findRoot },
}
