import type pg from 'pg'
import { batchesOf, inBatches } from '../../base/in-batches.js'
import { streamKey, streamOf } from '../../event/names.js'
import { placePrefix, ZERO_POSITION } from '../../event/position.js'
import type { Lsn } from '../../postgres/client/lsn.js'
import { fromTxid } from '../../postgres/outbox/txid-index.js'
import type { Bound } from '../../postgres/state/checkpoints.js'
import { boundStreams, lostStreams, type OpenGap } from '../../postgres/state/gaps.js'
import type { SavedHead } from '../../postgres/state/heads.js'
import type { Lineage } from '../../postgres/state/lineage.js'
import type { Repair } from '../../postgres/state/repairs.js'
import type { RedisClient } from '../../redis/client/connect.js'
import { prepareRepair, readEventIds, readStreamEnd } from '../../redis/streams/repair.js'
import type { StateStore } from '../confirm/state-store.js'
import { RedisFaultError } from '../errors.js'
import { type HeadLook, type HeadOwnership, hasSoundEnd, lookAtHead } from '../sink/head-ownership.js'
import { PresentIds } from './missing-rows.js'
import type { PutBack } from './put-back.js'
import { RefusedStreams } from './refused-streams.js'
import {
  boundAtSource,
  earlierOf,
  type FoundStream,
  firstFreeIndex,
  foundStream,
  holds,
  NO_BOUND,
} from './stream-bounds.js'

/** Heads that are looked at, or moved, at once. */
const HEADS_AT_ONCE = 100
/** Streams whose ids are read at once: each call keeps Redis from other work for a moment. */
const READ_AT_ONCE = 8

export interface AffectedStreamsOptions {
  client: pg.Client
  stateStore: StateStore
  lineage: Lineage
  ownership: HeadOwnership
  partitions: Readonly<Record<string, number>>
  gaps: readonly OpenGap[]
  /** Undefined: neither slot nor publication had a gap. */
  source: SourceGap | undefined
  repair: Repair
  /** The session that began to repair before this one; undefined: none did. */
  earlier: string | undefined
  /** Gives what to throw where another database wrote heads. */
  recordForeign(looks: HeadLook[]): Promise<Error>
  /** From where WAL is read afterwards. */
  confirmed: Lsn
}

/** A gap of slot or publication, and what was published before it: of streams that have lost nothing themselves. */
export interface SourceGap {
  id: string
  bound: Bound
}

/** The streams that a repair concerns: finds their bounds, moves their heads to the place, and reads what they hold. */
export class AffectedStreams {
  readonly #options: AffectedStreamsOptions
  /** By key: an earlier version may have named a stream in a gap of its own. */
  readonly #found = new Map<string, FoundStream>()
  /** By stream, for all of its partitions, whose rows are looked for together: no entry of one is older; null: any may be. */
  readonly #since = new Map<string, Date | null>()
  readonly refused: RefusedStreams

  constructor(options: AffectedStreamsOptions) {
    this.#options = options
    this.refused = new RefusedStreams(options.gaps[0]?.id ?? '')
  }

  get size(): number {
    return this.#found.size + this.refused.size
  }

  /** Looks at every stream, and records what is known to be in it. */
  async look(client: RedisClient): Promise<void> {
    const { source, stateStore } = this.#options
    if (source === undefined) {
      await this.#lookAtLost(client)
      return
    }
    await this.#lookAtLost(client, { boundsAlone: true })
    const known = new Set<string>()
    for await (const page of stateStore.savedHeads()) {
      for (const key of page.keys()) known.add(key)
      await this.#lookAtAll(client, page)
    }
    const unsaved = (await this.#streamsOfRows()).filter((key) => !known.has(key))
    await this.#lookAtAll(client, new Map(unsaved.map((key) => [key, undefined])))
  }

  /** Moves every head to the place. From here on no earlier session appends to these streams. */
  async prepare(client: RedisClient, putBack: PutBack): Promise<void> {
    const { lineage, repair, confirmed, ownership } = this.#options
    const prefix = placePrefix(repair.timeline, confirmed)
    putBack.begin({ timeline: repair.timeline, confirmed, index: await this.#firstIndex(prefix) })
    await inBatches(this.#found.values(), HEADS_AT_ONCE, async (found) => {
      const place = putBack.next()
      const stream = { key: found.key, lineage: lineage.lineage, session: ownership.session }
      const reply = await prepareRepair(client, stream, found, place)
      if (reply.status === 'OK') putBack.prepared(found.key, place, reply.entry)
      else throw new RedisFaultError(`Stream ${found.key}, or its head, has changed since it was looked at.`)
    })
  }

  /**
   * Records the ids of all events in the streams. What an earlier session appends meanwhile moves a head, and what is deleted
   * sets a stream back: `prepare` finds both.
   */
  async readIds(client: RedisClient): Promise<void> {
    const { lineage, repair } = this.#options
    const present = new PresentIds(this.#options.client, lineage.lineage, repair.session)
    await present.clear()
    await inBatches(this.#found.keys(), READ_AT_ONCE, async (key) => {
      try {
        const since = this.#since.get(streamOf(key))
        const from = since ? `${since.getTime()}-0` : '-'
        for await (const ids of readEventIds(client, key, lineage.source, from))
          await present.add(key.split(':', 1)[0]!, ids)
      } catch (error) {
        throw this.refused.explain(error as Error)
      }
    })
    await present.flush()
  }

  async #lookAtLost(client: RedisClient, { boundsAlone = false } = {}): Promise<void> {
    const { lineage, repair, stateStore, source } = this.#options
    for await (const page of lostStreams(this.#options.client, lineage.lineage)) {
      const lost = page.filter(({ incident }) => incident !== source?.id)
      const saved = await stateStore.savedHeadsOf(lost.map(({ key }) => key))
      const found = await this.#lookAtEach(client, new Map(lost.map(({ key }) => [key, saved.get(key)])))
      const unbound = new Map<string, string[]>()
      for (const stream of lost) {
        const isBound = stream.snapshot !== null && holds(stream, found.get(stream.key))
        this.#setSince(stream.key, isBound ? stream.since : null)
        if (stream.snapshot === null || isBound) continue
        unbound.set(stream.incident, [...(unbound.get(stream.incident) ?? []), stream.key])
      }
      for (const [incident, keys] of unbound) {
        const streams = keys.map((key) => ({ key, ...NO_BOUND }))
        await boundStreams(this.#options.client, { id: incident, session: repair.session }, streams)
      }
      if (!boundsAlone) this.#add(found)
    }
  }

  async #lookAtAll(client: RedisClient, heads: ReadonlyMap<string, SavedHead | undefined>): Promise<void> {
    const { repair, source } = this.#options
    for (const batch of batchesOf(heads, 1_000)) {
      const found = await this.#lookAtEach(client, new Map(batch))
      this.#add(found)
      if (source === undefined) continue
      const streams = batch.map(([key]) => {
        return { key, ...boundAtSource(found.get(key), source.bound) }
      })
      const bounds = await boundStreams(this.#options.client, { id: source.id, session: repair.session }, streams)
      for (const [key, since] of bounds) this.#setSince(key, since)
    }
  }

  #add(found: ReadonlyMap<string, FoundStream>): void {
    for (const [key, stream] of found) this.#found.set(key, stream)
  }

  /** Of two gaps, and of two partitions, the one that reaches further back counts. */
  #setSince(key: string, since: Date | null): void {
    const stream = streamOf(key)
    this.#since.set(stream, earlierOf(this.#since.get(stream), since))
  }

  /** A stream that two gaps name is looked at twice: the last look decides whether Redis refuses it. */
  async #lookAtEach(
    client: RedisClient,
    heads: ReadonlyMap<string, SavedHead | undefined>,
  ): Promise<Map<string, FoundStream>> {
    const { ownership, earlier, recordForeign } = this.#options
    const all = new Map<string, FoundStream>()
    const foreign: HeadLook[] = []
    await inBatches(heads, HEADS_AT_ONCE, async ([key, saved]) => {
      const end = await readStreamEnd(client, key)
      const look = await lookAtHead(client, key, saved?.position ?? ZERO_POSITION, ownership, saved?.repairedBy)
      const { owner, reply } = look
      const isStranger = owner === 'unrecorded' && !saved && !(await ownership.othersAreSilent(client))
      if (owner === 'foreign' || owner === 'beyond' || isStranger) foreign.push(look)
      else if (reply.status === 'ERROR') {
        this.#found.delete(key)
        this.refused.add(key, reply.error, saved)
      } else {
        this.refused.delete(key)
        const isSound = await hasSoundEnd(client, look, ownership)
        all.set(key, foundStream({ key, end, hasSoundEnd: isSound, saved: saved?.position }, reply, earlier))
      }
    })
    if (foreign.length > 0) throw await recordForeign(foreign)
    return all
  }

  /** Keys of the streams that rows name which are not known to be published. */
  async #streamsOfRows(): Promise<string[]> {
    const { client, lineage, partitions, repair, source } = this.#options
    const bounds = await client.query<{ published: string | null; first: string | null }>(
      `select s::text as published, pg_snapshot_xmin(s)::text as first
       from outrider.lineage, coalesce($1::pg_snapshot, first_snapshot) as s where lineage = $2`,
      [source?.bound.snapshot ?? null, lineage.lineage],
    )
    const { published, first } = bounds.rows[0]!
    const { rows } = await client.query<{ stream: string }>(
      `select distinct stream from outrider.outbox
       where pg_visible_in_snapshot(txid, $1) and pg_visible_in_snapshot(txid, $2) is not true
         and ${await fromTxid(client, first ?? undefined)}`,
      [repair.snapshot, published],
    )
    return rows.flatMap(({ stream }) => {
      const count = partitions[stream]
      return count ? Array.from({ length: count }, (_, n) => streamKey(stream, n)) : [streamKey(stream)]
    })
  }

  /** The first index at the place that no head has, and no rejected row. */
  async #firstIndex(prefix: string): Promise<number> {
    const taken = Array.from(this.#found.values(), ({ head }) => head.position)
    const { rows } = await this.#options.client.query<{ position: string | null }>(
      `select max(position) as position from outrider.incident
       where lineage = $1 and kind = 'rejected' and position between $2 || '00000000' and $2 || '7fffffff'`,
      [this.#options.lineage.lineage, prefix],
    )
    if (rows[0]?.position) taken.push(rows[0].position)
    return firstFreeIndex(prefix, taken)
  }
}
