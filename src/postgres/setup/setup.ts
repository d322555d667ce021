import type pg from 'pg'
import { ExitCode, OutriderError } from '../../base/failure.js'
import { type OutboxMapping, OWN_OUTBOX } from '../../config/schema.js'
import { requireDecoding } from '../client/server.js'
import { requireColumns } from '../outbox/columns.js'
import { limitData } from '../outbox/data-limit.js'
import { requirePublishable } from '../outbox/publishable.js'
import { readPublishedTable } from '../outbox/published-table.js'
import { grantReading, parseTable } from '../outbox/table-name.js'
import { ensurePublication } from '../replication/publication.js'
import { findSlot, foreignSlot } from '../replication/slot-creation.js'
import { openIncident } from '../state/incidents.js'
import {
  createLineage,
  finishLineage,
  type Lineage,
  otherLineages,
  type StoredLineage,
  serverIdentity,
  storedLineage,
} from '../state/lineage.js'
import { fixPartitions } from '../state/partitions.js'
import { setBucketDefault } from './bucket-default.js'
import { setBucketWidth } from './bucket-width.js'
import { type Granted, type Grants, grantRoles } from './grants.js'
import { migrate } from './migrate.js'
import { describeRenamedSchema, findRenamedSchema } from './renamed-schema.js'
import { RENEWAL_BLOCKED, renewTxids } from './restored-rows.js'

export interface SetupOptions {
  slot: string
  publication: string
  /** Undefined: what an earlier setup stored, else `/<database>`. */
  source: string | undefined
  /** `schema.table` */
  outboxTable: string
  /** How rows become events: the columns are looked at where it is given. */
  mapping?: OutboxMapping
  /** Bytes that `data` of Outrider's own table may have; undefined leaves it as it is. */
  maxEventBytes?: number
  /** How long rows of Outrider's own table are kept, in milliseconds; undefined leaves it as it is. */
  retention?: number
  /** Streams to be partitioned. */
  partitions: ReadonlyMap<string, number>
  grants?: Grants
  /** Whether a new slot may stand beside another one of the same table. */
  acceptFindings?: boolean
  /** How long, in ms, the slot may wait for the write transactions that are open now. */
  lockTimeout?: number
}

export interface SetupReport {
  /** Names of the migrations that were applied. */
  migrations: string[]
  /** Names of those that a newer version has applied; they serve this one. */
  newer: string[]
  grants: Granted[]
  publication: 'created' | 'present'
  slot: 'created' | 'present'
  /** Partitioned streams that are new. */
  streams: string[]
  lineage: Lineage
  /** Rows of another cluster that have a transaction id of this one now. */
  renewed: number
  /** What a person should look at. */
  findings: string[]
}

/**
 * Brings a database to where the relay can run, and says what was there already. Safe to run again, also after it was
 * interrupted anywhere: the slot comes last, and a lineage that had one never gets another.
 */
export async function setUp(client: pg.ClientBase, options: SetupOptions): Promise<SetupReport> {
  await requireDecoding(client)
  await requireUnclaimed(client, options)
  const { applied, newer } = await migrate(client)
  const stored = await storedLineage(client, options.slot)
  if (stored) await requireSame(client, stored, options)
  else await requireNew(client, options)

  const table = parseTable(options.outboxTable)
  await requirePublishable(client, table)
  if (options.mapping) await requireColumns(client, options.mapping, table)
  // Before the slot, which may wait long: a relay that was started meanwhile reads the schema to see how far this is.
  const grants = await grantRoles(client, options.grants ?? {})
  if (options.outboxTable !== OWN_OUTBOX.table) await grantReading(client, table)
  else if (options.maxEventBytes !== undefined) await limitData(client, options.maxEventBytes)
  const streams = await fixPartitions(client, options.partitions)
  if (options.retention !== undefined) await setBucketWidth(client, options.retention)
  const inUse = await setBucketDefault(client)
  const publication = await ensurePublication(client, options.publication, table)
  // Before the slot: what is there already is not published by a new lineage.
  const { renewed, isBlocked } = await renewTxids(client, options)
  const report = { migrations: applied, newer, grants, publication, streams, renewed }
  const findings = [...(inUse === undefined ? [] : [inUse]), ...(isBlocked ? [RENEWAL_BLOCKED] : [])]

  if (!stored) {
    const lineage = await createLineage(client, { ...options, source: await sourceOf(client, options) })
    return { ...report, slot: 'created', lineage, findings: [...findings, ...(await describeOthers(client, lineage))] }
  }
  const named = { ...stored, outboxTable: options.outboxTable }
  await recordName(client, named)
  if (named.confirmedLsn === undefined) {
    const lineage = await finishLineage(client, named, options.lockTimeout)
    return { ...report, slot: 'created', lineage, findings: [...findings, ...(await describeOthers(client, lineage))] }
  }
  const lineage = { ...named, confirmedLsn: named.confirmedLsn }
  findings.push(...(await inspect(client, lineage, publication)))
  return { ...report, slot: 'present', lineage, findings }
}

async function sourceOf(client: pg.ClientBase, { source }: SetupOptions): Promise<string> {
  if (source !== undefined) return source
  const { rows } = await client.query<{ database: string }>('select current_database() as database')
  return `/${rows[0]!.database}`
}

/**
 * A slot without a lineage is someone else's: what it has confirmed is unknown here. Asked before anything is changed: where
 * the schema was renamed, the lineage is in it, and a second schema would be in the way.
 */
async function requireUnclaimed(client: pg.ClientBase, options: SetupOptions): Promise<void> {
  const { rows } = await client.query<{ there: boolean }>("select to_regclass('outrider.lineage') is not null as there")
  // No more columns than the oldest schema has: it is not migrated yet.
  const known = 'select from outrider.lineage where slot = $1 and retired_at is null'
  if (rows[0]?.there && (await client.query(known, [options.slot])).rowCount) return
  const renamed = await findRenamedSchema(async (sql) => (await client.query(sql)).rows, options)
  if (renamed) {
    throw new OutriderError(`Expected the schema outrider, ${describeRenamedSchema(renamed)} Nothing was changed.`)
  }
  const slot = await findSlot(client, options.slot)
  if (slot) throw foreignSlot(options.slot, slot)
}

/** A second slot of the same table is hardly ever meant: it would hold WAL until someone missed it. */
async function requireNew(client: pg.ClientBase, options: SetupOptions): Promise<void> {
  const [other] = await othersOf(client, options)
  if (!other || options.acceptFindings) return
  throw new OutriderError(
    `OUTRIDER_SLOT: expected a table that no other slot is set up for, found that ${options.outboxTable} is published ` +
      `through slot ${other.slot}. Slot ${options.slot} was not created. To continue with that one, set OUTRIDER_SLOT=${other.slot}; ` +
      `if it is no longer used, run \`outrider teardown\` with OUTRIDER_SLOT=${other.slot}, then \`outrider setup\`; to have ` +
      'both on purpose, each with a Redis of its own, run `outrider setup --accept-findings`.',
    { exitCode: ExitCode.usage },
  )
}

async function requireSame(client: pg.ClientBase, stored: StoredLineage, options: SetupOptions): Promise<void> {
  const { outboxTable } = stored
  const renamed = outboxTable !== options.outboxTable && (await isRenamed(client, stored, options.outboxTable))
  const fixed: [string, string, string | undefined, string][] = [
    ['OUTRIDER_SOURCE', stored.source, options.source, 'Consumers deduplicate by source and id'],
    ['OUTRIDER_PUBLICATION', stored.publication, options.publication, 'Another publication may leave a hole'],
    [
      'outbox.table',
      renamed ? options.outboxTable : outboxTable,
      options.outboxTable,
      'A slot that changes its table leaves a hole',
    ],
  ]
  for (const [setting, expected, found, why] of fixed) {
    if (found === undefined || found === expected) continue
    throw new OutriderError(
      `${setting}: expected ${expected}, as slot ${stored.slot} was set up, found ${found}. ${why}, so it is fixed at setup. ` +
        'Restore it; or, to start again with another, stop the relay and run `outrider teardown`, then `outrider setup`.',
      { exitCode: ExitCode.usage },
    )
  }
  await requireSameServer(client, stored)
  if (stored.confirmedLsn !== undefined && !(await findSlot(client, stored.slot))?.here) {
    throw new OutriderError(
      `Expected slot ${stored.slot} of lineage ${stored.lineage} in this database, found none: events committed after ` +
        `${stored.confirmedLsn} may never reach Redis. Setup does not create it again, because that would hide them. ` +
        'Read `outrider incidents`; `outrider adopt` starts a new lineage and says which events it leaves out.',
    )
  }
}

/** Whether the table that this lineage publishes has the name now: the same table, so nothing is missed. */
async function isRenamed(client: pg.ClientBase, stored: StoredLineage, name: string): Promise<boolean> {
  const found = await readPublishedTable(client, stored.publication, name)
  return found?.table === name && stored.outboxOids.includes(found.oid)
}

async function requireSameServer(client: pg.ClientBase, stored: StoredLineage): Promise<void> {
  const server = await serverIdentity(client)
  if (server.systemId !== stored.systemId || server.timeline < stored.timeline) {
    throw new OutriderError(
      `Expected the server of lineage ${stored.lineage} (system ${stored.systemId}, timeline ${stored.timeline} or later), ` +
        `found system ${server.systemId}, timeline ${server.timeline}: this database was restored, upgraded or copied. ` +
        'Is the URL right? Then `outrider adopt` starts a new lineage and says which events it leaves out.',
    )
  }
}

async function inspect(client: pg.ClientBase, lineage: Lineage, publication: 'created' | 'present'): Promise<string[]> {
  const findings = await describeOthers(client, lineage)
  if (publication === 'created') {
    const id = await openIncident(client, {
      lineage: lineage.lineage,
      kind: 'gap',
      reason: 'publication_missing',
      detail: { publication: lineage.publication, confirmed: lineage.confirmedLsn, found_by: 'outrider setup' },
    })
    findings.push(
      `The publication ${lineage.publication} was missing and has been created again. Events committed meanwhile may have ` +
        `been skipped: see \`outrider incidents show ${id}\`.`,
    )
  }
  return findings
}

/** The name of a table that was renamed. Its oid is not recorded here: where none is, rows may have passed unseen. */
async function recordName(client: pg.ClientBase, { lineage, outboxTable }: StoredLineage): Promise<void> {
  await client.query('update outrider.lineage set outbox_table = $2 where lineage = $1 and outbox_table <> $2', [
    lineage,
    outboxTable,
  ])
}

async function describeOthers(client: pg.ClientBase, lineage: Lineage): Promise<string[]> {
  return (await othersOf(client, lineage)).map(
    ({ slot, outboxTable }) =>
      `${outboxTable} is published through slot ${slot} as well: relays of both on one Redis double every event. ` +
      `If that one is no longer used, run \`outrider teardown\` with OUTRIDER_SLOT=${slot}.`,
  )
}

/** The other lineages of the same table. */
async function othersOf(
  client: pg.ClientBase,
  { slot, outboxTable }: Pick<Lineage, 'slot' | 'outboxTable'>,
): Promise<StoredLineage[]> {
  return (await otherLineages(client, slot)).filter((other) => other.outboxTable === outboxTable)
}
