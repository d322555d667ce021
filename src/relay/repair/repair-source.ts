import type pg from 'pg'
import type { Config } from '../../config/schema.js'
import { formatLsn, type Lsn, parseLsn } from '../../postgres/client/lsn.js'
import { describeOpenWriters } from '../../postgres/replication/slot-creation.js'
import { newestCheckpoints } from '../../postgres/state/checkpoints.js'
import type { OpenGap } from '../../postgres/state/gaps.js'
import type { RepairHalt } from '../../postgres/state/incident.js'
import type { Lineage } from '../../postgres/state/lineage.js'
import type { Metrics } from '../../telemetry/metrics.js'
import type { StateStore } from '../confirm/state-store.js'
import { HaltError } from '../errors.js'
import type { AliveKey } from '../sink/alive-key.js'
import { monitorUnreadSlot, SlotMonitor } from '../source/slot-monitor.js'
import type { SourceGap } from './affected-streams.js'
import type { PutBack } from './put-back.js'
import { recoverSlot } from './slot-recovery.js'
import { confirmedBefore, NO_BOUND } from './stream-bounds.js'

/** Times that another relay may be heard, at most 20 s each, before a person has to decide. */
const MAX_LISTENED = 15

export interface RepairSourceOptions {
  config: Config
  metrics: Metrics
  stateStore: StateStore
  lineage: Lineage
  client: pg.Client
  alive: AliveKey
  putBack: PutBack
  /** Aborted when the session ends. */
  signal: AbortSignal
  report(state: 'repairing' | 'blocked', reason: string, message: string): void
  saveHalt(halt: RepairHalt): Promise<void>
}

/** Slot and publication of a lineage whose gaps are repaired. */
export class RepairSource {
  readonly #options: RepairSourceOptions
  #failure: unknown

  constructor(options: RepairSourceOptions) {
    this.#options = options
  }

  /** What `monitor` has found: whatever else failed was broken off by it. Undefined: nothing. */
  get failure(): unknown {
    return this.#failure
  }

  /** A copy of this database has no slot: it must not repair itself into the streams of the original. */
  async requireSilence(gaps: readonly OpenGap[]): Promise<void> {
    const { alive, putBack, report, saveHalt, signal } = this.#options
    const gap = gaps.find(({ reason }) => reason === 'slot_missing' || reason === 'slot_lost')
    if (!gap) return
    report('repairing', gap.reason, 'Listens for 20 s whether another relay publishes to these streams.')
    for (let listened = 1; !(await alive.allAreSilent(await putBack.connected())); listened++) {
      signal.throwIfAborted()
      const message =
        'The slot is gone, and another relay publishes to the same streams: of a database that this one is a copy of, or of a copy. ' +
        'Nothing is written. Stop the other relay if this database is to publish; else stop this one. `outrider adopt` starts a ' +
        'new lineage for a copy.'
      if (listened === MAX_LISTENED) throw new HaltError('alive_elsewhere', message)
      await saveHalt({ reason: 'alive_elsewhere', message, commands: [] })
      report('blocked', 'alive_elsewhere', message)
    }
  }

  /** Resolves with the LSN from which WAL is read afterwards. */
  async recover(gaps: readonly OpenGap[]): Promise<Lsn> {
    const { client, config, lineage, stateStore, report } = this.#options
    return recoverSlot({
      ...{ client, lineage, gaps, mapping: config.outbox, walsender: stateStore.walsender },
      waiting: () =>
        void stateStore
          .inTurn(describeOpenWriters)
          .then((writers) => report('repairing', 'slot_missing', `A new slot waits for open transactions: ${writers}.`))
          .catch(() => {}),
    })
  }

  /**
   * Nothing reads the slot meanwhile, and a repair may take hours: that the slot is gone, or that rows pass the publication unseen, must
   * be noticed before its end. `confirmed`: from where WAL is read afterwards.
   */
  monitor(confirmed: Lsn): SlotMonitor {
    const { client, lineage, metrics, putBack, stateStore } = this.#options
    const monitor = new SlotMonitor({
      ...{ stateStore, metrics, look: monitorUnreadSlot },
      lineage: { ...lineage, confirmedLsn: formatLsn(confirmed) },
      failed: (error) => {
        if (putBack.signal.aborted) return
        this.#failure = error
        putBack.fail(error)
        client.connection.stream.destroy()
      },
    })
    monitor.start(putBack.signal)
    return monitor
  }

  /** The gap of slot or publication, with what was published before it: by the newest checkpoint from before what was confirmed then. */
  async gapOf(all: readonly OpenGap[]): Promise<SourceGap | undefined> {
    const { client, lineage } = this.#options
    const gaps = all.filter(({ reason }) => reason !== 'stream_behind')
    if (gaps.length === 0) return undefined
    const confirmed = confirmedBefore(gaps, parseLsn(lineage.confirmedLsn))
    const [bound = NO_BOUND] =
      confirmed === undefined ? [] : await newestCheckpoints(client, lineage.lineage, [confirmed])
    return { id: gaps[0]!.id, bound }
  }
}
