import type pg from 'pg'
import { type Config, OWN_OUTBOX } from '../config/schema.js'
import { hasBucketDefault, MAX_WINDOW_BUCKETS } from '../postgres/outbox/buckets.js'
import { type OutboxColumn, readOutboxColumns } from '../postgres/outbox/columns.js'
import { readDataLimit } from '../postgres/outbox/data-limit.js'
import { type PublishedTable, readPublishedTable } from '../postgres/outbox/published-table.js'
import { type RetentionHolder, retentionHolders } from '../postgres/outbox/retention-holders.js'
import { hasRowsFromElsewhere } from '../postgres/outbox/row-xid.js'
import { childrenOf, parseTable } from '../postgres/outbox/table-name.js'
import { hasTxidIndex } from '../postgres/outbox/txid-index.js'
import { type UnloggedPartition, unloggedPartitionsOf } from '../postgres/outbox/unlogged-partitions.js'
import { findOmissions, type Omitted } from '../postgres/replication/publication.js'
import { readSlot, type Slot } from '../postgres/replication/slot.js'
import { type FoundSlot, findSlot } from '../postgres/replication/slot-creation.js'
import { type Migration, readMigrations } from '../postgres/setup/migration.js'
import { findRenamedSchema, type RenamedSchema } from '../postgres/setup/renamed-schema.js'
import { HALTING_COLUMNS, type HaltingIncident } from '../postgres/state/halting.js'
import { type Applied, classifyHistory, readHistory } from '../postgres/state/history.js'
import { type StoredLineage, serverIdentity, storedLineage } from '../postgres/state/lineage.js'
import { type RepairProgress, readRepairProgress } from '../postgres/state/repair-progress.js'
import { readTrimming } from '../postgres/state/trimming.js'

/** What `outrider setup` leaves in a database, as far as the role may see it. */
export interface SetupFacts {
  rights: Rights
  /** Undefined without a schema, or where the role may not read it. */
  applied: Applied[] | undefined
  known: Migration[]
  /** Looked for where there is no lineage of the slot. */
  renamed: RenamedSchema | undefined
  lineage: StoredLineage | undefined
  identity: { systemId: string; timeline: number } | undefined
  slot:
    | (FoundSlot & { failover: boolean | undefined; invalidation: string | undefined; state: Slot | undefined })
    | undefined
  /** Null: there is none of this name. */
  publicationState: string | null
  /** What it leaves out of the outbox table. */
  omitted: Omitted | undefined
  /** Open, and of a kind that halts the relay. */
  incidents: HaltingIncident[]
  /** Undefined: none is under way. */
  repair: RepairProgress | undefined
  /** Keys of the streams that were published to. */
  streams: string[]
  /** Streams without settings of their own are trimmed; undefined: there is no lineage. */
  trims: boolean | undefined
  /** The table that the configuration names; undefined: there is none. */
  outbox: OutboxFacts | undefined
  /** The table that the publication publishes, whatever its name is now. */
  published: PublishedTable | undefined
  /** Outrider's own table has the index that repairs read by. */
  txidIndex: boolean
  /** Outrider's own table has rows of transactions that this server has not begun; false where the index that tells is missing. */
  restoredRows: boolean
  /** What Outrider's own table is emptied by; undefined: not known. */
  buckets:
    | { isSetUp: boolean | undefined; seconds: number; predatesRetention: boolean; holders: RetentionHolder[] }
    | undefined
  /** Bytes that `data` of Outrider's own table may have; undefined without a limit. */
  dataLimit: number | undefined
}

export interface OutboxFacts {
  columns: OutboxColumn[]
  /** Tables that inherit from it and are no partitions. */
  children: string[]
  /** Row level security applies to this role: it may see a part of the rows. */
  hidden: boolean
  /** Its partitions whose rows never reach the WAL. */
  unlogged: UnloggedPartition[]
  /** Columns that it is partitioned by, at any level; null for an expression. `fixed`: a trigger keeps it as it is. */
  partitionKey: { column: string | null; fixed: boolean }[]
}

export interface Rights {
  replication: boolean
  /** Of outrider_relay, with or without inheriting its rights. */
  member: boolean
  /** The schema is there, and something was applied to it. */
  schema: boolean
  /** What the relay needs of it is allowed. */
  tables: boolean
  /** Tables whose rows it may not delete, and could do without. */
  unpruned: string[]
}

export async function readSetup(client: pg.ClientBase, config: Config): Promise<SetupFacts> {
  const rights = await readRights(client)
  const known = await readMigrations()
  const ask = async (sql: string) => (await client.query(sql)).rows
  const applied = rights.schema && rights.tables ? await readHistory(ask) : undefined
  // The newest tables are asked only where they are.
  const complete = applied !== undefined && classifyHistory(applied, known).missing.length === 0
  const slot = await findSlot(client, config.slot)
  // Before what is confirmed: the relay saves that first, so a slot that is read later may be beyond what was read.
  const slotState = slot && (await readSlot(client, config.slot))
  const lineage = complete ? await readLineage(client, config) : NO_LINEAGE
  const outbox = await readOutbox(client, config.outbox.table)
  const txidIndex = await hasTxidIndex(client)
  const isReadable = lineage.lineage !== undefined && txidIndex && outbox?.hidden === false
  return {
    rights,
    applied,
    known,
    renamed: lineage.lineage || (rights.schema && !complete) ? undefined : await findRenamedSchema(ask, config),
    slot: slot && { ...slot, ...(await slotDetails(client, config.slot)), state: slotState },
    identity: await serverIdentity(client).catch(() => undefined),
    outbox,
    dataLimit: await readDataLimit(client),
    txidIndex,
    restoredRows: isReadable && (await hasRowsFromElsewhere(client, 'outrider.outbox')),
    ...lineage,
  }
}

const NO_LINEAGE = {
  lineage: undefined,
  publicationState: null,
  omitted: undefined,
  incidents: [],
  repair: undefined,
  streams: [],
  trims: undefined,
  published: undefined,
  buckets: undefined,
}

async function readLineage(client: pg.ClientBase, config: Config) {
  const lineage = await storedLineage(client, config.slot)
  if (!lineage) return NO_LINEAGE
  const state = await client.query<{ state: string | null }>('select outrider.publication_state($1) as state', [
    lineage.publication,
  ])
  const incidents = await client.query<SetupFacts['incidents'][number]>(
    `select ${HALTING_COLUMNS} from outrider.incident
     where lineage = $1 and kind in ('gap', 'foreign') and closed_at is null order by incident.id`,
    [lineage.lineage],
  )
  const heads = await client.query<{ key: string }>(
    'select stream_key as key from outrider.head where lineage = $1 order by updated_at desc limit 100',
    [lineage.lineage],
  )
  return {
    lineage,
    publicationState: state.rows[0]!.state,
    omitted: await findOmissions(client, lineage, config.outbox),
    incidents: incidents.rows,
    repair: await readRepairProgress(client, lineage.lineage),
    streams: heads.rows.map(({ key }) => key),
    trims: (await readTrimming(client, lineage.lineage)).byDefault,
    published: await readPublishedTable(client, lineage.publication, lineage.outboxTable),
    buckets: await readBucketFacts(client, lineage.lineage, config),
  }
}

async function readBucketFacts(client: pg.ClientBase, own: string, config: Config): Promise<SetupFacts['buckets']> {
  const { rows } = await client.query<{ seconds: number; predatesRetention: boolean }>(
    `select outrider.bucket_seconds() as seconds,
       exists (select from outrider.lineage where predates_retention) as "predatesRetention"`,
  )
  const { seconds, predatesRetention } = rows[0]!
  // For a day: a lineage that was away for a moment is no finding.
  const heldMs = Math.min(config.retention, MAX_WINDOW_BUCKETS * seconds * 1000) + 86_400_000
  const isKept = config.outbox.table !== OWN_OUTBOX.table || config.retention === 0
  const holders = isKept ? [] : await retentionHolders(client, heldMs)
  return {
    ...{ isSetUp: await hasBucketDefault(client), seconds, predatesRetention },
    holders: holders.filter(({ lineage, reason, ageMs }) =>
      reason === 'gap' ? lineage !== own : reason === 'slot' || ageMs > heldMs,
    ),
  }
}

/** By what may be done rather than by membership: the owner of the tables needs no role. */
async function readRights(client: pg.ClientBase): Promise<Rights> {
  const { rows } = await client.query<Rights>(
    `with needed (name, privilege) as (
       values ('outbox', 'select'), ('lineage', 'select'), ('session', 'insert'), ('head', 'insert'), ('head', 'update'),
         ('checkpoint', 'insert'), ('checkpoint', 'delete'), ('incident', 'insert'), ('stream', 'insert'),
         ('migration', 'select')
     )
     select rolreplication or rolsuper or exists (
         select from pg_roles as r where r.rolname = 'rds_replication' and pg_has_role(r.oid, 'usage')
       ) as replication,
       exists (select from pg_roles as r where r.rolname = 'outrider_relay' and pg_has_role(r.oid, 'member')) as member,
       exists (select from pg_class as c where c.relname = 'migration' and c.relnamespace = n.oid) as schema,
       coalesce(
         has_schema_privilege(n.oid, 'usage') and (
           select bool_and(has_table_privilege(c.oid, needed.privilege))
           from needed join pg_class as c on c.relname = needed.name and c.relnamespace = n.oid
         ),
         false
       ) as tables,
       array(
         select c.relname::text from pg_class as c
         where c.relnamespace = n.oid and c.relname in ('incident', 'moved_event') and not has_table_privilege(c.oid, 'delete')
         order by c.relname
       ) as unpruned
     from pg_roles left join pg_namespace as n on nspname = 'outrider'
     where rolname = current_user`,
  )
  return rows[0]!
}

/** Columns that came with 17 and 16; as JSON, so that older servers do not mind the question. */
async function slotDetails(
  client: pg.ClientBase,
  name: string,
): Promise<{ failover: boolean | undefined; invalidation: string | undefined }> {
  const { rows } = await client.query<{ failover: boolean | null; invalidation: string | null }>(
    `select (to_jsonb(s) ->> 'failover')::boolean as failover, to_jsonb(s) ->> 'invalidation_reason' as invalidation
     from pg_replication_slots as s where slot_name = $1`,
    [name],
  )
  return { failover: rows[0]?.failover ?? undefined, invalidation: rows[0]?.invalidation ?? undefined }
}

async function readOutbox(client: pg.ClientBase, table: string): Promise<OutboxFacts | undefined> {
  const parsed = parseTable(table)
  const columns = await readOutboxColumns(client, parsed)
  if (!columns) return undefined
  const { rows } = await client.query<Omit<OutboxFacts, 'columns'>>(
    `select ${childrenOf('c.oid')} as children, ${unloggedPartitionsOf('c.oid')} as unlogged, row_security_active(c.oid) as hidden,
       (select coalesce(json_agg(json_build_object('column', attname, 'fixed', fixed) order by level, place), '[]')
        from (
          select attname, min(level) as level, min(place) as place
          from pg_partition_tree(c.oid) as tree join pg_partitioned_table on partrelid = tree.relid
            cross join unnest(partattrs::int2[]) with ordinality as key (attnum, place)
            left join pg_attribute as a on a.attrelid = partrelid and a.attnum = key.attnum and key.attnum > 0
          group by attname
        ) as key cross join lateral (select exists (
          select from pg_trigger as t join pg_proc as p on p.oid = tgfoid join pg_namespace as pn on pn.oid = pronamespace
          where tgrelid = c.oid and tgenabled <> 'D' and pn.nspname = 'outrider' and proname = 'refuse_move'
            and (key.attname is null or tgqual is null or exists (
              -- The columns that its condition names.
              select from pg_depend join pg_attribute as a on a.attrelid = refobjid and a.attnum = refobjsubid
              where classid = 'pg_trigger'::regclass and objid = t.oid and refobjid = c.oid and a.attname = key.attname
            ))
        ) as fixed) as trigger) as "partitionKey"
     from pg_class as c join pg_namespace as n on n.oid = relnamespace where nspname = $1 and relname = $2`,
    [parsed.schema, parsed.name],
  )
  return { columns, ...rows[0]! }
}
