import { formatLsn } from '../../src/postgres/client/lsn.js'
import { headText } from '../../src/postgres/state/gaps.js'
import type { GapReason } from '../../src/postgres/state/incident-reasons.js'
import type { AppendReply } from '../../src/redis/streams/append.js'
import type { HeadLook } from '../../src/relay/sink/head-ownership.js'
import type { ServerWal } from '../../src/relay/sink/server-wal.js'
import { Broken, Publisher, SessionEnd, type Steps } from './publisher.js'
import { GapRepair } from './repair.js'
import type { GapStream } from './state.js'
import { Streaming } from './streaming.js'
import type { World } from './world.js'

export const TIMELINE = 1

/**
 * One run of the relay as leader, in the steps of src/relay/bootstrap.ts and src/relay/pipeline.ts. It may be killed between two steps, or
 * be cut off: frozen for a while, its lock and its replication connection gone, and not told so.
 */
export class Session {
  readonly id: string
  server: ServerWal
  isCutOff = false
  streaming: Streaming | undefined
  readonly #world: World

  constructor(world: World, id: string) {
    this.#world = world
    this.id = id
    const { confirmed } = world.state
    this.server = { history: { current: TIMELINE, switches: [] }, lsn: 0n, confirmed }
  }

  get holdsLock(): boolean {
    return this.#world.leader === this
  }

  *run(): Steps {
    const { state, postgres } = this.#world
    yield
    const isPlanned = state.openGaps.length > 0
    if (!isPlanned) this.verifySource()
    yield
    this.server = { ...this.server, lsn: postgres.lsn }
    yield* this.#removeFoundAgain()
    const isLeft = state.openGaps.length > 0
    if (isLeft && !isPlanned) throw new SessionEnd('a gap was opened meanwhile')
    if (isPlanned) {
      if (isLeft) yield* new GapRepair(this.#world, this).run()
      throw new SessionEnd('repaired')
    }
    yield
    state.recordSession(this.id)
    yield
    this.streaming = new Streaming(this.#world, this)
    yield* this.streaming.run()
  }

  /** A gap is recorded, and ends the session. */
  gap(reason: GapReason, more: object = {}): SessionEnd {
    this.#world.state.openGap(reason, { confirmed: formatLsn(this.server.confirmed), ...more })
    return new SessionEnd(reason)
  }

  /** src/relay/identity.ts */
  verifySource(): void {
    this.verifySlot()
    this.verifyPublication()
  }

  verifySlot(): void {
    const { slot } = this.#world.postgres
    if (!slot) throw this.gap('slot_missing')
    const walStatus = slot.isLost ? 'lost' : 'reserved'
    const reason = this.#world.decisions.gapOfSlot({ walStatus, confirmedFlush: slot.confirmed }, this.server.confirmed)
    if (reason) throw this.gap(reason)
  }

  verifyPublication(): void {
    const { state, postgres } = this.#world
    const found = postgres.publicationState
    if (found === state.publicationState) return
    throw this.gap(found === null ? 'publication_missing' : 'publication_changed')
  }

  /** src/relay/sink/loss.ts: a newer session is no fault; another writer is, where this session still leads. */
  loss(key: string, reply: AppendReply, status: string = reply.status): Error {
    const isOther = status === 'OTHER' && this.#world.state.sessions.has(reply.session)
    if (status === 'BEHIND' || isOther) return new SessionEnd(`${status} at ${key}`)
    return this.foreign(key, status)
  }

  /** Another database wrote a head, which never is so here. One that does not lead sees what its successor does. */
  foreign(key: string, why: string): SessionEnd {
    if (this.holdsLock) this.#world.violated(`halted for a person: ${why} at ${key}`)
    return new SessionEnd('foreign')
  }

  /** src/relay/sink/head-takeover.ts, survey: every head; resolves with those that lack something. */
  *survey(publisher: Publisher): Steps<{ known: HeadLook[]; lost: HeadLook[] }> {
    const found = { known: [] as HeadLook[], lost: [] as HeadLook[] }
    for (const [key, { position, repairedBy }] of [...this.#world.state.heads]) {
      const look = yield* publisher.look(key, position, repairedBy)
      if (look.owner === 'beyond') throw this.foreign(key, 'a head beyond the end of WAL')
      found[look.reply.status === 'OK' ? 'known' : 'lost'].push(look)
    }
    return found
  }

  /** src/relay/sink/head-takeover.ts, recordLosses. */
  *recordLosses(publisher: Publisher, looks: readonly HeadLook[]): Steps {
    const { state, decisions } = this.#world
    if (!this.holdsLock) throw new SessionEnd('not leading')
    const lost = new Map<string, GapStream>()
    for (const { key, reply } of looks) {
      let end = decisions.endOfLost(reply, TIMELINE)
      if (end !== null) {
        const alone = yield* publisher.look(key, '00000000-0000000000000000-00000000', null)
        if (!decisions.isSoundAlone(alone, reply.head.entry)) end = null
      }
      lost.set(key, { ...state.newestCheckpoint(end), head: headText(reply.head) })
    }
    yield
    this.#world.say(`${this.id} records ${JSON.stringify([...lost])}`)
    if (!state.recordLostStreams(this.holdsLock, lost)) throw new SessionEnd('the lock is not held any longer')
  }

  /** src/relay/sink/found-again.ts */
  *#removeFoundAgain(): Steps {
    const { state, decisions } = this.#world
    if (!decisions.mayBeFoundAgain(state.repair)) return
    for (const gap of state.openGaps.filter(({ reason }) => reason === 'stream_behind')) {
      const publisher = new Publisher(this.#world, this)
      const whole: string[] = []
      try {
        yield* publisher.reconnect()
        for (const key of gap.streams.keys()) {
          const saved = state.heads.get(key)
          if (!saved) continue
          const look = yield* publisher.look(key, saved.position, saved.repairedBy)
          if (decisions.isFoundAgain(look)) whole.push(key)
        }
      } catch (error) {
        if (error instanceof Broken) return
        throw error
      }
      yield
      state.removeFoundAgain(gap, whole)
    }
  }
}
