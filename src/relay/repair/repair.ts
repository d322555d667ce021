import type pg from 'pg'
import { pause } from '../../base/backoff.js'
import { every } from '../../base/interval.js'
import type { Config } from '../../config/schema.js'
import { ZERO_POSITION } from '../../event/position.js'
import { formatLsn, type Lsn, parseLsn } from '../../postgres/client/lsn.js'
import { describeOpenWriters } from '../../postgres/replication/slot-creation.js'
import { newestCheckpoints } from '../../postgres/state/checkpoints.js'
import { lostStreams, type OpenGap, openGaps } from '../../postgres/state/gaps.js'
import type { RepairHalt } from '../../postgres/state/incident.js'
import type { Lineage } from '../../postgres/state/lineage.js'
import { clearRepairHalt, saveRepairHalt } from '../../postgres/state/repair-halt.js'
import {
  beginRepair,
  countAttempt,
  loadRepair,
  reopenRepaired,
  saveFound,
  savePutBack,
  savePutBackHeads,
} from '../../postgres/state/repairs.js'
import { lockLost } from '../../postgres/state/sessions.js'
import { addressHash } from '../../redis/client/address.js'
import type { RedisClient } from '../../redis/client/connect.js'
import { classifyRedisError } from '../../redis/client/errors.js'
import { requirePrimary } from '../../redis/client/primary.js'
import { BarrierMismatchError } from '../../redis/streams/durability.js'
import type { Logger } from '../../telemetry/log.js'
import type { Metrics } from '../../telemetry/metrics.js'
import { confirmHeads } from '../confirm/confirm-heads.js'
import { DurabilityBarrier } from '../confirm/durability-barrier.js'
import type { StateStore } from '../confirm/state-store.js'
import { HaltError, RedisFaultError } from '../errors.js'
import type { AliveKey } from '../sink/alive-key.js'
import type { HeadLook, HeadOwnership } from '../sink/head-ownership.js'
import { HeadTakeover, throwRefusals } from '../sink/head-takeover.js'
import { LossError } from '../sink/loss.js'
import type { ServerWal } from '../sink/server-wal.js'
import { monitorUnreadSlot, SlotMonitor } from '../source/slot-monitor.js'
import { AffectedStreams, type SourceGap } from './affected-streams.js'
import { readFreeMemory, requireRoom, requireSameRedis } from './guards.js'
import { type Missing, MissingRows } from './missing-rows.js'
import { PutBack } from './put-back.js'
import { FIRST_GUARDS, haltOf } from './repair-halt.js'
import { recordSourceGaps } from './repair-plan.js'
import { recoverSlot } from './slot-recovery.js'
import { confirmedBefore, NO_BOUND } from './stream-bounds.js'

/** Commits below an LSN may become visible a moment after it. */
const SETTLE_MS = 1_000
/** One look proves no loss: see HeadTakeover. */
const LOOK_AGAIN_MS = 3_000
const SAVE_PROGRESS_EVERY_MS = 2_000
const LOG_PROGRESS_EVERY_MS = 10_000
/** Times that another relay may be heard, at most 20 s each, before a person has to decide. */
const MAX_LISTENED = 15

export interface RepairOptions {
  config: Config
  log: Logger
  metrics: Metrics
  stateStore: StateStore
  lineage: Lineage
  /** As of the session's start. */
  server: ServerWal
  ownership: HeadOwnership
  partitions: Readonly<Record<string, number>>
  /** A connection of its own to Postgres, without a limit to how long a statement runs. */
  client: pg.Client
  connectRedis(commandTimeout?: number): Promise<RedisClient>
  /** Aborted when the relay is to stop, or the session has ended. */
  signal: AbortSignal
  report(state: 'repairing' | 'blocked', reason: string, message: string): void
  alive: AliveKey
  /** Records the session: its heads must be known as this database's. */
  begin(): Promise<void>
}

/**
 * Puts right what the open gaps of a lineage say, from Outrider's own table. The session holds the lock, and does not stream:
 *
 *     look at every head ── another database's? halt
 *     slot and publication that give everything from some LSN on
 *     snapshot ── transactions that it sees: from the table; all others: from WAL
 *     ids that the streams have ── rows that they lack ── room for them?
 *     heads to a place just below that LSN ── a head that moved, or a stream that lost entries since? begin again
 *     append ── durable? save heads, mark the gaps as repaired
 *
 * Every surprise ends it; the next session begins again, with another snapshot. What was appended is recognised by its id.
 */
export class GapRepair {
  readonly #options: RepairOptions
  readonly #putBack: PutBack
  readonly #takeover: HeadTakeover
  #found: Missing = { rows: 0, bytes: 0 }
  #skipped = 0
  /** Of the slot or the publication: it breaks off whatever runs. */
  #sourceFailure: unknown
  #gaps: OpenGap[] = []

  constructor(options: RepairOptions) {
    this.#options = options
    this.#putBack = new PutBack({
      ...options,
      blocked: (reason, message) => {
        if (reason === undefined) this.#report()
        else options.report('blocked', reason, message)
      },
    })
    this.#takeover = new HeadTakeover({
      ...options,
      publisher: this.#putBack.publisher,
      undisputed: () => {},
      blocked: (reason, message) => options.report('blocked', reason, message),
    })
  }

  /** Resolves when every gap is repaired. Rejects with a HaltError where a person has to act; after any other error it begins again. */
  async run(): Promise<void> {
    const { signal, stateStore } = this.#options
    try {
      await this.#repair()
    } catch (caught) {
      signal.throwIfAborted()
      const error = this.#sourceFailure ?? caught
      const halt = haltOf(error)
      // If that fails, the next look records it.
      if (halt) await this.#saveHalt(halt).catch(() => {})
      const { code } = error as { code?: string }
      const isKnown = error instanceof HaltError || error instanceof RedisFaultError || error instanceof LossError
      if (error instanceof BarrierMismatchError) throw new RedisFaultError(error.message, { cause: error })
      if (isKnown || code !== undefined || stateStore.hasFailedWith(error as object)) throw error
      if (classifyRedisError(error).policy === 'halt') throw error
      throw new RedisFaultError((error as Error).message, { cause: error })
    } finally {
      this.#putBack.close()
    }
  }

  async #repair(): Promise<void> {
    const { client, lineage, log, stateStore, signal } = this.#options
    await this.#requireLock()
    await stateStore.inTurn((postgres) => recordSourceGaps(postgres, lineage))
    // The snapshot of this repair takes the place of the one that they wait by.
    await reopenRepaired(client, lineage.lineage, stateStore.walsender)
    await this.#putBack.publisher.start()
    await this.#verifyHeads()
    await this.#readGaps()
    // A repair that was too large is looked at as a whole only once a person has decided, or Redis has room.
    const earlier = await loadRepair(client, lineage.lineage)
    if (earlier?.found) await this.#verifyRoom(earlier.found)
    await this.#requireSilence()
    await clearRepairHalt(client, lineage.lineage, FIRST_GUARDS)
    this.#options.alive.start(() => this.#putBack.publisher.client)
    this.#report()
    const confirmed = await this.#recoverSlot()
    const slotMonitor = this.#monitorSlot(confirmed)
    // It may have waited, and nothing was fenced meanwhile.
    await this.#verifyHeads()
    await this.#readGaps()
    await pause(SETTLE_MS, signal)
    const source = await this.#sourceGap()
    await this.#requireLock()
    await this.#options.begin()
    const repair = await beginRepair(client, {
      ...{ lineage: lineage.lineage, session: this.#options.ownership.session },
      ...{ timeline: this.#options.server.history.current, everyStream: source !== undefined },
      ...{ walsender: stateStore.walsender, incidents: this.#ids() },
    })
    const streams = new AffectedStreams({
      ...this.#options,
      gaps: this.#gaps,
      source,
      repair,
      confirmed,
      earlier: earlier?.session,
      recordForeign: (looks) => this.#takeover.recordForeign(looks),
    })
    const redis = await this.#putBack.connected()
    await streams.look(redis)
    await streams.readIds(redis)
    await clearRepairHalt(client, lineage.lineage)
    const rows = new MissingRows({
      client,
      lineage: lineage.lineage,
      session: repair.session,
      snapshot: repair.snapshot,
    })
    this.#found = await rows.find(this.#limit())
    const { rows: events, bytes } = this.#found
    await saveFound(client, this.#own, events, bytes)
    this.#options.metrics.repairFound(events)
    log.info({ incidents: this.#ids(), streams: streams.size, events, bytes, attempt: repair.attempts }, 'repair began')
    await this.#verifyRoom(this.#found)
    await countAttempt(client, this.#own)
    await streams.prepare(await this.#putBack.connected(), this.#putBack)
    await this.#putBackAll(rows, streams)
    await this.#confirmHeads()
    await slotMonitor.look()
    await this.#save(streams)
    log.info({ incidents: this.#ids(), events: this.#putBack.appended, confirmed: formatLsn(confirmed) }, 'repaired')
  }

  /** Rejects where another database wrote a head. Streams that Redis has lost beside the known ones are recorded. */
  async #verifyHeads(): Promise<void> {
    const { signal } = this.#options
    let client = await this.#putBack.connected()
    let { lost } = await this.#takeover.survey(client)
    throwRefusals(lost)
    if (lost.length > 0 && !(await this.#areRecorded(lost))) {
      await requirePrimary(client)
      await pause(LOOK_AGAIN_MS, signal)
      signal.throwIfAborted()
      this.#putBack.publisher.broken(client, 'Redis seems to have lost events: looking again.', 'redis_behind')
      client = await this.#putBack.connected()
      lost = (await this.#takeover.survey(client)).lost
      throwRefusals(lost)
      const error = lost.length > 0 ? await this.#takeover.recordLosses(client, lost) : undefined
      if (error instanceof LossError) throw error
    }
    await this.#verifyAddress(lost)
  }

  async #verifyRoom(missing: Missing): Promise<void> {
    const { client, lineage } = this.#options
    const free = await readFreeMemory(await this.#putBack.connected(), keysOf(lostStreams(client, lineage.lineage)))
    requireRoom(missing, this.#limit(), free, this.#ids()[0] ?? '')
  }

  async #areRecorded(lost: readonly HeadLook[]): Promise<boolean> {
    const { rows } = await this.#options.client.query<{ count: number }>(
      `select count(distinct stream_key)::float8 as count from outrider.gap_stream join outrider.incident as i on i.id = incident
       where lineage = $1 and closed_at is null and repaired_at is null and stream_key = any ($2)`,
      [this.#options.lineage.lineage, lost.map(({ key }) => key)],
    )
    return rows[0]?.count === lost.length
  }

  /** Nothing at all is there, at an address that is new. */
  async #verifyAddress(lost: readonly HeadLook[]): Promise<void> {
    const { config, lineage } = this.#options
    const gaps = await openGaps(this.#options.client, lineage.lineage)
    if (lost.length === 0 || gaps.some(({ repairMax }) => repairMax !== undefined)) return
    if (lost.some(({ reply }) => reply.head.position !== ZERO_POSITION)) return
    const { rows } = await this.#options.client.query<{ redis: string | null; heads: number }>(
      `select redis, (select count(*) from outrider.head as h where h.lineage = l.lineage)::float8 as heads
       from outrider.lineage as l where lineage = $1`,
      [lineage.lineage],
    )
    const [known] = rows
    if (known && known.heads === lost.length) {
      requireSameRedis(known.redis, addressHash(config.redis.url), gaps[0]?.id ?? '')
    }
  }

  /** A connection that was made by name may lead to another server than the one whose lock is held. */
  async #requireLock(): Promise<void> {
    const { client, stateStore } = this.#options
    if (await stateStore.holdsLock(client)) return
    throw lockLost()
  }

  /** A copy of this database has no slot: it must not repair itself into the streams of the original. */
  async #requireSilence(): Promise<void> {
    const { alive, report, signal } = this.#options
    const gap = this.#gaps.find(({ reason }) => reason === 'slot_missing' || reason === 'slot_lost')
    if (!gap) return
    report('repairing', gap.reason, 'Listens for 20 s whether another relay publishes to these streams.')
    for (let listened = 1; !(await alive.allAreSilent(await this.#putBack.connected())); listened++) {
      signal.throwIfAborted()
      const message =
        'The slot is gone, and another relay publishes to the same streams: of a database that this one is a copy of, or of a copy. ' +
        'Nothing is written. Stop the other relay if this database is to publish; else stop this one. `outrider adopt` starts a ' +
        'new lineage for a copy.'
      if (listened === MAX_LISTENED) throw new HaltError('alive_elsewhere', message)
      await this.#saveHalt({ reason: 'alive_elsewhere', message, commands: [] })
      report('blocked', 'alive_elsewhere', message)
    }
  }

  async #recoverSlot(): Promise<Lsn> {
    const { client, config, lineage, stateStore, report } = this.#options
    return recoverSlot({
      ...{ client, lineage, gaps: this.#gaps, mapping: config.outbox, walsender: stateStore.walsender },
      waiting: () =>
        void stateStore
          .inTurn(describeOpenWriters)
          .then((writers) => report('repairing', 'slot_missing', `A new slot waits for open transactions: ${writers}.`))
          .catch(() => {}),
    })
  }

  #saveHalt(halt: RepairHalt): Promise<void> {
    const { lineage, stateStore } = this.#options
    const own = { lineage: lineage.lineage, walsender: stateStore.walsender }
    return stateStore.inTurn((postgres) => saveRepairHalt(postgres, own, halt))
  }

  get #own() {
    return { lineage: this.#options.lineage.lineage, session: this.#options.ownership.session }
  }

  async #readGaps(): Promise<void> {
    this.#gaps = await openGaps(this.#options.client, this.#options.lineage.lineage)
  }

  /** The gap of slot or publication, with what was published before it: by the newest checkpoint from before what was confirmed then. */
  async #sourceGap(): Promise<SourceGap | undefined> {
    const { client, lineage } = this.#options
    const gaps = this.#gaps.filter(({ reason }) => reason !== 'stream_behind')
    if (gaps.length === 0) return undefined
    const confirmed = confirmedBefore(gaps, parseLsn(lineage.confirmedLsn))
    const [bound = NO_BOUND] =
      confirmed === undefined ? [] : await newestCheckpoints(client, lineage.lineage, [confirmed])
    return { id: gaps[0]!.id, bound }
  }

  async #putBackAll(rows: MissingRows, streams: AffectedStreams): Promise<void> {
    const { signal, client, log } = this.#options
    const putBack = this.#putBack
    const ended = new AbortController()
    const until = AbortSignal.any([signal, ended.signal])
    const progress = () => ({ events: putBack.appended, of: this.#found.rows - this.#skipped })
    every(SAVE_PROGRESS_EVERY_MS, () => this.#report(), until)
    every(LOG_PROGRESS_EVERY_MS, () => log.info(progress(), 'repair continues'), until)
    try {
      let saved = 0
      for await (const page of rows.read(putBack.columns)) {
        for (const row of page) {
          const key = putBack.keyOf(row)
          const refusal = key === undefined ? undefined : streams.refused.get(key)
          // Of a partition that has lost nothing, or of a stream that is not concerned.
          if (key === undefined || (refusal === undefined && !putBack.isPrepared(key))) this.#skipped += 1
          else if (refusal === undefined) putBack.add(key)
          else putBack.refuse(key, refusal)
        }
        await putBack.room()
        if (performance.now() - saved < SAVE_PROGRESS_EVERY_MS) continue
        saved = performance.now()
        await savePutBack(client, this.#own, putBack.appended)
      }
      await putBack.finish()
    } finally {
      ended.abort()
    }
  }

  /** Nothing reads the slot meanwhile: that it is gone, or that rows pass the publication unseen, must not be found after hours alone. */
  #monitorSlot(confirmed: Lsn): SlotMonitor {
    const { client, lineage, metrics, stateStore } = this.#options
    const monitor = new SlotMonitor({
      ...{ stateStore, metrics, look: monitorUnreadSlot },
      lineage: { ...lineage, confirmedLsn: formatLsn(confirmed) },
      failed: (error) => {
        if (this.#putBack.signal.aborted) return
        this.#sourceFailure = error
        this.#putBack.fail(error)
        client.connection.stream.destroy()
      },
    })
    monitor.start(this.#putBack.signal)
    return monitor
  }

  async #confirmHeads(): Promise<void> {
    const { config, connectRedis, lineage, ownership, report } = this.#options
    const { signal } = this.#putBack
    const heads = this.#putBack.heads()
    const barrier = new DurabilityBarrier(() => connectRedis(), lineage.lineage, ownership.session)
    try {
      const unmet = (error: Error) => report('blocked', 'durability', error.message)
      await confirmHeads(heads, { level: config.durability, barrier, signal, unmet })
    } finally {
      barrier.close()
    }
    signal.throwIfAborted()
  }

  async #save(streams: AffectedStreams): Promise<void> {
    const { client, lineage, ownership, stateStore } = this.#options
    await this.#requireLock()
    await savePutBackHeads(client, {
      ...{ lineage: lineage.lineage, session: ownership.session },
      ...{ heads: this.#putBack.heads(), refused: [...streams.refused.keys()] },
      ...{ incidents: this.#ids(), putBack: this.#putBack.appended, walsender: stateStore.walsender },
    })
  }

  #ids(): string[] {
    return this.#gaps.map(({ id }) => id)
  }

  #limit(): number {
    return Math.max(this.#options.config.repairMaxEvents, ...this.#gaps.map(({ repairMax }) => repairMax ?? 0))
  }

  #report(): void {
    const { appended } = this.#putBack
    this.#options.metrics.repairPutBack(appended)
    const left = this.#found.rows - this.#skipped
    const progress = left > 0 ? `${appended} of ${left} events are put back.` : 'Looks for what is missing.'
    this.#options.report('repairing', this.#gaps[0]?.reason ?? 'gap', `A gap is repaired from the outbox. ${progress}`)
  }
}

async function* keysOf(pages: ReturnType<typeof lostStreams>): AsyncGenerator<string> {
  for await (const page of pages) for (const { key } of page) yield key
}
