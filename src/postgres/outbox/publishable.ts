import type pg from 'pg'
import { ExitCode, OutriderError } from '../../base/failure.js'
import { endInheritance } from './published-table.js'
import { childrenOf, type TableName } from './table-name.js'
import { describeUnlogged, endUnlogged, type UnloggedPartition, unloggedPartitionsOf } from './unlogged-partitions.js'

/** Throws an OutriderError unless it is a table whose inserts are written to WAL, so that they can be published. */
export async function requirePublishable(client: pg.ClientBase, { schema, name }: TableName): Promise<void> {
  const { rows } = await client.query<{
    kind: string
    persistence: string
    children: string[]
    unlogged: UnloggedPartition[]
  }>(
    `select relkind as kind, relpersistence as persistence, ${childrenOf('c.oid')} as children,
       ${unloggedPartitionsOf('c.oid')} as unlogged
     from pg_class as c join pg_namespace as n on n.oid = relnamespace
     where nspname = $1 and relname = $2`,
    [schema, name],
  )
  const table = rows[0]
  const found = !table
    ? 'nothing of this name; upper and lower case count'
    : !'rp'.includes(table.kind)
      ? 'something that is not a table'
      : table.persistence !== 'p'
        ? 'an unlogged or temporary table, whose rows never reach the WAL'
        : table.children.length > 0
          ? `that ${table.children.join(', ')} inherits from it: rows of such a table are not published. Use partitions instead, or run ` +
            `\`${endInheritance(`${schema}.${name}`, table.children).replaceAll('\n', ' ')}\`, and insert the rows that it has into the outbox table`
          : table.unlogged.length > 0
            ? `partitions whose rows never reach the WAL of this server: ${describeUnlogged(table.unlogged)}. Run ` +
              `\`${endUnlogged(table.unlogged).replaceAll('\n', ' ')}\`; rows that they have are not published`
            : undefined
  if (found) {
    throw new OutriderError(`outbox.table: expected the table ${schema}.${name}, found ${found}.`, {
      exitCode: ExitCode.usage,
    })
  }
}
