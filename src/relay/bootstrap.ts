import type pg from 'pg'
import { VERSION } from '../base/version.js'
import { type Config, partitionsOf } from '../config/schema.js'
import { endPostgres } from '../postgres/client/connect.js'
import { type Lsn, parseLsn } from '../postgres/client/lsn.js'
import { requireFitColumns } from '../postgres/outbox/columns.js'
import { parseTable } from '../postgres/outbox/table-name.js'
import { parseTimelineHistory, type TimelineHistory } from '../postgres/replication/timeline.js'
import { type OpenGap, openGaps } from '../postgres/state/gaps.js'
import { currentLineage, type Lineage } from '../postgres/state/lineage.js'
import { fixPartitions, readPartitions } from '../postgres/state/partitions.js'
import type { RedisClient } from '../redis/client/connect.js'
import { connectPrimary } from '../redis/client/primary.js'
import type { Logger } from '../telemetry/log.js'
import type { Metrics } from '../telemetry/metrics.js'
import { connectRepair, StateStore } from './confirm/state-store.js'
import { GapError, HaltError, RepairedError } from './errors.js'
import { haltFor, verifyServer, verifySource } from './identity.js'
import type { SettlingRepair } from './repair/awaited-rows.js'
import { GapRepair } from './repair/repair.js'
import { firstUndecided, planRepair } from './repair/repair-plan.js'
import { readSettling, reopenIfFailedOver } from './repair/settling.js'
import { lineageMissing, verifySchema } from './schema-check.js'
import { AliveKey, renewsAliveKey } from './sink/alive-key.js'
import { removeStreamsFoundAgain } from './sink/found-again.js'
import type { HeadOwnership } from './sink/head-ownership.js'
import { chainStart, isOfOlderTimeline, recordPhantom, type ServerWal } from './sink/server-wal.js'
import { type ReplicationQuery, waitForLock } from './source/leader-lock.js'
import type { KnownTables } from './source/row-router.js'
import { measureSlot } from './source/slot-monitor.js'
import type { Walsender } from './source/walsender-connection.js'
import { requireConfiguredTable, skippedTables, verifyTable, verifyWhole } from './table-check.js'

/** Everything that a session knows and owns once it may publish. It does not change. */
export interface Leadership {
  readonly session: string
  readonly lineage: Lineage
  /** The timelines of the server, the end of its WAL, and the position that the slot has confirmed. */
  readonly server: Readonly<ServerWal>
  readonly walsender: Walsender
  /** The number of partitions of each stream that has any. */
  readonly partitions: Readonly<Record<string, number>>
  readonly tables: KnownTables
  readonly stateStore: StateStore
  /** The repair whose transactions are awaited. */
  readonly settling: SettlingRepair | undefined
  readonly alive: AliveKey
  readonly ownership: HeadOwnership
  readonly connectRedis: (commandTimeout?: number) => Promise<RedisClient>
}

export interface BootstrapOptions {
  config: Config
  log: Logger
  metrics: Metrics
  session: string
  walsender: Walsender
  /** Aborted when the session is to end: it stops waiting for the lock. */
  leaving: AbortSignal
  /** Aborted when the session has ended. */
  ended: AbortSignal
  report(role: 'standby' | 'active', state: string, reason?: string, message?: string): void
  /** An ordinary connection for the state store. */
  connectPostgres(): Promise<pg.Client>
  /** The lineage is known: a halt from here on is an incident of it. */
  lineageFound(stateStore: StateStore): void
}

/**
 * Waits for the lock on the replication connection, verifies that this database may publish, and records the session.
 * Rejects where it may not, and when `leaving` aborts.
 */
export async function bootstrap(query: ReplicationQuery, options: BootstrapOptions): Promise<Leadership> {
  const { config, metrics, session, walsender } = options
  await becomeActive(query, options)
  const postgres = await options.connectPostgres()
  const { systemId, history } = await identifySystem(query)

  const lineage = await currentLineage(postgres, config.slot)
  if (!lineage) throw lineageMissing(config.slot)
  // Before anything halts: while nothing is read WAL piles up, and the metrics must show it.
  await measureSlot(postgres, lineage, metrics)
  const stateStore = new StateStore(postgres, lineage, session, walsender.pid)
  options.lineageFound(stateStore)
  requireConfiguredTable(config.outbox, lineage)
  await verifyServer(postgres, lineage, { systemId, timeline: history.current })
  await reopenIfFailedOver(stateStore, lineage, history.current)
  const isPlanned = (await planRepair(postgres, lineage, config)) !== undefined
  const known = await openGaps(postgres, lineage.lineage)
  if (!isPlanned) {
    // A gap that was found before, and is not repaired now, halts: else the next session would find it again, and so on.
    await haltingOn(known, async () => {
      await verifySource(postgres, lineage)
      await verifyWhole(postgres, lineage, config.outbox)
    })
  }
  await verifyTable(postgres, lineage)
  await requireFitColumns(postgres, config.outbox, parseTable(config.outbox.table))
  await fixPartitions(postgres, partitionsOf(config.streams))
  const server = { history, lsn: await readServerLsn(postgres), confirmed: parseLsn(lineage.confirmedLsn) }

  const alive = createAliveKey(stateStore, options)
  const ownership = createOwnership(stateStore, server, session, alive)
  const connectRedis = (timeout?: number) => connectPrimary(config.redis, `outrider ${config.slot}`, timeout)
  await removeStreamsFoundAgain(postgres, {
    ...{ lineage, ownership, connect: connectRedis },
    found: (incident, streams, isClosed) => {
      const text = isClosed ? 'gap closed: found again' : 'streams found again'
      options.log.info({ incident, streams: streams.slice(0, 20), count: streams.length }, text)
    },
  })
  const left = firstUndecided(await openGaps(postgres, lineage.lineage), config)
  if (left && !isPlanned) {
    await haltingOn([left], async () => {
      throw await haltFor(postgres, lineage, { ...left, kind: 'gap', stream: null })
    })
  }
  const begin = async () => {
    if (!(await stateStore.begin(VERSION, history.current, query))) return
    options.log.warn('session not confirmed by a synchronous standby within 5 s, continuing')
  }
  const partitions = await readPartitions(postgres)
  if (isPlanned) {
    if (left) await repair({ lineage, server, stateStore, alive, ownership, partitions, connectRedis, begin }, options)
    throw new RepairedError('The gaps are repaired: the next session streams.')
  }
  await begin()
  const tables = { ours: lineage.outboxOids, skipped: await skippedTables(postgres, lineage) }
  const settling = await readSettling(postgres, lineage)
  return {
    session,
    lineage,
    server,
    walsender,
    partitions,
    tables,
    stateStore,
    settling,
    alive,
    ownership,
    connectRedis,
  }
}

/** On a connection of its own: what it asks may take long, and a stop breaks it off. */
async function repair(
  known: Pick<
    Leadership,
    'lineage' | 'server' | 'stateStore' | 'alive' | 'ownership' | 'partitions' | 'connectRedis'
  > & {
    begin(): Promise<void>
  },
  { config, log, metrics, leaving, report }: BootstrapOptions,
): Promise<void> {
  const client = await connectRepair(config.postgres, `outrider ${config.slot} repair`)
  const breakOff = () => client.connection.stream.destroy()
  leaving.addEventListener('abort', breakOff, { once: true })
  try {
    await new GapRepair({
      ...{ ...known, config, log, metrics, client, signal: leaving },
      report: (state, reason, message) => report('active', state, reason, message),
    }).run()
  } finally {
    leaving.removeEventListener('abort', breakOff)
    await endPostgres(client)
  }
}

async function haltingOn(known: readonly OpenGap[], verify: () => Promise<void>): Promise<void> {
  try {
    await verify()
  } catch (error) {
    const isKnown = error instanceof GapError && known.some(({ id }) => id === error.incident)
    throw isKnown ? new HaltError(error.reason, error.message) : error
  }
}

async function readServerLsn(postgres: pg.ClientBase): Promise<Lsn> {
  const { rows } = await postgres.query<{ lsn: string }>('select pg_current_wal_insert_lsn()::text as lsn')
  return parseLsn(rows[0]!.lsn)
}

async function becomeActive(query: ReplicationQuery, { config, leaving, report }: BootstrapOptions): Promise<void> {
  // Before the lock, so that a relay which could not publish is no standby: a rollout waits for it, and the others continue.
  await verifySchema(query, config)
  await waitForLock(query, config.slot, leaving, () => report('standby', 'waiting'))
  leaving.throwIfAborted()
  await verifySchema(query, config)
  report('active', 'starting')
}

async function identifySystem(query: ReplicationQuery): Promise<{ systemId: string; history: TimelineHistory }> {
  const [identity] = await query('IDENTIFY_SYSTEM')
  const timeline = Number(identity?.timeline)
  const [file] = timeline > 1 ? await query(`TIMELINE_HISTORY ${timeline}`) : []
  return { systemId: String(identity?.systemid), history: parseTimelineHistory(timeline, String(file?.content ?? '')) }
}

function createAliveKey(stateStore: StateStore, { session, ended, log }: BootstrapOptions): AliveKey {
  let isLogged = false
  return new AliveKey({
    lineage: stateStore.lineage.lineage,
    session,
    owns: (other) => stateStore.owns(other),
    signal: ended,
    refused: (error) => {
      if (!isLogged) log.warn({ err: error }, 'alive key refused')
      isLogged = true
    },
  })
}

function createOwnership(stateStore: StateStore, server: ServerWal, session: string, alive: AliveKey): HeadOwnership {
  const { lineage } = stateStore
  return {
    lineage: lineage.lineage,
    session,
    owns: (other) => stateStore.owns(other),
    numberOf: (other) => stateStore.numberOf(other),
    chain: (head, saved) => chainStart(head, saved, server),
    savedPosition: async (key) => (await stateStore.savedHeadsOf([key])).get(key)?.position,
    mayBeUnrecorded: (other, position) => renewsAliveKey(other) && isOfOlderTimeline(position, server),
    othersAreSilent: (client) => alive.othersAreSilent(client),
    tookOver: (key, head, other) => recordPhantom(stateStore, lineage, server, key, head, other),
  }
}
