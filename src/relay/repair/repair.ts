import type pg from 'pg'
import { pause } from '../../base/backoff.js'
import type { Config } from '../../config/schema.js'
import { formatLsn } from '../../postgres/client/lsn.js'
import type { RowCount } from '../../postgres/outbox/row-references.js'
import { lostStreamKeys, type OpenGap, openGaps } from '../../postgres/state/gaps.js'
import type { RepairHalt } from '../../postgres/state/incident.js'
import type { Lineage } from '../../postgres/state/lineage.js'
import { recordLostHistory } from '../../postgres/state/lost-history.js'
import { clearRepairHalt, saveRepairHalt } from '../../postgres/state/repair-halt.js'
import {
  beginRepair,
  countAttempt,
  loadRepair,
  reopenRepaired,
  saveFound,
  savePutBackHeads,
} from '../../postgres/state/repairs.js'
import { lockLost } from '../../postgres/state/sessions.js'
import type { RedisClient } from '../../redis/client/connect.js'
import type { Logger } from '../../telemetry/log.js'
import type { Metrics } from '../../telemetry/metrics.js'
import { confirmHeads } from '../confirm/confirm-heads.js'
import { DurabilityBarrier } from '../confirm/durability-barrier.js'
import type { StateStore } from '../confirm/state-store.js'
import type { AliveKey } from '../sink/alive-key.js'
import type { HeadOwnership } from '../sink/head-ownership.js'
import { HeadTakeover } from '../sink/head-takeover.js'
import type { ServerWal } from '../sink/server-wal.js'
import { AffectedStreams } from './affected-streams.js'
import { readFreeMemory, requireRoom } from './guards.js'
import { HeadVerification } from './head-verification.js'
import { MissingRows } from './missing-rows.js'
import { PutBack } from './put-back.js'
import { describePutBack } from './put-back-progress.js'
import { PutBackRows, type PutBackRowsOptions } from './put-back-rows.js'
import { explainEnd, FIRST_GUARDS, haltOf } from './repair-halt.js'
import { recordSourceGaps } from './repair-plan.js'
import { RepairSource } from './repair-source.js'

/** Commits below an LSN may become visible a moment after it. */
const SETTLE_MS = 1_000

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
  report(state: 'starting' | 'repairing' | 'blocked', reason?: string, message?: string): void
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
  readonly #heads: HeadVerification
  readonly #source: RepairSource
  /** Known once it is known what is missing. */
  #rows: PutBackRows | undefined
  #gaps: OpenGap[] = []
  /** The guards that come before any change have let it pass. */
  #isPermitted = false

  constructor(options: RepairOptions) {
    this.#options = options
    this.#putBack = new PutBack({
      ...options,
      blocked: (reason, message) => {
        if (reason !== undefined) options.report('blocked', reason, message)
        // A look that a guard ends is no repair: a halted relay stays halted meanwhile, and looks again soon.
        else if (!this.#isPermitted) options.report('starting')
        else this.#report()
      },
    })
    this.#takeover = new HeadTakeover({
      ...options,
      publisher: this.#putBack.publisher,
      undisputed: () => {},
      blocked: (reason, message) => options.report('blocked', reason, message),
    })
    this.#heads = new HeadVerification({ ...options, putBack: this.#putBack, takeover: this.#takeover })
    this.#source = new RepairSource({ ...options, putBack: this.#putBack, saveHalt: (halt) => this.#saveHalt(halt) })
  }

  /** Resolves when every gap is repaired. Rejects with a HaltError where a person has to act; after any other error it begins again. */
  async run(): Promise<void> {
    const { signal, stateStore } = this.#options
    try {
      await this.#repair()
    } catch (caught) {
      signal.throwIfAborted()
      const error = this.#source.failure ?? caught
      const halt = haltOf(error)
      // If that fails, the next look records it.
      if (halt) await this.#saveHalt(halt).catch(() => {})
      throw stateStore.hasFailedWith(error as object) ? error : explainEnd(error)
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
    await this.#readGaps()
    await this.#putBack.publisher.start()
    await this.#heads.verify()
    await this.#readGaps()
    // A repair that was too large is looked at as a whole only once a person has decided, or Redis has room.
    const earlier = await loadRepair(client, lineage.lineage)
    if (earlier?.found) await this.#verifyRoom(earlier.found)
    await this.#source.requireSilence(this.#gaps)
    await clearRepairHalt(client, lineage.lineage, FIRST_GUARDS)
    this.#options.alive.start(() => this.#putBack.publisher.client)
    this.#isPermitted = true
    this.#report()
    const confirmed = await this.#source.recover(this.#gaps)
    const slotMonitor = this.#source.monitor(confirmed)
    // It may have waited, and nothing was fenced meanwhile.
    await this.#heads.verify()
    await this.#readGaps()
    await pause(SETTLE_MS, signal)
    const source = await this.#source.gapOf(this.#gaps)
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
    await this.#recordLostHistory()
    await streams.readIds(redis)
    await clearRepairHalt(client, lineage.lineage)
    const rows = new MissingRows({ ...this.#own, client, snapshot: repair.snapshot })
    const found = await rows.find(this.#limit())
    const { rows: events, bytes } = found
    await saveFound(client, this.#own, events, bytes)
    this.#options.metrics.repairFound(events)
    log.info({ incidents: this.#ids(), streams: streams.size, events, bytes, attempt: repair.attempts }, 'repair began')
    await this.#verifyRoom(found)
    await countAttempt(client, this.#own)
    await streams.prepare(await this.#putBack.connected(), this.#putBack)
    await this.#putBackRows({ rows, found }, streams)
    await this.#confirmHeads()
    await slotMonitor.look()
    await this.#save(streams)
    log.info({ incidents: this.#ids(), events: this.#putBack.appended, confirmed: formatLsn(confirmed) }, 'repaired')
  }

  async #putBackRows(missing: Pick<PutBackRowsOptions, 'rows' | 'found'>, streams: AffectedStreams): Promise<void> {
    this.#rows = new PutBackRows({
      ...{ ...this.#options, ...missing, own: this.#own, putBack: this.#putBack },
      report: () => this.#report(),
    })
    await this.#rows.putBack(streams)
  }

  async #verifyRoom(missing: RowCount): Promise<void> {
    const { client, lineage } = this.#options
    const free = await readFreeMemory(await this.#putBack.connected(), lostStreamKeys(client, lineage.lineage))
    requireRoom(missing, this.#limit(), free, this.#ids()[0] ?? '')
  }

  /** What retention has emptied cannot be put back: said before anything is. */
  async #recordLostHistory(): Promise<void> {
    const { client, lineage, log } = this.#options
    const lost = await recordLostHistory(client, lineage.lineage, this.#ids()[0] ?? '')
    if (lost) log.warn(lost, 'events older than the outbox keeps may be missing: they cannot be put back')
  }

  /** A connection that was made by name may lead to another server than the one whose lock is held. */
  async #requireLock(): Promise<void> {
    const { client, stateStore } = this.#options
    if (await stateStore.holdsLock(client)) return
    throw lockLost()
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

  async #confirmHeads(): Promise<void> {
    const { config, connectRedis, lineage, ownership, report } = this.#options
    const { signal } = this.#putBack
    const heads = this.#putBack.heads()
    const barrier = new DurabilityBarrier(() => connectRedis(), lineage.lineage, ownership.session)
    const unmet = (error: Error) => report('blocked', 'durability', error.message)
    await confirmHeads(heads, { level: config.durability, barrier, signal, unmet })
    signal.throwIfAborted()
  }

  async #save(streams: AffectedStreams): Promise<void> {
    const { client, stateStore } = this.#options
    await savePutBackHeads(client, {
      ...this.#own,
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
    this.#options.metrics.repairPutBack(this.#putBack.appended)
    const known = this.#rows?.progress
    const progress = known && known.of > 0 ? describePutBack(known) : 'Looking for the missing events.'
    const reason = this.#gaps[0]?.reason ?? 'gap'
    this.#options.report('repairing', reason, `The relay repairs a gap from the outbox. ${progress}`)
  }
}
