/** JSON, or raw bytes alone. `undefined` and `null` are "no data". */
export type Data =
  string | number | boolean | null | Uint8Array | Data[] | { [key: string]: Data | undefined }

/** One event. */
export interface Event<T = any> {
  readonly system: string
  readonly kind: string
  readonly path: string
  /** The value of the JSON, a `Buffer` for raw bytes, `null` for no data. */
  readonly data: T
  /** The incarnation of the sender, `""` if it numbers nothing. */
  readonly origin: string
  /** Its number in the topic of this origin, from 1; a bigint beyond 2^53. */
  readonly seq: number | bigint
  /** When it was sent, in microseconds since 1970; `null` if untold. */
  readonly time: number | bigint | null
}

/** Numbers of a topic that were lost, both included. */
export interface Gap {
  readonly first: number | bigint
  readonly last: number | bigint
}

/** What went wrong on the bus. */
export class ZbusError extends Error {
  readonly kind: "Invalid" | "Timeout" | "Canceled" | "PermissionDenied" | "Unavailable"
  /** Whether the same call may succeed later. */
  readonly retryable: boolean
}

export interface OpenOptions {
  /** Events that wait for a `drop` subscriber, here and in each subscription. Default 65,536. */
  capacity?: number
  /** Seconds that `close` may take to hand over what was sent. Default 1. */
  linger?: number
  /** Seconds that `send` may wait for a full `block` subscriber or for a join. Default 5. */
  sendTimeout?: number
  /** The largest frame in bytes; all peers of the bus agree on it. Default 16 MiB. */
  maxEventBytes?: number
}

export interface SubscribeOptions {
  /** A pattern of kinds. Default: all. */
  kind?: string
  /** What a full queue means: `drop` loses the event and counts it, `block` makes senders wait. Default `drop`. */
  overflow?: "drop" | "block"
  /** Events that wait for the reader. Default 65,536; for `block`, 1,000. */
  capacity?: number
  /** Closes the subscription when aborted. */
  signal?: AbortSignal
  /** Called with each gap, before the event after it. What it throws is an uncaught exception. */
  onGap?: (gap: Gap) => void
}

/** Events of one subscription, in order: `for await (const evt of sub)`. */
export class Subscription implements AsyncIterable<Event> {
  private constructor()
  /** Events taken so far. */
  readonly received: number
  /** Events lost so far. */
  readonly lost: number
  /** Frames received so far that were no events. */
  readonly malformed: number
  /**
   * Return the next event, or `undefined` once the subscription is closed and what had arrived is taken.
   * @throws {ZbusError} `Timeout`, retryable, if none comes in `timeout` seconds.
   */
  receive(options?: { timeout?: number }): Promise<Event | undefined>
  /** Leave. What had arrived can still be received. */
  close(): Promise<void>
  [Symbol.asyncIterator](): AsyncIterableIterator<Event>
  [Symbol.asyncDispose](): Promise<void>
}

/** A process on the bus. Make one with `open()`. */
export class Bus {
  private constructor()
  readonly isClosed: boolean
  /**
   * Subscribe. Every event that is sent after this returns arrives, whoever sends it.
   * @throws {ZbusError} `Invalid` for a pattern that is none; `Unavailable`.
   */
  subscribe(system: string, options?: SubscribeOptions): Promise<Subscription>
  /**
   * Send one event. It has its number when this returns, and leaves in this turn of the event loop at the latest.
   * @throws {ZbusError} `Invalid` for names, paths and data that cannot be sent; `Timeout`, retryable: it went to nobody.
   */
  send(
    system: string,
    kind: string,
    path: string,
    data?: unknown,
    options?: { timeout?: number },
  ): Promise<void>
  /** Send `[path, data]` pairs of one topic as one frame, which arrives or is lost as a whole. */
  sendMany(
    system: string,
    kind: string,
    items: ReadonlyArray<readonly [path: string, data?: unknown]>,
    options?: { timeout?: number },
  ): Promise<void>
  /** Close every subscription, hand over what was sent, and leave. Node calls it when nothing is left to do. */
  close(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

/** Open a bus: the directory through which all processes of the user find each other. `name`: $ZBUS_BUS, or "default". */
export function open(name?: string, options?: OpenOptions): Promise<Bus>
