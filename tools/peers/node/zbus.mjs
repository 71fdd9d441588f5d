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
import { isUtf8 } from "node:buffer"
import { spawnSync } from "node:child_process"
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
const JOIN_TIMEOUT = 1
const REST_MS = 200

// ---------------------------------------------------------------------------------------------------------
// Errors

/** What went wrong on the bus: `kind` says which error, `retryable` whether the same call may succeed later. */
export class ZbusError extends Error {
  /**
   * @param {"Invalid"|"Timeout"|"Canceled"|"PermissionDenied"|"Unavailable"} kind
   * @param {string} message
   * @param {boolean} [retryable]
   */
  constructor(kind, message, retryable = false) {
    super(message)
    this.name = "ZbusError"
    this.kind = kind
    this.retryable = retryable
  }
}

const invalid = (message) => new ZbusError("Invalid", message)
const closed = (what) => new ZbusError("Canceled", `${what} is closed: open another`)

/** Turn what the operating system refused into an error of the bus. */
function refused(what, error) {
  if (error instanceof ZbusError) return error
  const kind = error.code === "EACCES" || error.code === "EPERM" ? "PermissionDenied" : "Unavailable"
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
  if (!text.includes("\\ud") && !text.includes("\\uD")) return false
  for (const match of text.matchAll(ESCAPES)) if (match[1]) return true
  return false
}

function isTooDeep(bare) {
  let depth = 0
  for (let i = 0; i < bare.length; i++) {
    const c = bare.charCodeAt(i)
    if (c === 91 || c === 123) {
      if (++depth > MAX_DEPTH) return true
    } else if (c === 93 || c === 125) depth--
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
  if (text.length >= 680 || LONG_NUMBER.test(text)) {
    const bare = text.replace(STRINGS, '""')
    if (isTooDeep(bare)) throw malformed()
    if (LONG_NUMBER.test(bare)) {
      for (const [number] of bare.matchAll(NUMBERS)) if (!Number.isFinite(Number(number))) throw malformed()
    }
  }
  if (hasHalfPair(text)) throw malformed()
  try {
    return JSON.parse(text)
  } catch {
    throw malformed()
  }
}

/** Refuse what JSON.stringify would send as something else (W10). */
function checkData(value, depth) {
  switch (typeof value) {
    case "string":
    case "boolean":
      return
    case "number":
      if (!Number.isFinite(value)) throw invalid(`data holds ${value}, which JSON cannot carry: send null or a text`)
      return
    case "object":
      break
    case "bigint":
      throw invalid("data holds a bigint, which JSON.stringify refuses: send a number or a text")
    default:
      throw invalid(`data holds a ${typeof value}, which JSON cannot carry: send objects, arrays, texts and numbers`)
  }
  if (value === null) return
  if (depth >= MAX_DEPTH) throw invalid(`data is nested more than ${MAX_DEPTH} deep, or contains itself: flatten it`)
  if (Array.isArray(value)) {
    for (let i = 0; i < value.length; i++) checkData(value[i], depth + 1)
    return
  }
  if (typeof value.toJSON === "function" && !ArrayBuffer.isView(value)) return checkData(value.toJSON(), depth + 1)
  if (ArrayBuffer.isView(value) || value instanceof ArrayBuffer) {
    throw invalid("bytes cannot be part of other data: send them alone, as the data of an event")
  }
  if (value instanceof Map || value instanceof Set) {
    throw invalid("data holds a Map or a Set, which JSON cannot carry: send an object or an array")
  }
  for (const key in value) {
    const item = value[key]
    if (item !== undefined) checkData(item, depth + 1)
  }
}

function writeJson(value, depth = 0) {
  checkData(value, depth)
  const text = JSON.stringify(value)
  if (hasHalfPair(text)) throw invalid("data holds half of a surrogate pair: send whole characters")
  return text
}

// ---------------------------------------------------------------------------------------------------------
// Names and patterns (W3, W16 to W22)

function checkText(value, what) {
  if (value === undefined || value === null || value === "") throw invalid(`${what} is required`)
  if (typeof value !== "string") throw invalid(`${what} must be a string, not ${typeof value}`)
  if (value.includes("\0")) throw invalid(`${what} contains NUL, which separates fields: remove it`)
  if (!value.isWellFormed()) throw invalid(`${what} holds half of a surrogate pair: send whole characters`)
}

function checkName(value, what) {
  checkText(value, what)
  if (/[*()|]/.test(value)) {
    throw invalid(`${what} '${value}' contains a wildcard, which only a subscription may use: send a literal name`)
  }
  if (hasEmptySegment(value)) throw invalid(`${what} '${value}' has an empty segment: use single dots between words`)
}

const hasEmptySegment = (text) => text.startsWith(".") || text.endsWith(".") || text.includes("..")

function checkTopic(system, kind) {
  checkName(system, "system")
  checkName(kind, "kind")
  if (system === "zbus" || system.startsWith("zbus.")) {
    throw invalid(`system '${system}' is reserved for the bus's own events: choose another`)
  }
}

/** Compile one segment: "*", "**", or the set of the literals that it selects. */
function compileSegment(part, pattern, what) {
  const no = (advice) => invalid(`'${pattern}' is not a ${what}: ${advice}`)
  if (part === "*" || part === "**") return part
  if (part === "") throw no("it has an empty segment, use single dots between words, or '**' for any depth")
  const bracket = part.startsWith("(") && part.endsWith(")") && part.length > 1
  const choices = bracket ? part.slice(1, -1).split("|") : [part]
  for (const choice of choices) {
    if (choice === "") throw no("an alternative is empty, use '(a|b)'")
    if (choice === ">" || choice === "#") throw no(`for everything below use '**', not '${choice}'`)
    if (choice === "+") throw no("for exactly one segment use '*', not '+'")
    if (/[*()|]/.test(choice)) throw no("a wildcard or bracket is a whole segment, use 'orders.*' or '(a|b)'")
  }
  return new Set(choices.sort())
}

function compilePattern(pattern, what) {
  checkText(pattern, what)
  if (pattern === "*") return ["**"]
  return pattern.split(".").map((part) => compileSegment(part, pattern, what))
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
    } else if (segment !== undefined && (segment === "*" || segment.has(words[w]))) {
      s++
      w++
    } else if (star >= 0) {
      w = ++mark
      s = star + 1
    } else return false
  }
  while (segments[s] === "**") s++
  return s === segments.length
}

/** Return the texts before the first wildcard, and whether there is none. */
function literalHeads(segments) {
  let heads = [""]
  for (const [i, segment] of segments.entries()) {
    const dot = i ? "." : ""
    if (segment === "**") return [heads, false]
    if (segment === "*" || heads.length * segment.size > MAX_PREFIXES) return [heads.map((head) => head + dot), false]
    heads = heads.flatMap((head) => [...segment].map((word) => head + dot + word))
  }
  return [heads, true]
}

/** Return what a channel subscribes to (W22). */
function prefixes(system, kind) {
  const [heads, literal] = literalHeads(system)
  if (!literal) return heads
  const [tails, ended] = kind ? literalHeads(kind) : [[], false]
  if (!kind || kind.every((segment) => segment === "**") || heads.length * tails.length > MAX_PREFIXES) {
    return heads.map((head) => `${head}\0`)
  }
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
  if (typeof a === "number" && typeof b === "number" && a + b <= Number.MAX_SAFE_INTEGER) return a + b
  return BigInt(a) + BigInt(b)
}

const distance = (from, to) => (typeof from === "number" && typeof to === "number" ? to - from : Number(BigInt(to) - BigInt(from)))

/** Return the fields of a stamp (W5), `null` if it is empty. */
function parseStamp(bytes, from, to) {
  if (from === to) return null
  const [origin, seq, born, settled, first, time] = bytes.latin1Slice(from, to).split(".", 6)
  const stamp = {
    origin,
    seq: decimal(seq),
    born: decimal(born),
    settled: decimal(settled),
    first: decimal(first),
    time: decimal(time),
  }
  if (!ORIGIN.test(origin) || stamp.seq < 1) throw malformed()
  return stamp
}

function parseName(bytes, from, to) {
  const text = utf8(bytes, from, to)
  if (text === "" || /[*()|]/.test(text) || hasEmptySegment(text)) throw malformed()
  return text
}

/** Return the events of a frame as [path, data] pairs. */
function parseEvents(bytes, path, from, stamped) {
  const form = bytes[from]
  if (path !== "") {
    if (form === undefined) return [[path, null]]
    if (form === 0) return [[path, Buffer.from(bytes.subarray(from + 1))]]
    return [[path, readJson(utf8(bytes, from, bytes.length))]]
  }
  const rows = form ? readJson(utf8(bytes, from, bytes.length)) : null
  if (!Array.isArray(rows) || !(rows.length || stamped)) throw malformed()
  for (const row of rows) {
    const good = Array.isArray(row) && (row.length === 1 || row.length === 2) && typeof row[0] === "string"
    if (!good || row[0] === "" || row[0].includes("\0")) throw malformed()
    if (row.length === 1) row.push(null)
  }
  return rows
}

/** Write the data field (W9): a text of JSON, or bytes with a NUL before them. */
function dataField(data) {
  if (data === undefined || data === null) return ""
  if (data instanceof Uint8Array) return Buffer.concat([Buffer.of(0), data])
  return writeJson(data)
}

/** Write the data field of a batch (W12). */
function batchField(items) {
  if (!Array.isArray(items)) throw invalid(`items must be an array of [path, data] pairs, not ${typeof items}`)
  for (const [i, item] of items.entries()) {
    if (!Array.isArray(item) || item.length < 1 || item.length > 2) throw invalid(`item ${i} must be a [path, data] pair`)
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
  const length = head.length + field.length + 128
  if (length * 3 <= most) return
  const bytes = Buffer.byteLength(head) + Buffer.byteLength(field) + 128
  if (bytes > most) throw invalid(`the event has ${bytes} bytes, more than max_event_bytes (${most}): send less at once`)
}

// ---------------------------------------------------------------------------------------------------------
// Loss (W27 to W41): a channel decodes the frames that reach it, and counts those that did not

class Decoder {
  constructor(system, kind, limit = MAX_STREAMS) {
    this.system = compilePattern(system, "system pattern")
    this.kind = kind ? compilePattern(kind, "kind pattern") : null
    this.limit = limit
    this.topics = new Map()
    this.streams = new Map()
    this.gaps = []
    this.lost = 0
    this.malformed = 0
    this.latestBorn = -1
    this.join(null, null)
  }

  join(announced, joined) {
    this.announced = announced ?? -1
    this.joined = joined ?? Infinity
    this.forgetful = joined === null
  }

  prefixes() {
    return prefixes(this.system, this.kind)
  }

  /** Return the events of one frame. `gaps` then holds what the frame shows as lost. */
  feed(bytes) {
    this.gaps = []
    if (bytes[0] === 0xff) return []
    try {
      return this.decode(bytes)
    } catch (error) {
      if (!(error instanceof Malformed)) throw error
      this.malformed++
      return []
    }
  }

  decode(bytes) {
    const a = bytes.indexOf(0)
    const b = a < 0 ? -1 : bytes.indexOf(0, a + 1)
    const c = b < 0 ? -1 : bytes.indexOf(0, b + 1)
    const d = c < 0 ? -1 : bytes.indexOf(0, c + 1)
    if (d < 0) throw malformed()
    const topic = this.topic(bytes, a, b)
    if (!topic.selected) return []
    const stamp = parseStamp(bytes, c + 1, d)
    const rows = parseEvents(bytes, utf8(bytes, b + 1, c), d + 1, stamp !== null)
    if (stamp) this.count(topic, stamp, rows.length)
    this.stamp = stamp
    return rows.map(([path, data], i) => ({
      system: topic.system,
      kind: topic.kind,
      path,
      data,
      origin: stamp ? stamp.origin : "",
      seq: stamp ? add(stamp.seq, i) : 0,
      time: stamp && stamp.time >= 0 ? stamp.time : null,
    }))
  }

  topic(bytes, a, b) {
    const key = bytes.latin1Slice(0, b)
    let topic = this.topics.get(key)
    if (topic === undefined) {
      const [system, kind] = [parseName(bytes, 0, a), parseName(bytes, a + 1, b)]
      const selected = matches(this.system, system) && (!this.kind || matches(this.kind, kind))
      topic = { key, system, kind, selected }
      if (this.topics.size >= MAX_STREAMS) this.topics.clear()
      this.topics.set(key, topic)
    }
    return topic
  }

  count(topic, stamp, events) {
    const key = `${stamp.origin}${topic.key}`
    const stream = this.streams.get(key)
    const due = stream ? stream.due : this.firstDue(stamp)
    if (due !== null && distance(due, stamp.seq) > MAX_GAP) throw malformed()
    if (!stream && stamp.born > this.latestBorn) this.latestBorn = stamp.born
    if (due === null) return
    if (stream && !events) this.countHead(stream, stamp)
    this.lose(due, stamp.seq)
    const next = events || stamp.seq > due ? add(stamp.seq, events) : due
    if (!stream) this.keep(key, { due: next, begin: due, used: false })
    else {
      stream.due = next
      stream.used = true
    }
  }

  /** Return the number that is due when a stream is first seen, `null` for none (W29). */
  firstDue(stamp) {
    if (stamp.born > this.joined) return 1
    if (stamp.settled < 0) return stamp.seq
    if (stamp.settled <= this.announced) return null
    return stamp.first > 0 && stamp.first <= stamp.seq && !this.forgetful ? stamp.first : stamp.seq
  }

  /** Count what a mark shows that was lost before the stream was counted (W40). */
  countHead(stream, stamp) {
    const { settled, first } = stamp
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

  /** Keep a new stream; forget one that has not been used for long, as by a clock hand, if there are too many (W34). */
  keep(key, stream) {
    this.streams.set(key, stream)
    if (this.streams.size <= this.limit) return
    for (const [oldest, old] of this.streams) {
      this.streams.delete(oldest)
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

const ID = /^[0-9a-f]{8,32}$/
const EPOCH = /^[1-9][0-9]{0,17}$/

/** Say what a name in the directory is: an entry, something else of ours, or nothing (`null`). */
function parseFile(name) {
  if (name === "token") return { is: "token" }
  const [id, ...rest] = name.split(".")
  if (!ID.test(id)) return null
  if (rest.length === 1) return { sock: { id, is: "socket" }, member: { id, is: "member" }, new: { id, is: "new" } }[rest[0]] ?? null
  const [epoch, overflow] = rest
  if (rest.length !== 2 || !EPOCH.test(epoch) || !["drop", "block"].includes(overflow)) return null
  return { id, epoch: decimal(epoch), overflow }
}

/** Return the id and epoch of a sentinel (W26), `null` for any other topic. */
function parseSentinel(topic) {
  const match = topic[0] === 0xff && /^([0-9a-f]{8,32})\.([1-9][0-9]{0,17})$/.exec(topic.latin1Slice(1))
  return match && match[0].length === topic.length - 1 ? { id: match[1], epoch: decimal(match[2]) } : null
}

const isBusName = (name) => typeof name === "string" && /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$/.test(name) && !name.endsWith("\n")

// ---------------------------------------------------------------------------------------------------------
// The machine

const newId = () => randomBytes(8).toString("hex")
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const now = () => performance.now() / 1000
const link = (name) => fs.readlinkSync(`/proc/self/ns/${name}`)

/** Return what CLOCK_MONOTONIC of this time namespace is ahead of the machine's, `null` if unknown (W8). */
function namespaceOffset() {
  try {
    const text = fs.readFileSync("/proc/self/timens_offsets", "latin1")
    if (link("time") !== link("time_for_children")) return null
    const match = /^monotonic\s+(-?\d+)\s+(\d+)/m.exec(text)
    return match ? BigInt(match[1]) * 1000000n + BigInt(match[2]) / 1000n : null
  } catch (error) {
    return error.code === "ENOENT" && !fs.existsSync("/proc/self/ns/time") && fs.existsSync("/proc/self/ns/pid") ? 0n : null
  }
}

const OFFSET = namespaceOffset()

/** Return CLOCK_MONOTONIC of the machine in microseconds, `null` if it cannot be determined. */
const micros = () => (OFFSET === null ? null : Number(process.hrtime.bigint() / 1000n - OFFSET))

/** Lock the open file `fd` without waiting; the lock lasts while this process has it open. */
function lock(fd, mode) {
  const done = spawnSync("flock", [mode, "-n", "3"], { stdio: ["ignore", "ignore", "ignore", fd] })
  if (done.error) throw refused("lock a file: install util-linux, which has flock", done.error)
  return done.status === 0
}

function lstat(file) {
  try {
    return fs.lstatSync(file, { bigint: true })
  } catch {
    return null
  }
}

function remove(file) {
  try {
    fs.unlinkSync(file)
    return true
  } catch {
    return false
  }
}

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

// ---------------------------------------------------------------------------------------------------------
// The directory (R1 to R13, R26 to R28, R46 to R50)

/** Return the root (R1), and whether someone has named it. */
function findRoot(env) {
  const uid = process.geteuid()
  if (env.ZBUS_DIR) return [env.ZBUS_DIR, true]
  if (env.XDG_RUNTIME_DIR) {
    let owner = uid
    try {
      owner = fs.statSync(env.XDG_RUNTIME_DIR).uid
    } catch {
      // What does not exist may be created.
    }
    if (owner === uid) return [`${env.XDG_RUNTIME_DIR}/zbus`, false]
  }
  return [`${env.TMPDIR || "/tmp"}/zbus-${uid}`, false]
}

const isPrepared = (info) => (info.mode & 0o2070) === 0o2070 && (info.mode & 0o1002) === 0
const inGroup = (gid) => process.geteuid() === 0 || process.getegid() === gid || process.getgroups().includes(gid)

function checkDirectory(where, isDefault, last) {
  const no = (why) => new ZbusError("PermissionDenied", `${where} ${why}`)
  const info = fs.lstatSync(where)
  if (!info.isDirectory()) throw no("is not a directory: remove it")
  if (info.mode & 0o002) throw no("is writable by everyone: chmod o-w it")
  const mine = info.uid === process.geteuid()
  if (mine) return info
  if (isDefault) throw no("belongs to another user: set ZBUS_DIR")
  if (isPrepared(info) && inGroup(info.gid)) return info
  if (!last && info.uid === 0 && !(info.mode & 0o020)) return info
  throw no("belongs to another user and is not prepared for a group: install -d -g GROUP -m 2770 it")
}

/** Create a directory with the rights of R48, if it is missing. */
function makeDirectory(where, group) {
  if (lstat(where)) return
  if (!group) {
    try {
      fs.mkdirSync(where, { mode: 0o700 })
      fs.chmodSync(where, 0o700)
    } catch (error) {
      if (error.code !== "EEXIST") throw error
    }
    return
  }
  const draft = path.join(path.dirname(where), `.${newId()}.new`)
  fs.mkdirSync(draft)
  fs.chownSync(draft, process.geteuid(), group.gid)
  fs.chmodSync(draft, group.mode & 0o7777)
  try {
    fs.renameSync(draft, where)
  } catch {
    fs.rmdirSync(draft)
  }
}

function makeParents(root) {
  const parent = path.dirname(root)
  let above = parent
  while (!fs.existsSync(above)) above = path.dirname(above)
  const info = fs.statSync(above)
  const foreign = process.geteuid() === 0 && info.uid !== 0 && !isPrepared(info) && !(info.mode & 0o002)
  if (foreign && !lstat(root)) {
    throw new ZbusError("PermissionDenied", `${above} belongs to another user: create ${root} as that user`)
  }
  fs.mkdirSync(parent, { recursive: true })
  return fs.statSync(parent)
}

class Directory {
  constructor(bus) {
    const [named, isNamed] = findRoot(process.env)
    const root = path.resolve(named)
    this.path = path.join(root, "v1", bus)
    if (Buffer.byteLength(this.path) + 38 > 107) throw invalid(`the path ${this.path} is too long for a socket: set a shorter ZBUS_DIR`)
    try {
      this.make(root, isNamed)
      this.openToken()
      this.fd = fs.openSync(this.path, fs.constants.O_RDONLY)
    } catch (error) {
      throw refused(`open the bus in ${this.path}`, error)
    }
    lock(this.fd, "-s")
    this.dead = new Map()
  }

  make(root, isNamed) {
    const parent = makeParents(root)
    let group = isNamed && isPrepared(parent) && !(parent.mode & 0o007) ? parent : null
    for (const where of [root, path.join(root, "v1"), this.path]) {
      makeDirectory(where, group)
      const info = checkDirectory(where, !isNamed, where === this.path)
      group = isPrepared(info) ? info : null
    }
    this.group = group
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
    const { O_RDWR, O_NOFOLLOW, O_NONBLOCK } = fs.constants
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
    this.token = fs.openSync(file, O_RDWR | O_NOFOLLOW | O_NONBLOCK)
    if (!fs.fstatSync(this.token).isFile()) throw new ZbusError("Unavailable", `${file} is not a file: remove it`)
    this.bytes = Buffer.alloc(8)
    this.words = new Uint32Array(this.bytes.buffer, this.bytes.byteOffset, 2)
    if (fs.readSync(this.token, this.bytes, 0, 8, 0) < 8) this.touch()
  }

  /** Read the token: `words` holds it then. */
  look() {
    fs.readSync(this.token, this.bytes, 0, 8, 0)
    return this.words
  }

  read() {
    this.look()
    return this.bytes.toString("hex")
  }

  touch() {
    fs.writeSync(this.token, randomBytes(8), 0, 8, 0)
  }

  /** Return the entries, the highest epoch of each id (R7, R13). */
  entries() {
    for (;;) {
      const before = this.read()
      const found = new Map()
      for (const name of fs.readdirSync(this.path)) {
        const entry = parseFile(name)
        if (!entry || !entry.epoch || this.isBuried(entry.id)) continue
        const other = found.get(entry.id)
        if (!other || other.epoch < entry.epoch) found.set(entry.id, { ...entry, name })
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

  /** Remove what a dead ingress has left (R27, R33); say whether anything was removed. */
  bury(id) {
    this.dead.set(id, this.fingerprint(id))
    let removed = false
    for (const name of fs.readdirSync(this.path)) {
      const entry = parseFile(name)
      if (entry?.epoch && entry.id === id && lstat(this.at(name))?.isFile()) removed = remove(this.at(name)) || removed
    }
    if (lstat(this.at(`${id}.sock`))?.isSocket()) removed = remove(this.at(`${id}.sock`)) || removed
    return removed
  }

  /** Remove leftovers (R28, R31), for a moment at most (R34). */
  async reap() {
    const until = now() + 0.2
    let removed = false
    const seen = new Set()
    for (const name of fs.readdirSync(this.path)) {
      if (now() > until) break
      const file = parseFile(name)
      if (!file?.id || this.isBuried(file.id)) continue
      if (file.is === "member") this.reapMember(name)
      else if (file.is === "new") this.reapDraft(name)
      else if (!seen.has(file.id)) {
        seen.add(file.id)
        const listed = fs.existsSync(this.at(name)) && !(await this.alive(file.id))
        if (listed && fs.existsSync(this.at(name))) removed = this.bury(file.id) || removed
      }
    }
    if (removed) this.touch()
  }

  reapMember(name) {
    const { O_RDONLY, O_NOFOLLOW, O_NONBLOCK } = fs.constants
    if (!lstat(this.at(name))?.isFile()) return
    let fd
    try {
      fd = fs.openSync(this.at(name), O_RDONLY | O_NOFOLLOW | O_NONBLOCK)
    } catch {
      return
    }
    if (fs.fstatSync(fd).isFile() && lock(fd, "-s")) remove(this.at(name))
    fs.closeSync(fd)
  }

  reapDraft(name) {
    const info = fs.lstatSync(this.at(name), { throwIfNoEntry: false })
    const ours = info && (info.isFile() || info.isSocket())
    if (ours && Date.now() - info.mtimeMs > 86400000) remove(this.at(name))
  }

  close() {
    fs.closeSync(this.token)
    fs.closeSync(this.fd)
  }
}

// ---------------------------------------------------------------------------------------------------------
// The receiving thread: owns the bound SUB of one subscription, so that others can join while JavaScript is busy.
// It hands over raw frames in chunks, each when the user's thread asks for one.

/** A queue of frames between the SUB and the user. What does not fit leaves a mark of what is lost (W39). */
class FrameQueue {
  constructor(capacity) {
    this.capacity = capacity
    this.frames = []
    this.head = 0
    this.events = 0
    this.bytes = 0
    this.marks = new Map()
  }

  get isFull() {
    return this.events >= this.capacity || this.bytes >= MAX_WAITING_BYTES
  }

  get isEmpty() {
    return this.head === this.frames.length && this.marks.size === 0
  }

  push(frame) {
    this.frames.push(frame)
    this.events++
    this.bytes += frame.length
  }

  /** Keep what a frame would have told of its stream: the latest of each stream and `settled`. */
  drop(frame) {
    const [key, mark] = markAfter(frame) ?? []
    if (key === undefined) return
    if (this.marks.size < MAX_STREAMS || this.marks.has(key)) this.marks.set(key, mark)
  }

  take(most) {
    const from = this.head
    const frames = this.frames.slice(from, from + most)
    this.head += frames.length
    this.events -= frames.length
    for (const frame of frames) this.bytes -= frame.length
    if (this.head === this.frames.length || this.head > 4096) {
      this.frames = this.frames.slice(this.head)
      this.head = 0
    }
    // Marks go last: none may come before an event that it counts, and one that comes late changes nothing (W39).
    if (this.frames.length === this.head && this.marks.size) {
      frames.push(...this.marks.values())
      this.marks.clear()
    }
    return frames
  }
}

/** Return the stream of a stamped frame, and the mark that would follow it; nothing if the frame is malformed. */
function markAfter(bytes) {
  try {
    const a = bytes.indexOf(0)
    const b = bytes.indexOf(0, a + 1)
    const c = bytes.indexOf(0, b + 1)
    const d = bytes.indexOf(0, c + 1)
    if (a < 0 || b <= a || c <= b || d <= c) return undefined
    parseName(bytes, 0, a)
    parseName(bytes, a + 1, b)
    const stamp = parseStamp(bytes, c + 1, d)
    if (!stamp) return undefined
    const events = parseEvents(bytes, utf8(bytes, b + 1, c), d + 1, true).length
    const head = bytes.latin1Slice(0, b)
    const told = [stamp.born, stamp.settled, stamp.first, stamp.time].map((n) => (n < 0 ? "" : String(n))).join(".")
    const mark = Buffer.from(`${head}\0\0${stamp.origin}.${add(stamp.seq, events)}.${told}\0[]`, "latin1")
    return [`${stamp.origin}.${stamp.settled}\0${head}`, mark]
  } catch (error) {
    if (error instanceof Malformed) return undefined
    throw error
  }
}

const isMark = (frame) => frame.length > 4 && frame[frame.length - 1] === 93 && frame[frame.length - 2] === 91 && frame[frame.length - 3] === 0

function pack(frames) {
  const lengths = new Uint32Array(frames.length)
  let total = 0
  for (const [i, frame] of frames.entries()) total += lengths[i] = frame.length
  const bytes = new Uint8Array(total)
  let at = 0
  for (const frame of frames) {
    bytes.set(frame, at)
    at += frame.length
  }
  return { bytes, lengths }
}

async function receiveFrames({ endpoint, topics, capacity, block, maxBytes, gone }) {
  const socket = new zmq.Subscriber({ linger: 0, maxMessageSize: maxBytes, receiveHighWaterMark: block ? Math.min(1000, capacity) : CAPACITY })
  // This binding cannot set SNDHWM of a SUB; one subscription has at most 18 topics, far below its 1,000 (W24).
  socket.subscribe(...topics.map((topic) => Buffer.from(topic)))
  socket.bindSync(endpoint)
  const queue = new FrameQueue(capacity)
  let [wanted, ending, wake] = [0, false, null]
  const serve = () => {
    if (!wanted || (queue.isEmpty && !ending)) return
    const frames = queue.take(wanted)
    const message = { ...pack(frames), end: ending && queue.isEmpty }
    wanted = 0
    parentPort.postMessage(message, [message.bytes.buffer, message.lengths.buffer])
    if (message.end) parentPort.close()
    wake?.()
  }
  const admit = (frame) => {
    if (frame[0] === 0xff) {
      // Only a twin is of use here (W47): the mark in it reaches a full queue too.
      if (frame[1] === 0x23 && frame.length > 2) queue.drop(frame.subarray(2))
    } else if (isMark(frame) && (queue.isFull || queue.events === 0)) queue.drop(frame)
    else if (!block && queue.isFull) queue.drop(frame)
    else queue.push(frame)
  }
  parentPort.on("message", (message) => {
    if (message.want) wanted = message.want
    else {
      ending = true
      socket.receiveTimeout = 0
      wake?.()
      // A receive that waits ends with its socket.
      setTimeout(() => socket.closed || socket.close(), 20)
    }
    serve()
  })
  parentPort.postMessage({ bound: true })
  try {
    for (;;) {
      while (block && queue.isFull && !ending) {
        // What does not read must still speak: disconnecting nothing makes libzmq look at its commands.
        try {
          socket.disconnect("inproc://nobody")
        } catch {
          // There never was such a connection.
        }
        await new Promise((resolve) => {
          const timer = setTimeout(resolve, 5)
          wake = () => {
            clearTimeout(timer)
            resolve()
          }
        })
        wake = null
      }
      const [frame] = await socket.receive()
      admit(frame)
      if (wanted) serve()
    }
  } catch (error) {
    if (!ending) throw error
  }
  if (!socket.closed) socket.close()
  Atomics.store(gone, 0, 1)
  Atomics.notify(gone, 0)
  // What is left goes to the user's thread at once, so that this one ends.
  ;[ending, wanted] = [true, Infinity]
  serve()
}

if (!isMainThread && workerData?.zbusIngress) receiveFrames(workerData.zbusIngress)

// ---------------------------------------------------------------------------------------------------------
// The publisher (R19 to R25, R40 to R43, R57 to R59): one XPUB for each overflow policy in use

class Publisher {
  constructor(bus, options) {
    this.bus = bus
    this.directory = bus.directory
    this.capacity = options.capacity
    this.linger = options.linger
    this.lanes = { drop: null, block: null }
    this.links = new Map()
    this.known = new Uint32Array(2)
    this.isSettled = false
    this.listed = null
    this.settled = ""
    this.topics = new Map()
    this.origin = newId()
    this.doubtful = new Map()
    this.doubtUntil = 0
    this.timer = null
    this.busy = false
    this.waiting = []
  }

  /** Run steps of several callers one after another (R23). */
  async exclusively(run) {
    if (this.busy) await new Promise((resolve) => this.waiting.push(resolve))
    this.busy = true
    try {
      return await run()
    } finally {
      const next = this.waiting.shift()
      if (next) next()
      else this.busy = false
    }
  }

  lane(overflow) {
    return (this.lanes[overflow] ??= Object.assign(
      new zmq.XPublisher({
        immediate: true,
        linger: Math.round(this.linger * 1000),
        sendTimeout: 0,
        receiveTimeout: 0,
        noDrop: true,
        sendHighWaterMark: overflow === "block" ? Math.min(BLOCK_CAPACITY, this.capacity) : this.capacity,
        receiveHighWaterMark: 0,
        reconnectMaxInterval: 5000,
      }),
    ))
  }

  hasLinks(overflow) {
    for (const link of this.links.values()) if (link.overflow === overflow) return true
    return false
  }

  connect(entry, at) {
    const endpoint = `ipc://${this.directory.at(`${entry.id}.sock`)}`
    this.lane(entry.overflow).connect(endpoint)
    this.links.set(entry.id, { ...entry, endpoint, shown: 0, missed: 0, since: at, check: 0.005, due: at + 0.005 })
  }

  disconnect(link) {
    this.links.delete(link.id)
    try {
      this.lanes[link.overflow].disconnect(link.endpoint)
    } catch {
      // It has gone by itself.
    }
  }

  async list() {
    const [token, entries] = this.directory.entries()
    for (const link of [...this.links.values()]) if (!entries.has(link.id)) this.disconnect(link)
    for (const entry of entries.values()) {
      const link = this.links.get(entry.id)
      if (link) {
        if (entry.epoch > link.epoch) Object.assign(link, { epoch: entry.epoch, since: now(), due: now() + 0.005 })
      } else if (await this.directory.alive(entry.id)) this.connect(entry, now())
      else if (this.directory.bury(entry.id)) this.directory.touch()
    }
    this.listed = token
  }

  /** Read which sentinels the links have shown (W25). */
  async readSubscriptions() {
    for (const socket of Object.values(this.lanes)) {
      for (;;) {
        if (!socket) break
        let frame
        try {
          frame = (await socket.receive())[0]
        } catch (error) {
          if (error.code === "EAGAIN") break
          throw error
        }
        const sentinel = parseSentinel(frame.subarray(1))
        const link = sentinel && this.links.get(sentinel.id)
        if (link) this.note(link, frame[0], sentinel.epoch)
      }
    }
  }

  note(link, added, epoch) {
    if (added && epoch > link.shown) {
      link.shown = epoch
      this.bus.joins++
      if (link.missed >= epoch) this.remark()
    } else if (!added && epoch === link.shown) Object.assign(link, { shown: 0, since: now(), due: now() + 0.005, check: 0.005 })
  }

  /** Say all marks again: an ingress that was given up is back (R42). */
  remark() {
    for (const topic of this.topics.values()) topic.marked = null
    this.watch()
  }

  /** Wait until every listed ingress has shown its epoch, or is given up (R20). */
  async settle(deadline) {
    for (;;) {
      const asof = micros()
      const token = this.directory.read()
      const words = Uint32Array.from(this.directory.words)
      if (token !== this.listed) await this.list()
      await this.readSubscriptions()
      const awaited = [...this.links.values()].filter((link) => link.shown < link.epoch && link.missed < link.epoch)
      for (const link of awaited) await this.check(link)
      if (!awaited.length && this.listed === token && this.directory.read() === token) {
        this.known = words
        this.settled = asof === null ? "" : asof
        this.isSettled = true
        return
      }
      if (!awaited.length) continue
      if (now() > deadline) throw timeout(`${awaited[0].id} has not joined: look at its process (${awaited[0].name})`)
      await sleep(1)
    }
  }

  async check(link) {
    const at = now()
    if (at < link.due) return
    link.check = Math.min(0.05, link.check * 2)
    link.due = at + link.check
    if (!(await this.directory.alive(link.id))) {
      this.disconnect(link)
      if (this.directory.bury(link.id)) this.directory.touch()
      this.listed = null
    } else if (this.isOver(link, at)) {
      link.missed = link.epoch
      this.bus.joinTimeouts++
      process.emitWarning(`${link.name} does not answer: events go on without it until it does`, "ZbusWarning")
    }
  }

  /** Say whether an ingress that has not shown its epoch is given up (R21, R22, R40). */
  isOver(link, at) {
    const waited = at - link.since
    if (link.overflow === "block") return false
    if (waited < JOIN_TIMEOUT) return false
    return waited > 30 * JOIN_TIMEOUT || !isSlow(this.directory.at(link.name))
  }

  topic(system, kind) {
    const key = `${system}\0${kind}`
    let topic = this.topics.get(key)
    if (!topic) {
      checkTopic(system, kind)
      topic = { head: `${key}\0`, seq: 0, born: micros() ?? "", settled: null, first: 0, marked: 0, events: 0 }
    }
    return topic
  }

  get isCurrent() {
    const words = this.directory.look()
    return this.isSettled && words[0] === this.known[0] && words[1] === this.known[1]
  }

  /** Number a frame of so many events and hand it to the sockets (R20, R24). */
  async send(system, kind, path, field, events, seconds) {
    const deadline = now() + seconds
    this.topic(system, kind)
    for (;;) {
      // A new topic is born before the token is compared (W8).
      const topic = this.topic(system, kind)
      if (!this.isCurrent) await this.settle(deadline)
      const renewed = topic.settled !== this.settled
      if (renewed) await this.twin(topic)
      const first = renewed ? topic.seq + 1 : topic.first
      const head = `${topic.head}${path}\0${this.origin}.`
      const stamp = `${topic.seq + 1}.${topic.born}.${this.settled}.${this.settled === "" ? "" : first}.${wall()}`
      const frame = frameOf(head, stamp, field)
      if (this.lanes.block && this.hasLinks("block") && !(await offer(this.lanes.block, frame))) {
        if (now() > deadline) throw timeout(`a block subscriber of ${system} is full: the event went to nobody`)
        await sleep(2)
        await this.readSubscriptions()
        continue
      }
      if (topic.seq === 0) await this.add(topic)
      topic.settled = this.settled
      topic.first = first
      topic.seq += events
      if (this.lanes.drop) await this.force(topic, frame)
      this.lastSent = now()
      if (!this.timer) this.watch()
      return
    }
  }

  async add(topic) {
    if (this.topics.size >= MAX_TOPICS) {
      await this.sendMarks(Infinity)
      this.topics.clear()
      this.origin = newId()
      this.bus.showOrigin(this.origin)
    }
    this.topics.set(topic.head.slice(0, -1), topic)
  }

  /** Send to the `drop` ingresses; those that are full lose it, and are in doubt (R57). */
  async force(topic, frame) {
    const socket = this.lanes.drop
    if (await offer(socket, frame)) return
    await this.readSubscriptions()
    if (await offer(socket, frame)) return
    socket.noDrop = false
    await offer(socket, frame)
    socket.noDrop = true
    if (topic) this.doubtful.set(topic.head, topic)
    this.doubtUntil = now() + 60
  }

  markOf(topic) {
    const first = topic.settled === "" ? "" : topic.first
    return `${topic.head}\0${this.origin}.${topic.seq + 1}.${topic.born}.${topic.settled}.${first}.${wall()}\0[]`
  }

  /** Before a new `settled`: tell those with a full queue of the events so far (W48). */
  async twin(topic) {
    if (topic.seq === 0 || topic.marked === topic.seq || !this.lanes.drop) return
    await this.force(null, twinOf(this.markOf(topic)))
  }

  /** Send the marks that are due (W46). */
  async sendMarks(most) {
    if (!this.lanes.drop) return
    let sent = 0
    for (const topic of this.topics.values()) {
      if (topic.marked === topic.seq || topic.seq === 0) continue
      if (sent++ >= most) return
      const mark = this.markOf(topic)
      if (!(await offer(this.lanes.drop, mark))) return
      await offer(this.lanes.drop, twinOf(mark))
      topic.marked = topic.seq
    }
  }

  /** Look, from now on, whether this publisher is at rest (R58). */
  watch() {
    const look = async () => {
      this.timer = null
      if (this.bus.isClosed) return
      await this.exclusively(async () => {
        if (this.bus.isClosed) return
        await this.readSubscriptions()
        if (now() - this.lastSent > REST_MS / 1000 - 0.02) await this.sendMarks(256)
      })
      this.again()
    }
    this.timer = setTimeout(() => look().catch(() => {}), REST_MS)
    this.timer.unref()
  }

  /** Go on looking while marks are due, or an ingress may have missed some. */
  again() {
    if (this.bus.isClosed || this.timer) return
    const due = [...this.topics.values()].some((topic) => topic.marked !== topic.seq)
    if (!due && this.doubtful.size) {
      if (now() < this.doubtUntil) for (const topic of this.doubtful.values()) topic.marked = null
      else this.doubtful.clear()
    }
    const missed = [...this.links.values()].some((link) => link.missed > link.shown)
    if (due || this.doubtful.size || missed) this.watch()
  }

  async close() {
    clearTimeout(this.timer)
    const until = now() + this.linger
    for (;;) {
      await this.readSubscriptions()
      for (const topic of this.doubtful.values()) topic.marked = null
      await this.sendMarks(Infinity)
      const due = this.lanes.drop && [...this.topics.values()].some((topic) => topic.marked !== topic.seq)
      if (now() > until || (!due && !this.doubtful.size)) break
      await sleep(20)
    }
    this.closeSockets()
  }

  closeSockets() {
    clearTimeout(this.timer)
    for (const socket of Object.values(this.lanes)) if (socket && !socket.closed) socket.close()
  }
}

const timeout = (message) => new ZbusError("Timeout", message, true)
// `performance.timeOrigin + performance.now()` is finer, but does not follow the clock when it is set (W45).
const wall = () => Date.now() * 1000
const twinOf = (mark) => Buffer.concat([Buffer.of(0xff, 0x23), Buffer.from(mark)])

/** Hand a frame to a socket without waiting; say whether it had room. */
async function offer(socket, frame) {
  try {
    await socket.send(frame)
    return true
  } catch (error) {
    if (error.code === "EAGAIN") return false
    throw error
  }
}

/** Say whether the process that wrote an entry wants to run and cannot (R40). */
function isSlow(entry) {
  try {
    const { pid } = JSON.parse(fs.readFileSync(entry, "utf8"))
    return fs.readdirSync(`/proc/${Number(pid)}/task`).some((task) => {
      const stat = fs.readFileSync(`/proc/${Number(pid)}/task/${task}/stat`, "latin1")
      return "RD".includes(stat.charAt(stat.lastIndexOf(")") + 2))
    })
  } catch {
    return false
  }
}

// ---------------------------------------------------------------------------------------------------------
// Subscription and bus

/** Events of one subscription, in order: `for await (const evt of sub)`. */
export class Subscription {
  #bus
  #decoder
  #worker
  #id = newId()
  #overflow
  #frames = []
  #nextFrame = 0
  #ready = []
  #next = 0
  #asked = false
  #ended = false
  #wakers = new Set()
  #isClosed = false
  #hasExited = false
  #gone = new Int32Array(new SharedArrayBuffer(4))
  #onGap
  #capacity

  /** @hidden */
  constructor(bus, decoder, { overflow, capacity, onGap }) {
    this.#bus = bus
    this.#decoder = decoder
    this.#overflow = overflow
    this.#capacity = capacity
    this.#onGap = onGap
    this.received = 0
  }

  get lost() {
    return this.#decoder.lost
  }

  get malformed() {
    return this.#decoder.malformed
  }

  /** @hidden Join, step by step (R16). */
  async join(system, kind) {
    const directory = this.#bus.directory
    const draft = directory.at(`${this.#id}.new`)
    const topics = this.#decoder.prefixes().map((text) => Buffer.from(text))
    topics.push(Buffer.concat([Buffer.of(0xff), Buffer.from("#")]), Buffer.concat([Buffer.of(0xff), Buffer.from(`${this.#id}.1`)]))
    this.#worker = new Worker(new URL(import.meta.url), {
      workerData: {
        zbusIngress: { endpoint: `ipc://${draft}`, topics, capacity: this.#capacity, block: this.#overflow === "block", maxBytes: this.#bus.maxEventBytes, gone: this.#gone },
      },
    })
    await new Promise((resolve, reject) => {
      this.#worker.once("message", resolve)
      this.#worker.once("error", (error) => reject(refused("listen", error)))
    })
    this.#worker.unref()
    this.#worker.on("message", (message) => this.#take(message))
    this.#worker.on("error", () => this.#end())
    this.#worker.on("exit", () => {
      this.#hasExited = true
      this.#end()
    })
    directory.own(draft)
    fs.renameSync(draft, directory.at(`${this.#id}.sock`))
    const text = JSON.stringify({ ...this.#bus.describe(), patterns: [[system, kind || "*", this.#overflow]], channels: 1 })
    fs.renameSync(directory.draft(this.#id, text), directory.at(this.#entry))
    const announced = micros()
    directory.touch()
    this.#decoder.join(announced, micros())
  }

  get #entry() {
    return `${this.#id}.1.${this.#overflow}`
  }

  #take({ bytes, lengths, end }) {
    this.#asked = false
    const whole = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
    let at = 0
    for (const length of lengths) this.#frames.push(whole.subarray(at, (at += length)))
    if (end) this.#ended = true
    this.#wake()
  }

  /** Decode the next frame that was handed over; say whether there was one. */
  #decode() {
    if (this.#nextFrame === this.#frames.length) return false
    this.#ready = this.#decoder.feed(this.#frames[this.#nextFrame++])
    this.#next = 0
    for (const [first, last] of this.#decoder.gaps) this.#onGap?.({ first, last })
    if (this.#nextFrame === this.#frames.length) {
      ;[this.#frames, this.#nextFrame] = [[], 0]
      this.#bus.count()
    }
    return true
  }

  #end() {
    this.#ended = true
    this.#wake()
  }

  #wake() {
    for (const wake of this.#wakers) wake()
  }

  /**
   * Return the next event, or `undefined` once the subscription is closed and what had arrived is taken.
   * @throws {ZbusError} Timeout, retryable, if none comes in that many seconds.
   */
  async receive({ timeout: seconds, signal } = {}) {
    const until = seconds === undefined ? Infinity : now() + seconds
    while (this.#next === this.#ready.length) {
      if (this.#decode()) continue
      if (this.#ended) return undefined
      if (signal?.aborted) throw new ZbusError("Canceled", "the receive was aborted", true)
      if (now() >= until) throw timeout(`no event within ${seconds} s`)
      if (!this.#asked) {
        this.#asked = true
        this.#worker.postMessage({ want: Math.min(CHUNK, this.#capacity) })
      }
      await this.#wait(until, signal)
    }
    this.received++
    const evt = this.#ready[this.#next]
    this.#ready[this.#next++] = undefined
    return evt
  }

  #wait(until, signal) {
    this.#worker.ref()
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer)
        signal?.removeEventListener("abort", done)
        this.#wakers.delete(done)
        if (!this.#wakers.size) this.#worker.unref()
        resolve()
      }
      const timer = until === Infinity ? undefined : setTimeout(done, Math.max(1, (until - now()) * 1000))
      signal?.addEventListener("abort", done)
      this.#wakers.add(done)
    })
  }

  async *[Symbol.asyncIterator]() {
    for (;;) {
      const evt = await this.receive()
      if (evt === undefined) return
      yield evt
    }
  }

  /** @hidden Remove the files of this subscription (R18). */
  withdraw() {
    if (this.#isClosed) return false
    this.#isClosed = true
    const directory = this.#bus.directory
    for (const name of [this.#entry, `${this.#id}.sock`]) remove(directory.at(name))
    directory.touch()
    return true
  }

  /** Leave. What had arrived can still be received. */
  async close() {
    if (!this.withdraw()) return
    this.#bus.forget(this)
    this.#worker.postMessage({ close: true })
    while (!this.#hasExited) await this.#wait(now() + 1)
  }

  /** @hidden The process ends: a thread that still has a socket then would abort it. */
  abandon() {
    this.withdraw()
    this.#worker.postMessage({ close: true })
    Atomics.wait(this.#gone, 0, 0, 500)
  }

  async [Symbol.asyncDispose ?? Symbol.for("Symbol.asyncDispose")]() {
    await this.close()
  }
}

const open_ = new Set()
process.on("exit", () => {
  if (isMainThread) for (const bus of open_) bus.abandon()
})

/** A process on the bus: it sends, and subscribes. Make one with `open()`. */
export class Bus {
  #publisher
  #subscriptions = new Set()
  #member
  #memberFd
  #origins = []
  #options
  #sendTimeouts = 0
  #counted = ""
  joinTimeouts = 0
  joins = 0
  isClosed = false

  /** @hidden Use `open()`. */
  constructor(name, options) {
    this.#options = options
    this.maxEventBytes = options.maxEventBytes
    this.directory = new Directory(name)
    this.#publisher = new Publisher(this, options)
    this.#member = newId()
    this.showOrigin(this.#publisher.origin)
    open_.add(this)
  }

  /** @hidden */
  describe() {
    return { process: path.basename(process.argv[1] ?? "node"), pid: process.pid, language: "node", member: this.#member }
  }

  /** @hidden Write the member file, or write its origins again (R29, R53). */
  showOrigin(origin) {
    this.#origins = [...this.#origins.slice(-15), origin]
    const { member, ...told } = this.describe()
    const text = Buffer.from(JSON.stringify({ ...told, origins: this.#origins }).padEnd(this.#origins.length > 1 ? 1024 : 0))
    if (this.#memberFd === undefined) {
      const draft = this.directory.draft(this.#member, Buffer.concat([Buffer.alloc(128), text]))
      this.#memberFd = fs.openSync(draft, "r+")
      lock(this.#memberFd, "-x")
      fs.renameSync(draft, this.directory.at(`${this.#member}.member`))
    } else fs.writeSync(this.#memberFd, text, 0, text.length, 128)
  }

  /** @hidden Write the counters of R30 when they have changed. */
  count() {
    let [lost, malformedFrames] = [0, 0]
    for (const sub of this.#subscriptions) {
      lost += sub.lost
      malformedFrames += sub.malformed
    }
    const counters = [lost, malformedFrames, this.joinTimeouts, this.#sendTimeouts]
    if (counters.join() === this.#counted || this.isClosed) return
    this.#counted = counters.join()
    const bytes = Buffer.alloc(32)
    counters.forEach((n, i) => bytes.writeBigUInt64LE(BigInt(n), i * 8))
    fs.writeSync(this.#memberFd, bytes, 0, 32, 0)
  }

  #checkOpen() {
    if (this.isClosed) throw closed("the bus")
  }

  /** Subscribe; events sent after this returns arrive, whoever sends them. */
  async subscribe(system, options = {}) {
    this.#checkOpen()
    const { kind, overflow = "drop", signal } = options
    if (overflow !== "drop" && overflow !== "block") throw invalid(`overflow must be "drop" or "block", not ${overflow}`)
    const capacity = options.capacity ?? (overflow === "block" ? BLOCK_CAPACITY : this.#options.capacity)
    if (!Number.isSafeInteger(capacity) || capacity < 1) throw invalid(`capacity must be a whole number above 0, not ${capacity}`)
    if (signal?.aborted) throw new ZbusError("Canceled", "the signal was aborted before the subscription", true)
    const sub = new Subscription(this, new Decoder(system, kind), { overflow, capacity, onGap: options.onGap })
    try {
      await sub.join(system, kind)
    } catch (error) {
      throw refused("subscribe", error)
    }
    this.#subscriptions.add(sub)
    signal?.addEventListener("abort", () => sub.close(), { once: true })
    if (this.#subscriptions.size === 1) await this.directory.reap()
    return sub
  }

  /** @hidden */
  forget(sub) {
    this.count()
    this.#subscriptions.delete(sub)
  }

  /** Send one event. It has its number, and is on its way, when this returns. */
  async send(system, kind, eventPath, data, options = {}) {
    this.#checkOpen()
    checkText(eventPath, "path")
    return this.#send(system, kind, eventPath, dataField(data), 1, options)
  }

  /** Send `[path, data]` pairs of one topic as one frame, which arrives or is lost as a whole. */
  async sendMany(system, kind, items, options = {}) {
    this.#checkOpen()
    const field = batchField(items)
    checkTopic(system, kind)
    if (items.length) return this.#send(system, kind, "", field, items.length, options)
  }

  async #send(system, kind, eventPath, field, events, options) {
    const publisher = this.#publisher
    publisher.topic(system, kind)
    checkSize(`${system}${kind}${eventPath}`, field, this.maxEventBytes)
    try {
      await publisher.exclusively(async () => {
        this.#checkOpen()
        await publisher.send(system, kind, eventPath, field, events, options.timeout ?? this.#options.sendTimeout)
      })
    } catch (error) {
      if (error.kind === "Timeout") {
        this.#sendTimeouts++
        this.count()
      }
      throw refused("send", error)
    }
  }

  /** Close every subscription, hand over what was sent within `linger`, and leave. */
  async close() {
    if (this.isClosed) return
    for (const sub of [...this.#subscriptions]) await sub.close()
    await this.#publisher.exclusively(async () => {
      if (this.isClosed) return
      await this.#publisher.close()
      this.#leave()
    })
  }

  /** @hidden The process ends: remove what others would find. */
  abandon() {
    for (const sub of this.#subscriptions) sub.abandon()
    this.#publisher.closeSockets()
    this.#leave()
  }

  #leave() {
    if (this.isClosed) return
    this.isClosed = true
    open_.delete(this)
    remove(this.directory.at(`${this.#member}.member`))
    fs.closeSync(this.#memberFd)
    this.directory.close()
  }

  async [Symbol.asyncDispose ?? Symbol.for("Symbol.asyncDispose")]() {
    await this.close()
  }
}

/**
 * Open a bus: the directory through which all processes of the user find each other.
 * @param {string} [name] default: $ZBUS_BUS, or "default"
 */
export async function open(name, options = {}) {
  const bus = name ?? (process.env.ZBUS_BUS || "default")
  if (!isBusName(bus)) throw invalid(`'${bus}' is no name of a bus: use letters, digits, '_', '-' and '.'`)
  const chosen = { capacity: CAPACITY, linger: 1, sendTimeout: 5, maxEventBytes: MAX_EVENT_BYTES }
  for (const [key, value] of Object.entries(options)) {
    if (!(key in chosen)) throw invalid(`there is no option ${key}: use ${Object.keys(chosen).join(", ")}`)
    if (value === undefined) continue
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
  Decoder, checkText, checkTopic, dataField, batchField, frameOf, compilePattern, matches, prefixes,
  parseFile, parseSentinel, isBusName, findRoot, zmqVersion: zmq.version,
}
