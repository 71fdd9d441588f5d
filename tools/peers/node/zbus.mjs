/**
 * Events between processes without a broker: the Node peer of zbus.
 *
 *     const bus = await open()
 *     await using sub = await bus.subscribe("orders.*")
 *     await bus.send("orders.eu", "order.created", "/orders/1", { total: 9.5 })
 *     for await (const evt of sub) console.log(evt.system, evt.kind, evt.path, evt.data)
 *
 * The file reads from the inside out: errors, JSON, patterns, frames, loss, the directory, the receiving
 * thread, the publisher, and last what users call. The clauses (W.., R..) are those of docs/spec of zbus.
 */
import { isAscii, isUtf8 } from "node:buffer"
import { spawn, spawnSync } from "node:child_process"
import { randomBytes } from "node:crypto"
import fs from "node:fs"
import net from "node:net"
import path from "node:path"
import { Worker, isMainThread, parentPort, workerData } from "node:worker_threads"
import zmq from "zeromq"

const MAX_EVENT_BYTES = 16 * 1024 * 1024
const MAX_TOPICS = 65536
const MAX_STREAMS = 65536
const MAX_GAP = 2 ** 40
const MAX_DEPTH = 1024
const MAX_PREFIXES = 16
const MAX_WAITING_BYTES = 64 * 1024 * 1024
const CAPACITY = 65536
const BLOCK_CAPACITY = 1000
const CHUNK = 512
const CHUNK_BYTES = 64 * 1024
const JOIN_TIMEOUT = 1
const REST_MS = 200
const DOUBT = 60
const LOOK_MS = 1000
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

/** Return the fields of a stamp (W5), `null` if it is empty. An origin like the `known` one is that text. */
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
  const stamp = { origin, seq: next(), born: next(), settled: next(), first: next(), time: next() }
  if (stamp.seq < 1) throw malformed()
  return stamp
}

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
// Loss (W27 to W41): a channel decodes the frames that reach it, and counts those that did not

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
    if (stamp) this.count(topic, stamp, rows.length)
    this.stamp = stamp
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

  count(topic, stamp, events) {
    const isLast = topic.stream?.isKept && topic.origin === stamp.origin
    const key = isLast ? topic.stream.key : `${stamp.origin}${topic.head}`
    const stream = isLast ? topic.stream : this.streams.get(key)
    topic.origin = stamp.origin
    topic.stream = stream
    const due = stream ? stream.due : this.firstDue(stamp)
    if (due !== null && distance(due, stamp.seq) > MAX_GAP) throw malformed()
    if (!stream && stamp.born > this.latestBorn) this.latestBorn = stamp.born
    if (due === null) return
    if (stream && !events) this.countHead(stream, stamp)
    this.lose(due, stamp.seq)
    const next = events || stamp.seq > due ? add(stamp.seq, events) : due
    if (!stream) return this.keep(topic, { key, due: next, begin: due, used: false, isKept: true })
    stream.due = next
    stream.used = true
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
  const [, id, epoch] = SENTINEL.exec(topic.latin1Slice()) ?? []
  return id ? { id, epoch: decimal(epoch) } : null
}

const isBusName = (name) => typeof name === "string" && /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$/.test(name)

// ---------------------------------------------------------------------------------------------------------
// The machine

const newId = () => randomBytes(8).toString("hex")
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
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
// the connections to these ingresses until this process has written everything, and has closed its own descriptors,
// and then until the readers have read it (SIOCOUTQ, 0x5411), but not longer than so many rounds of 5 ms.
const HAND_OVER = `
  my ($pid, $ids, $rounds, @numbers) = @ARGV;
  my @held;
  for my $i (0 .. $#numbers) {
    open my $socket, "+<&=", 3 + $i or next;
    my $name = "socket:[" . (stat $socket)[1] . "]";
    push @held, [$socket, "/proc/$pid/fd/$numbers[$i]", $name] if (getpeername($socket) // "") =~ /$ids/;
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

/** Return the descriptors of this process that are connections by unix socket from its side. */
function connections() {
  const ours = /: \S+ \S+ \S+ 0001 03 +(\d+)$/gm
  const inodes = new Set()
  for (const [, inode] of fs.readFileSync("/proc/net/unix", "latin1").matchAll(ours)) {
    inodes.add(`socket:[${inode}]`)
  }
  const nameOf = (fd) => attempt(() => fs.readlinkSync(`/proc/self/fd/${fd}`))
  return fs.readdirSync("/proc/self/fd").filter((fd) => inodes.has(nameOf(fd)))
}

/** Return a child that holds the connections to ingresses until they have read what was sent (R25). */
function handOver(ids, seconds) {
  const warn = (error) =>
    process.emitWarning(`cannot hand over to slow readers, as perl does: ${error}`, WARNING)
  try {
    const fds = connections()
    const words = ["-e", HAND_OVER, process.pid, ids.join("|"), Math.ceil(seconds * 200), ...fds].map(String)
    const stdio = ["ignore", "ignore", "ignore", ...fds.map(Number)]
    return spawn("perl", words, { stdio, detached: true }).once("error", warn)
  } catch (error) {
    return warn(error)
  }
}

/** Wait for the end of a child where promises do not work any more. */
function waitAtExit({ pid }) {
  const gone = () => / [ZX] /.test(fs.readFileSync(`/proc/${pid}/stat`, "latin1"))
  while (pid && !gone()) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5)
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
    const until = now() + 0.2
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
// The receiving thread: owns the bound SUB of one subscription, so that others can join while JavaScript is busy.
// It hands over raw frames in chunks, each when the user's thread asks for one.

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

// What the two threads of a subscription share: whether the socket is closed; how many frames were handed to the user's
// thread, which has yet to begin with them; and whether more wait for that.
const GONE = 0
const HANDED = 1
const WAITING = 2

class Receiver {
  frames = []
  bytes = 0
  // What did not fit leaves a mark of what is lost: the latest of each stream and `settled` (W39).
  marks = new Map()
  isDue = false
  isEnding = false
  wake = null

  constructor({ system, kind, topics, capacity, isBlock, maxBytes, shared }) {
    Object.assign(this, { capacity, isBlock, shared })
    this.decoder = new Decoder(system, kind)
    const receiveHighWaterMark = isBlock ? Math.min(BLOCK_CAPACITY, capacity) : CAPACITY
    this.socket = new zmq.Subscriber({ linger: 0, maxMessageSize: maxBytes, receiveHighWaterMark })
    // This binding cannot set SNDHWM of a SUB; one subscription has at most 18 topics, far below its 1,000 (W24).
    this.socket.subscribe(...topics.map((topic) => Buffer.from(topic)))
    parentPort.on("message", (message) => this.obey(message))
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
    if (bind) {
      this.socket.bindSync(bind)
      parentPort.postMessage({ bound: true })
    }
    if (close) {
      this.isEnding = true
      this.socket.receiveTimeout = 0
      this.wake?.()
      // A receive that waits ends with its socket.
      setTimeout(() => this.socket.close(), 20)
    }
    this.serve()
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
    this.wake?.()
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

  /** Stop reading, as a full `block` queue does. What does not read must still speak to those who join (R13). */
  async pause() {
    // There is no such connection, but libzmq looks at its commands.
    attempt(() => this.socket.disconnect("inproc://nobody"))
    await new Promise((resolve) => {
      this.wake = resolve
      setTimeout(resolve, 5)
    })
  }

  async run() {
    try {
      for (;;) {
        while (this.isBlock && this.isFull && !this.isEnding) await this.pause()
        this.keep((await this.socket.receive())[0])
        if (!this.isEmpty) this.serveSoon()
      }
    } catch (error) {
      if (!this.isEnding) throw error
    }
    this.socket.close()
    Atomics.store(this.shared, GONE, 1)
    Atomics.notify(this.shared, GONE)
    // What is left goes to the user's thread at once, so that this one ends.
    this.hand(this.take(Infinity, Infinity))
    parentPort.postMessage({ end: true })
    parentPort.close()
  }
}

if (!isMainThread && workerData?.zbusIngress) new Receiver(workerData.zbusIngress).run()

// ---------------------------------------------------------------------------------------------------------
// The publisher (R19 to R25, R40 to R43, R57 to R59): one XPUB for each overflow policy in use

/** Return what a socket that must not wait returns, `null` if it would have to wait. */
async function atOnce(promise) {
  try {
    return await promise
  } catch (error) {
    if (error.code === "EAGAIN") return null
    throw error
  }
}

/** Hand a frame to a socket; say whether it had room. */
async function offer(socket, frame) {
  try {
    await socket.send(frame)
    return true
  } catch (error) {
    if (error.code === "EAGAIN") return false
    throw error
  }
}

const twinOf = (mark) => Buffer.concat([Buffer.from("\xff#", "latin1"), Buffer.from(mark)])

/** Wait for an ingress from this moment on. */
const expect = (link, change) =>
  Object.assign(link, { since: now(), due: now() + 0.005, pause: 0.005, ...change })

class Publisher {
  lanes = { drop: null, block: null }
  links = new Map()
  topics = new Map()
  origin = newId()
  listed = null
  known = null
  settled = ""
  lastSent = 0
  timer = null
  // Whether a step runs, and who waits for the next (R23).
  isBusy = false
  waiting = []
  // Topics whose marks may have been dropped, and until when more of them may be (R57).
  doubtful = new Set()
  doubtUntil = 0

  constructor(bus, { capacity, linger }) {
    this.bus = bus
    this.directory = bus.directory
    this.capacity = capacity
    this.linger = linger
  }

  /** Wait for those who came before; then the step is the caller's, until `pass` (R23). */
  turn() {
    return new Promise((resolve) => this.waiting.push(resolve))
  }

  pass() {
    if (this.waiting.length) this.waiting.shift()()
    else this.isBusy = false
  }

  async exclusively(run) {
    if (this.isBusy) await this.turn()
    this.isBusy = true
    try {
      return await run()
    } finally {
      this.pass()
    }
  }

  lane(overflow) {
    return (this.lanes[overflow] ??= new zmq.XPublisher({
      immediate: true,
      linger: Math.round(this.linger * 1000),
      sendTimeout: 0,
      receiveTimeout: 0,
      noDrop: true,
      sendHighWaterMark: overflow === "block" ? Math.min(BLOCK_CAPACITY, this.capacity) : this.capacity,
      receiveHighWaterMark: 0,
      reconnectMaxInterval: 5000,
    }))
  }

  connect(entry) {
    const endpoint = `ipc://${this.directory.at(`${entry.id}.sock`)}`
    this.lane(entry.overflow).connect(endpoint)
    this.links.set(entry.id, expect({ ...entry, endpoint, shown: 0, missed: 0 }))
  }

  disconnect(link) {
    this.links.delete(link.id)
    // It may have gone by itself.
    attempt(() => this.lanes[link.overflow].disconnect(link.endpoint))
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
      if (link?.epoch < entry.epoch) expect(link, entry)
      else if (!link && (await this.directory.alive(entry.id))) this.connect(entry)
      else if (!link) this.bury(entry.id)
    }
    this.listed = token
  }

  /** Keep the links that have yet to follow this process to a new directory (R39). */
  follow() {
    for (const link of this.links.values()) link.isFollowing = true
  }

  /** Read which sentinels the links have shown (W25). */
  async readSubscriptions() {
    for (const socket of Object.values(this.lanes)) {
      for (let frame; socket && (frame = await atOnce(socket.receive()));) {
        const sentinel = parseSentinel(frame[0].subarray(1))
        const link = sentinel && this.links.get(sentinel.id)
        if (link) this.note(link, frame[0][0] === 1, sentinel.epoch)
      }
    }
  }

  note(link, isAdded, epoch) {
    if (isAdded && epoch > link.shown) {
      link.shown = epoch
      if (link.missed >= epoch) this.repeatMarks(this.topics.values())
    } else if (!isAdded && epoch === link.shown) expect(link, { shown: 0 })
  }

  /** Wait until every listed ingress has shown its epoch, or is given up (R20). */
  async settle(deadline) {
    for (;;) {
      const asof = micros()
      const token = this.directory.read()
      if (token !== this.listed) await this.list()
      await this.readSubscriptions()
      const isSilent = ({ shown, missed, epoch }) => shown < epoch && missed < epoch
      const awaited = [...this.links.values()].filter(isSilent)
      for (const link of awaited) if (now() >= link.due) await this.check(link)
      if (!awaited.length && this.listed === token && this.directory.read() === token) {
        this.known = token
        this.settled = asof ?? ""
        return
      }
      if (!awaited.length) continue
      if (now() > deadline) throw timeout(`${awaited[0].name} has not joined: look at its process`)
      await sleep(1)
    }
  }

  async check(link) {
    link.pause = Math.min(0.05, link.pause * 2)
    link.due = now() + link.pause
    if (!(await this.directory.alive(link.id))) {
      this.disconnect(link)
      this.bury(link.id)
      this.listed = null
    } else if (this.isOver(link)) {
      link.missed = link.epoch
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

  async add(head) {
    if (this.topics.size >= MAX_TOPICS) {
      await this.sendMarks(Infinity)
      this.topics.clear()
      this.origin = newId()
      this.bus.showOrigin(this.origin)
    }
    const born = micros() ?? ""
    const topic = { head, seq: 0, born, settled: "", told: `.${born}...`, marked: 0 }
    this.topics.set(head, topic)
    return topic
  }

  /**
   * Number a frame of so many events and hand it to the sockets (R20, R24). The hot path: where nothing has changed,
   * it waits for nothing but the promise of each socket, which says whether there was room.
   */
  async send(head, path, field, events, seconds) {
    const deadline = now() + seconds
    if (this.isBusy) await this.turn()
    this.isBusy = true
    try {
      for (;;) {
        this.bus.checkOpen()
        // A new topic is born before the token is compared (W8).
        const topic = this.topics.get(head) ?? (await this.add(head))
        if (this.directory.read() !== this.known) await this.settle(deadline)
        if (topic.settled !== this.settled) await this.renew(topic)
        // A text: zeromq.js would keep a buffer of this size until its I/O thread has told it, which costs more.
        const frame = frameOf(`${head}${path}\0`, this.stampOf(topic), field)
        const { block, drop } = this.lanes
        if (!block || (await offer(block, frame))) {
          topic.seq += events
          if (drop && !(await offer(drop, frame))) await this.force(frame)
          this.lastSent = now()
          return this.watch()
        }
        if (now() > deadline) throw timeout("a block subscriber is full: the event went to nobody")
        await sleep(2)
        await this.readSubscriptions()
      }
    } catch (error) {
      if (error.kind === "Timeout") this.bus.count({ sendTimeouts: 1 })
      throw refused("send", error)
    } finally {
      this.pass()
    }
  }

  /** Before a new `settled`: tell those with a full queue of the events so far (W48). */
  async renew(topic) {
    const { drop } = this.lanes
    const twin = topic.marked !== topic.seq && drop && twinOf(this.markOf(topic))
    if (twin && !(await offer(drop, twin))) await this.force(twin)
    topic.settled = this.settled
    topic.told = `.${topic.born}.${topic.settled}.${topic.settled === "" ? "" : topic.seq + 1}.`
  }

  stampOf({ seq, told }) {
    return `${this.origin}.${seq + 1}${told}${wall()}`
  }

  markOf(topic) {
    return frameOf(`${topic.head}\0`, this.stampOf(topic), "[]")
  }

  get isInDoubt() {
    return now() < this.doubtUntil
  }

  /** Send what some `drop` ingress had no room for: those that are full lose it, and are in doubt (R57). */
  async force(frame) {
    const socket = this.lanes.drop
    await this.readSubscriptions()
    if (await offer(socket, frame)) return
    socket.noDrop = false
    await offer(socket, frame)
    socket.noDrop = true
    this.doubtUntil = now() + DOUBT
  }

  /** Send so many of the marks that are due, as far as there is room (W46). */
  async sendMarks(most) {
    for (const topic of this.topics.values()) {
      if (topic.marked === topic.seq) continue
      if (most-- <= 0) return
      const mark = this.markOf(topic)
      const { drop } = this.lanes
      if (drop && !(await offer(drop, mark))) return
      if (drop) await offer(drop, twinOf(mark))
      topic.marked = topic.seq
      if (this.isInDoubt) this.doubtful.add(topic)
    }
  }

  get owesMarks() {
    return [...this.topics.values()].some((topic) => topic.marked !== topic.seq)
  }

  repeatMarks(topics) {
    for (const topic of topics) topic.marked = null
    this.watch()
  }

  repeatDoubtful() {
    this.repeatMarks(this.doubtful)
    this.doubtful.clear()
  }

  /** Look in a moment whether this publisher is at rest (R58). */
  watch() {
    this.timer ??= setTimeout(() => this.exclusively(() => this.rest()).catch(() => {}), REST_MS).unref()
  }

  /** Send marks at rest; look again while some are due, or an ingress may have missed some. */
  async rest() {
    this.timer = null
    if (this.bus.isClosed) return
    await this.readSubscriptions()
    if (now() - this.lastSent > REST_MS / 1000 - 0.02) await this.sendMarks(256)
    if (!this.owesMarks && this.doubtful.size) this.repeatDoubtful()
    const isAwaiting = [...this.links.values()].some((link) => link.missed > link.shown)
    if (this.owesMarks || isAwaiting) this.watch()
  }

  async close() {
    const until = now() + this.linger
    for (;;) {
      await this.readSubscriptions()
      this.repeatDoubtful()
      await this.sendMarks(Infinity)
      if (now() > until || !(this.owesMarks || this.isInDoubt)) break
      await sleep(20)
    }
    const child = this.leave()
    if (child) await new Promise((resolve) => child.once("close", resolve))
  }

  /** Close the sockets, and return the child that hands over what was sent, if there is one. */
  leave() {
    clearTimeout(this.timer)
    const ids = [...this.links.values()].filter((link) => link.shown).map((link) => link.id)
    const child = ids.length > 0 && this.linger > 0 && handOver(ids, this.linger)
    for (const socket of Object.values(this.lanes)) socket?.close()
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
  #shared = new Int32Array(new SharedArrayBuffer(12))

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
        this.#worker.postMessage({ bind: `ipc://${draft}` })
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

  /** @hidden The process ends: a thread that still has a socket then would abort it. */
  abandon() {
    this.#withdraw()
    Atomics.wait(this.#shared, GONE, 0, 500)
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

  /** Send one event. It has its number, and is on its way, when this returns. */
  async send(system, kind, eventPath, data, options) {
    this.checkOpen()
    checkText(eventPath, "path")
    await this.#publish(system, kind, eventPath, dataField(data), 1, options)
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
  ...{ parseFile, parseSentinel, isBusName, findRoot, zmqVersion: zmq.version },
}
