import pg from 'pg'
import { type Config, OWN_OUTBOX } from '../config/schema.js'
import { missingColumns, unfitColumns } from '../postgres/outbox/columns.js'
import { endInheritance } from '../postgres/outbox/published-table.js'
import { parseTable, quoteTable } from '../postgres/outbox/table-name.js'
import { describeUnlogged, endUnlogged } from '../postgres/outbox/unlogged-partitions.js'
import { renameBack } from '../postgres/setup/rename-back.js'
import { blocker, type Finding, INCIDENTS, inConfiguration, inSql, onShell, SETUP, warning } from './finding.js'
import type { SetupFacts } from './setup-facts.js'

export const isMapped = ({ outbox }: Config): boolean => outbox.table !== OWN_OUTBOX.table

/** The table and its columns, as far as the mapping needs them; before setup, too. Pure. */
export function assessOutbox(facts: SetupFacts, config: Config): Finding[] {
  const { outbox } = config
  if (!facts.outbox) {
    // Outrider's own comes with setup; of one that was renamed, `assessRecorded` or the incident says what to do.
    if (!isMapped(config) || (facts.published && facts.lineage?.outboxTable === outbox.table)) return []
    return [
      blocker({
        id: 'outbox-table-missing',
        is: `no table ${outbox.table}`,
        expected: 'the table that outbox.table names; upper and lower case count',
        why: 'there is nothing to publish from',
        fix: [inConfiguration('outbox:\n  table: <schema>.<table>')],
      }),
    ]
  }
  return [
    missing(facts.outbox, config),
    unfit(facts.outbox, config),
    inherited(facts.outbox, facts, config),
    unlogged(facts.outbox, facts, config),
  ].filter((finding) => finding !== undefined)
}

type Outbox = NonNullable<SetupFacts['outbox']>

function missing({ columns }: Outbox, { outbox }: Config): Finding | undefined {
  const missing = missingColumns(outbox, columns)
  if (missing.length === 0) return undefined
  return blocker({
    id: 'outbox-column-missing',
    is: `${outbox.table} has no column ${missing.map(([column, setting]) => `${column} (${setting})`).join(', ')}`,
    expected: `columns that are there: ${columns.map(({ name }) => name).join(', ')}`,
    why: 'the relay reads the event from them',
    fix: [mapOther(missing.map(([, setting]) => setting))],
  })
}

function unfit({ columns }: Outbox, { outbox }: Config): Finding | undefined {
  const unfit = unfitColumns(outbox, columns)
  if (unfit.length === 0) return undefined
  return blocker({
    id: 'outbox-column-unfit',
    is: unfit.map(({ column, setting, found }) => `${setting} names ${column}, ${found}`).join('; '),
    expected: unfit.map(({ setting, accepted }) => `${setting}: ${accepted}`).join('; '),
    why: 'the relay could not publish such a column, or workers could not read it',
    fix: [mapOther(unfit.map(({ setting }) => setting))],
  })
}

const mapOther = (settings: string[]) =>
  inConfiguration(
    `outbox:\n  columns:\n    ${settings.map((setting) => `${setting.split('.').at(-1)}: <column>`).join('\n    ')}`,
  )

function inherited({ children }: Outbox, { incidents }: SetupFacts, { outbox }: Config): Finding | undefined {
  // Recorded already: the incident says what to do.
  if (children.length === 0 || incidents.some(({ reason }) => reason === 'outbox_inherited')) return undefined
  return blocker({
    id: 'outbox-inherited',
    is: `${children.join(', ')} inherits from ${outbox.table}`,
    expected: 'a table without INHERITS children; partitions are fine',
    why: 'rows of such a table look like events and are not published',
    fix: [inSql(endInheritance(outbox.table, children))],
  })
}

function unlogged({ unlogged }: Outbox, { incidents }: SetupFacts, { outbox }: Config): Finding | undefined {
  // Recorded already: the incident says what to do.
  if (unlogged.length === 0 || incidents.some(({ reason }) => reason === 'outbox_unlogged')) return undefined
  return blocker({
    id: 'outbox-unlogged',
    is: `partitions of ${outbox.table} have rows that never reach the WAL: ${describeUnlogged(unlogged)}`,
    expected: 'partitions that are logged, and tables of this server',
    why: 'the relay reads WAL, so such rows are not published; a crash empties an unlogged partition',
    fix: [inSql(endUnlogged(unlogged))],
  })
}

/** What setup has recorded of the table, against the table that there is now. Pure. */
export function assessRecorded(facts: SetupFacts, config: Config): Finding[] {
  return [
    name(facts),
    partitionKey(facts, config),
    hidden(facts, config),
    txidIndex(facts, config),
    restoredRows(facts, config),
    dataLimit(facts, config),
  ].filter((finding) => finding !== undefined)
}

/** The publication follows the oid, applications follow the name. */
function name({ lineage, published, publicationState, incidents }: SetupFacts): Finding | undefined {
  if (!lineage || !published) return undefined
  // Recorded already: the incident says what to do.
  if (incidents.some(({ reason }) => reason === 'outbox_replaced' || reason === 'outbox_renamed')) return undefined
  if (published.table === lineage.outboxTable) {
    // A publication that was altered is a gap of its own, and closing that one records the table.
    if (lineage.outboxOids.length > 0 || publicationState !== lineage.publicationState) return undefined
    return blocker({
      id: 'outbox-renamed',
      is: `it is not known whether ${lineage.outboxTable} kept its name while an earlier version ran`,
      expected: 'a table whose oid was recorded',
      why: 'that version may have skipped rows',
      fix: [onShell('outrider relay', ', which records the gap'), INCIDENTS],
    })
  }
  const other = published.namesake?.isTable
  const namesake = published.namesake && (other ? 'table' : 'view')
  const back = renameBack({ expected: lineage.outboxTable, published: published.table, namesake })
  return blocker({
    id: other ? 'outbox-replaced' : 'outbox-renamed',
    is: `publication ${lineage.publication} publishes ${published.table} (oid ${published.oid})${other ? `, and ${lineage.outboxTable} is another table (oid ${published.namesake?.oid})` : ''}`,
    expected: `${lineage.outboxTable}, the name that was set up`,
    why: other ? 'rows of the other table are not decoded' : 'the relay halts until name and setup agree',
    fix: [
      { how: 'In SQL, as its owner: back to the name that was set up', text: back },
      ...(other
        ? [onShell('outrider incidents', ', once its rows are inserted into the outbox table')]
        : [inConfiguration(`outbox:\n  table: ${published.table}`), SETUP]),
    ],
  })
}

/** An UPDATE that moves a row to another partition is decoded as an INSERT. */
function partitionKey({ outbox }: SetupFacts, { outbox: mapping }: Config): Finding | undefined {
  if (!outbox || mapping.table === OWN_OUTBOX.table) return undefined
  const constant = new Set([mapping.columns.id, mapping.columns.time])
  const changing = outbox.partitionKey.filter(({ column }) => column === null || !constant.has(column))
  const open = changing.filter(({ fixed }) => !fixed)
  if (open.length === 0) return undefined
  // Those that are fixed, too: the trigger may be this one, with fewer columns.
  const moved = changing.flatMap(({ column }) =>
    column === null ? [] : `old.${pg.escapeIdentifier(column)} is distinct from new.${pg.escapeIdentifier(column)}`,
  )
  return warning({
    id: 'outbox-partition-key',
    is: `${mapping.table} is partitioned by ${open.map(({ column }) => column ?? 'an expression').join(', ')}`,
    expected: 'a partition key that never changes, such as the id or the time of the event',
    why: 'an UPDATE that moves a row to another partition publishes its event again',
    fix: open.some(({ column }) => column === null)
      ? []
      : [
          {
            how: 'In SQL, as the owner of the table with USAGE on schema outrider: refuse such an UPDATE',
            text: `create or replace trigger outrider_partition_is_fixed before update on ${quoteTable(parseTable(mapping.table))} for each row when (${moved.join(' or ')}) execute function outrider.refuse_move();`,
          },
        ],
  })
}

/** WAL has every row, whatever a policy says; of a team's own table the relay reads nothing else. */
function hidden({ outbox }: SetupFacts, { outbox: mapping }: Config): Finding | undefined {
  if (!outbox?.hidden || mapping.table !== OWN_OUTBOX.table) return undefined
  return warning({
    id: 'outbox-row-security',
    is: `row level security of ${mapping.table} applies to this role`,
    expected: 'a role that reads every row, as the owner of the table and a role with BYPASSRLS do',
    why: 'a repair puts back rows of the table, and halts where some may be hidden; `audit` and `find` fail',
    fix: [inSql(`alter table ${quoteTable(parseTable(mapping.table))} disable row level security;`)],
  })
}

function txidIndex({ txidIndex }: SetupFacts, config: Config): Finding | undefined {
  if (isMapped(config) || txidIndex) return undefined
  return warning({
    id: 'outbox-txid-index',
    is: 'outrider.outbox has no index by inserting transactions, or not in each partition',
    expected: 'the index outrider.outbox_txid',
    why: 'a repair reads all rows without it, and nothing is published meanwhile',
    fix: [onShell('outrider setup --index txid', ', as the role that owns the schema; writers continue meanwhile')],
  })
}

/** The index tells it in milliseconds. */
function restoredRows({ restoredRows }: SetupFacts, config: Config): Finding | undefined {
  if (isMapped(config) || !restoredRows) return undefined
  return warning({
    id: 'outbox-restored-rows',
    is: 'outrider.outbox has rows with transaction ids that this server has not assigned',
    expected: 'ids of this server; these rows were restored from another cluster',
    why: 'a repair does not put their events back, and their partition is not emptied',
    fix: [SETUP],
  })
}

function dataLimit({ rights, dataLimit }: SetupFacts, config: Config): Finding | undefined {
  if (isMapped(config) || !rights.schema || dataLimit === config.maxEventBytes) return undefined
  return warning({
    id: 'outbox-data-limit',
    is:
      dataLimit === undefined
        ? 'outrider.outbox takes data of any size'
        : `outrider.outbox takes data of at most ${dataLimit} bytes`,
    expected: `${config.maxEventBytes} bytes, as maxEventBytes`,
    why: 'a payload that is too large should fail at its INSERT, not in the relay',
    fix: [SETUP],
  })
}
