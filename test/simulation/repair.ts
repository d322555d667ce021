import type { Head } from '../../src/event/head.js'
import { streamOf } from '../../src/event/names.js'
import { type Position, ZERO_POSITION } from '../../src/event/position.js'
import { formatLsn, type Lsn } from '../../src/postgres/client/lsn.js'
import type { Bound } from '../../src/postgres/state/checkpoints.js'
import { type FoundStream, NO_BOUND } from '../../src/relay/repair/stream-bounds.js'
import { KEYS, keysOf, type Row } from './postgres.js'
import { Broken, Publisher, SessionEnd, type Steps } from './publisher.js'
import { type Session, TIMELINE } from './session.js'
import type { Gap, Repair } from './state.js'
import type { World } from './world.js'

interface SourceGap {
  gap: Gap
  bound: { snapshot: string | null; since: Date | null }
}

/** The steps of src/relay/repair: repair.ts, slot-recovery.ts, affected-streams.ts, put-back.ts. Without its guards. */
export class GapRepair {
  readonly #world: World
  readonly #session: Session
  readonly #publisher: Publisher
  readonly #found: FoundStream[] = []
  readonly #since = new Map<string, Date | null>()
  readonly #prepared = new Map<string, Head>()
  #gaps: Gap[] = []
  #prefix = ''
  #index = 0

  constructor(world: World, session: Session) {
    this.#world = world
    this.#session = session
    this.#publisher = new Publisher(world, session)
  }

  *run(): Steps {
    try {
      yield* this.#run()
    } catch (error) {
      throw error instanceof Broken ? new SessionEnd(error.message) : error
    }
  }

  *#run(): Steps {
    const { state } = this.#world
    this.#requireLock()
    yield
    this.#recordSourceGaps()
    yield
    state.reopenRepaired(this.#session.holdsLock)
    yield* this.#publisher.reconnect()
    yield* this.#verifyHeads()
    this.#gaps = state.openGaps
    const earlier = state.repair
    const confirmed = yield* this.#recoverSlot()
    yield* this.#verifyHeads()
    this.#gaps = state.openGaps
    yield
    const source = this.#sourceGap()
    this.#requireLock()
    yield
    state.recordSession(this.#session.id)
    const repair = yield* this.#begin(source !== undefined)
    yield* this.#look(source, repair, earlier?.session)
    yield* this.#readIds()
    const rows = state.missingRows(repair)
    yield
    if (state.repair?.session !== this.#session.id) throw new SessionEnd('another session has begun to repair')
    yield
    this.#world.say(
      `${this.#session.id} puts back ${rows.map(({ id, key }) => `${id} ${key}`).join(', ')} from ${repair.snapshot}`,
    )
    if (state.repair) state.repair.attempts += 1
    yield* this.#prepare(confirmed)
    yield* this.#putBack(rows)
    yield* this.#save()
  }

  #requireLock(): void {
    if (!this.#session.holdsLock) throw new SessionEnd('the lock is not held any longer')
  }

  #recordSourceGaps(): void {
    for (const verify of [() => this.#session.verifySlot(), () => this.#session.verifyPublication()]) {
      try {
        verify()
      } catch (error) {
        if (!(error instanceof SessionEnd)) throw error
      }
    }
  }

  *#verifyHeads(): Steps {
    const session = this.#session
    let { lost } = yield* session.survey(this.#publisher)
    const recorded = new Set(this.#world.state.openGaps.flatMap(({ streams }) => [...streams.keys()]))
    if (lost.every(({ key }) => recorded.has(key))) return
    yield* this.#publisher.reconnect()
    lost = (yield* session.survey(this.#publisher)).lost
    if (lost.length > 0) yield* session.recordLosses(this.#publisher, lost)
  }

  *#recoverSlot(): Steps<Lsn> {
    const { postgres, state, decisions } = this.#world
    const { confirmed: known } = this.#session.server
    const publication = postgres.publicationState
    if (postgres.hole || publication === null) throw new SessionEnd('the publication is not whole')
    yield
    let slot = postgres.slot && { ...postgres.slot }
    const walStatus = slot?.isLost ? 'lost' : 'reserved'
    if (decisions.isUnrecorded(slot && { walStatus, confirmedFlush: slot.confirmed }, this.#gaps, known))
      throw new SessionEnd('the slot has changed')
    if (slot && decisions.mustReplaceSlot({ walStatus }, this.#gaps, formatLsn(known))) {
      postgres.slot = undefined
      slot = undefined
    }
    yield
    const isToBeCreated = !slot
    if (isToBeCreated) {
      const open = [...postgres.active]
      while (open.some((transaction) => postgres.isOpen(transaction))) yield
      if (postgres.slot) throw new SessionEnd('the slot exists')
      postgres.createSlot()
    }
    yield
    if (isToBeCreated) slot = postgres.slot
    if (!slot) throw new SessionEnd('the slot is missing')
    const wasIncomplete = this.#gaps.some(({ reason }) => reason.startsWith('publication_'))
    const confirmed = decisions.continuesFrom(known, slot.confirmed, wasIncomplete ? postgres.lsn : undefined)
    yield
    const { holdsLock } = this.#session
    if (!state.saveRecovered(holdsLock, confirmed, publication, wasIncomplete))
      throw new SessionEnd('altered meanwhile')
    return confirmed
  }

  #sourceGap(): SourceGap | undefined {
    const { state, decisions } = this.#world
    const gaps = this.#gaps.filter(({ reason }) => reason !== 'stream_behind')
    const [gap] = gaps
    if (!gap) return undefined
    const confirmed = decisions.confirmedBefore(gaps, this.#session.server.confirmed)
    return { gap, bound: confirmed === undefined ? NO_BOUND : state.newestCheckpoint(confirmed) }
  }

  /** src/postgres/state/repairs.ts, beginRepair. */
  *#begin(everyStream: boolean): Steps<Repair> {
    const { postgres, state, decisions } = this.#world
    const snapshot = postgres.takeSnapshot('repair')
    yield
    const until = postgres.lsn
    yield
    const next = postgres.takeXid()
    yield
    const unsettled = decisions.unsettledOf(postgres.snapshotOf(snapshot), next)
    const session = this.#session.id
    const awaited = new Set(unsettled.map(String))
    const begun = decisions.begins({ snapshot, until, unsettled: awaited }, state.repair)
    const repair = state.beginRepair(this.#session.holdsLock, this.#gaps, { session, everyStream, ...begun })
    if (!repair) throw new SessionEnd('a gap was repaired meanwhile')
    return repair
  }

  *#look(source: SourceGap | undefined, repair: Repair, earlier: string | undefined): Steps {
    const { state, decisions } = this.#world
    for (const gap of state.openGaps.filter((each) => each !== source?.gap)) {
      for (const [key, stream] of gap.streams) {
        const found = yield* this.#lookAt(key, earlier)
        const isBound = stream.snapshot !== null && decisions.holds(stream, found)
        this.#setSince(key, isBound ? stream.since : null)
        if (stream.snapshot !== null && !isBound) this.#bound(gap, key, NO_BOUND)
        if (!source && this.#found.every((other) => other.key !== key)) this.#found.push(found)
      }
    }
    if (!source) return
    for (const key of this.#keysOf(source, repair)) {
      const found = yield* this.#lookAt(key, earlier)
      this.#found.push(found)
      this.#setSince(key, this.#bound(source.gap, key, decisions.boundAtSource(found, source.bound)))
    }
  }

  #bound(gap: Gap, key: string, bound: Bound): Date | null {
    const since = this.#world.state.boundStream(this.#session.id, gap, key, bound)
    if (since === undefined) throw new SessionEnd('another session has begun to repair')
    return since
  }

  /** Streams with a saved head, then those that rows name. */
  #keysOf({ bound }: SourceGap, { snapshot }: Repair): Set<string> {
    const { state, postgres } = this.#world
    const { snapshot: known } = postgres.snapshotOf(bound.snapshot ?? state.firstSnapshot)
    const { snapshot: seen } = postgres.snapshotOf(snapshot)
    const streams = new Set<string>()
    for (const { xid, stream } of postgres.table) if (seen.sees(xid) && !known.sees(xid)) streams.add(stream)
    return new Set([...state.heads.keys(), ...[...streams].flatMap(keysOf)])
  }

  *#lookAt(key: string, earlier: string | undefined): Steps<FoundStream> {
    const { state, decisions } = this.#world
    const saved = state.heads.get(key)
    const end = yield* this.#publisher.request(() => this.#world.redis.readStreamEnd(key))
    const look = yield* this.#publisher.look(key, saved?.position ?? ZERO_POSITION, saved?.repairedBy ?? null)
    if (look.owner === 'beyond') throw this.#session.foreign(key, 'a head beyond the end of WAL')
    const alone = decisions.mayHaveSoundEnd(look.reply)
      ? yield* this.#publisher.look(key, ZERO_POSITION, null)
      : undefined
    const hasSoundEnd = alone !== undefined && decisions.isSoundAlone(alone, look.reply.head.entry)
    return decisions.foundStream({ key, end, hasSoundEnd, saved: saved?.position }, look.reply, earlier)
  }

  #setSince(key: string, since: Date | null): void {
    const stream = streamOf(key)
    this.#since.set(stream, this.#world.decisions.earlierOf(this.#since.get(stream), since))
  }

  *#readIds(): Steps {
    const { state, redis, decisions } = this.#world
    const { id } = this.#session
    state.clearPresent(id)
    for (const { key } of this.#found) {
      const entries = yield* this.#publisher.request(() =>
        redis.entriesFrom(key, this.#since.get(streamOf(key)) ?? null),
      )
      const ids = decisions.idsRead(entries).map(({ row }) => row.id)
      yield
      state.addPresent(id, ids)
    }
  }

  *#prepare(confirmed: Lsn): Steps {
    const { redis, decisions } = this.#world
    this.#prefix = decisions.placePrefix(TIMELINE, confirmed)
    this.#index = decisions.firstFreeIndex(
      this.#prefix,
      this.#found.map(({ head }) => head.position),
    )
    for (const found of this.#found) {
      const place = this.#next()
      const reply = yield* this.#publisher.request(() => redis.prepare(found.key, this.#session.id, found, place))
      if (reply.status !== 'OK') throw new SessionEnd('a head has changed since it was looked at')
      this.#prepared.set(found.key, { position: place, event: '', entry: reply.entry })
    }
  }

  #next(): Position {
    return this.#world.decisions.positionOf(this.#prefix, this.#index++)
  }

  *#putBack(rows: readonly Row[]): Steps {
    const publisher = this.#publisher
    for (const row of rows) {
      const prepared = this.#prepared.get(row.key)
      if (!prepared) continue
      if (!publisher.queues.has(row.key)) publisher.open(publisher.queue(row.key), prepared, prepared.position)
      publisher.add(row.key, { position: this.#next(), row })
    }
    for (;;) {
      try {
        if (!(yield* publisher.next())) return
      } catch (error) {
        if (!(error instanceof Broken)) throw error
        yield* publisher.reconnect()
      }
    }
  }

  *#save(): Steps {
    const { state, redis } = this.#world
    const { id } = this.#session
    const heads = new Map(KEYS.flatMap((key) => this.#headOf(key)))
    for (const [key, { position }] of heads) {
      yield
      if (!redis.barrier(key, id, position)) throw new SessionEnd('Redis does not have a head')
    }
    this.#requireLock()
    yield
    this.#world.say(`${id} saves ${[...heads].map(([key, { position }]) => `${key} ${position}`).join(', ')}`)
    if (!state.savePutBackHeads(this.#session.holdsLock, id, heads, this.#gaps))
      throw new SessionEnd('another session has begun to repair')
  }

  #headOf(key: string): [string, Head][] {
    const head = this.#publisher.queues.get(key)?.head ?? this.#prepared.get(key)
    return head ? [[key, head]] : []
  }
}
