import { once } from 'node:events'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { setImmediate as nextTurn, setTimeout as pause } from 'node:timers/promises'
import { freePort } from './port.js'

/** Up is from the client to the server, down is what comes back. */
export type Direction = 'up' | 'down'

const both: Direction[] = ['up', 'down']

/** Starts a proxy on a port of its own before a server on 127.0.0.1. Call `close()` when done. */
export async function startProxy(target: number): Promise<TcpProxy> {
  const proxy = new TcpProxy(target, await freePort())
  await proxy.accept()
  return proxy
}

interface Lane {
  /** Pending while nothing may pass. */
  gate: Promise<void>
  open: () => void
  swallowing: boolean
  bytesPerSecond: number
  /** Bytes that still pass before all connections are cut. */
  left: number
  passed: number
}

/** A TCP proxy that does to connections what networks do. What is set holds for present and future connections. */
export class TcpProxy {
  readonly #lanes: Record<Direction, Lane> = { up: newLane(), down: newLane() }
  readonly #sockets = new Set<Socket>()
  #server: Server | undefined
  #slice = false

  constructor(
    readonly target: number,
    readonly port: number,
  ) {}

  /** The same URL, through this proxy. */
  url(direct: string): string {
    const url = new URL(direct)
    url.host = `127.0.0.1:${this.port}`
    return url.href
  }

  /** Connections that are open through it. */
  get connections(): number {
    return this.#sockets.size / 2
  }

  /** Bytes that have passed so far. */
  passed(direction: Direction): number {
    return this.#lanes[direction].passed
  }

  /** A half-open connection: nothing passes and nothing is closed; what is held back passes after `resume`. */
  pause(...directions: Direction[]): void {
    for (const lane of this.#choose(directions)) {
      lane.open()
      lane.gate = new Promise((resolve) => {
        lane.open = resolve
      })
    }
  }

  resume(...directions: Direction[]): void {
    for (const lane of this.#choose(directions)) {
      lane.open()
      lane.swallowing = false
    }
  }

  /** A black hole: bytes are taken and lost until `resume`. Connections that lost some are of no more use. */
  swallow(...directions: Direction[]): void {
    for (const lane of this.#choose(directions)) lane.swallowing = true
  }

  limit(bytesPerSecond: number, ...directions: Direction[]): void {
    for (const lane of this.#choose(directions)) lane.bytesPerSecond = bytesPerSecond
  }

  /** Passes everything on in pieces of 1 to 7 bytes, each a write of its own. */
  slice(on = true): void {
    this.#slice = on
  }

  /** Resets every open connection. */
  cut(): void {
    for (const socket of this.#sockets) socket.resetAndDestroy()
  }

  /** Resets every connection once so many more bytes have passed: in the middle of a command or its reply. */
  cutAfter(bytes: number, direction: Direction): void {
    this.#lanes[direction].left = bytes
  }

  /** From now on, connecting is refused; open connections stay. */
  refuse(): void {
    this.#server?.close()
    this.#server = undefined
  }

  /** Undoes `refuse`. */
  async accept(): Promise<void> {
    if (this.#server) return
    this.#server = createServer({ allowHalfOpen: true }, (client) => this.#join(client))
    await once(this.#server.listen(this.port, '127.0.0.1'), 'listening')
  }

  /** Ends it and all its connections. */
  async close(): Promise<void> {
    const server = this.#server
    this.refuse()
    this.resume()
    const closed = server ? once(server, 'close') : undefined
    this.cut()
    await closed
  }

  #choose(directions: Direction[]): Lane[] {
    return (directions.length > 0 ? directions : both).map((direction) => this.#lanes[direction])
  }

  #join(client: Socket): void {
    const server = connect({ port: this.target, host: '127.0.0.1', allowHalfOpen: true })
    for (const [socket, other] of [
      [client, server],
      [server, client],
    ] as const) {
      this.#sockets.add(socket)
      socket.setNoDelay(true)
      socket.on('error', () => {})
      socket.once('close', (failed) => {
        this.#sockets.delete(socket)
        if (failed) other.resetAndDestroy()
        else other.destroy()
      })
    }
    void this.#pump(client, server, this.#lanes.up)
    void this.#pump(server, client, this.#lanes.down)
  }

  async #pump(from: Socket, to: Socket, lane: Lane): Promise<void> {
    try {
      // Ending one direction must leave the other one open.
      for await (const chunk of from.iterator({ destroyOnReturn: false })) {
        for (const piece of this.#pieces(chunk, lane)) {
          await lane.gate
          if (!lane.swallowing) await this.#pass(piece, to, lane)
        }
      }
      await lane.gate
      to.end()
    } catch {
      to.destroy()
    }
  }

  *#pieces(chunk: Buffer, lane: Lane): Generator<Buffer> {
    // A limited lane sends about 50 times a second.
    const most = Math.max(1, Math.ceil(lane.bytesPerSecond / 50))
    for (let start = 0; start < chunk.length; ) {
      const size = Math.min(most, this.#slice ? 1 + Math.floor(Math.random() * 7) : chunk.length)
      yield chunk.subarray(start, start + size)
      start += size
    }
  }

  async #pass(piece: Buffer, to: Socket, lane: Lane): Promise<void> {
    const part = piece.subarray(0, lane.left)
    await write(to, part)
    lane.passed += part.length
    lane.left -= part.length
    if (lane.left === 0) {
      lane.left = Number.POSITIVE_INFINITY
      this.cut()
    }
    if (Number.isFinite(lane.bytesPerSecond)) await pause((part.length / lane.bytesPerSecond) * 1000)
    // The next turn of the loop: pieces written in one turn may travel as one.
    else if (this.#slice) await nextTurn()
  }
}

function newLane(): Lane {
  const endless = Number.POSITIVE_INFINITY
  return {
    gate: Promise.resolve(),
    open: () => {},
    swallowing: false,
    bytesPerSecond: endless,
    left: endless,
    passed: 0,
  }
}

function write(to: Socket, piece: Buffer): Promise<void> {
  return new Promise((resolve, reject) => to.write(piece, (error) => (error ? reject(error) : resolve())))
}
