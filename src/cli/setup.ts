import type pg from 'pg'
import { ExitCode, OutriderError } from '../base/failure.js'
import { parseDuration } from '../base/units.js'
import { type Config, OWN_OUTBOX, partitionsOf } from '../config/schema.js'
import { requireServer } from '../postgres/client/server.js'
import { createSearchIndex, type IndexedColumn } from '../postgres/outbox/search-index.js'
import { type Grants, grantRoles, requireGrantable } from '../postgres/setup/grants.js'
import { migrate } from '../postgres/setup/migrate.js'
import { type SetupOptions, type SetupReport, setUp } from '../postgres/setup/setup.js'
import { withSetupLock } from '../postgres/setup/setup-lock.js'
import type { Command, Context } from './command.js'
import { withDatabase } from './database.js'

export const setup: Command = {
  summary: 'create or migrate schema, roles, publication and slot; safe to run again',
  usage: `outrider setup [--only inbox] [--grant-relay <roles>] [--grant-writer <roles>] [--grant-consumer <roles>]
               [--index <columns>] [--lock-timeout <duration>] [--accept-findings]

  --only inbox                only the inbox, for the workers' own database
  --grant-relay <roles>       grant outrider_relay to login roles that exist: one, or several with commas in between
  --grant-writer <roles>      outrider_writer, for applications
  --grant-consumer <roles>    outrider_consumer, for workers
  --index <columns>           index Outrider's own table by subject or correlation, for \`outrider find\`, or by txid, for repairs (created
                              with a small table): one, or several with commas in between. Partition by partition, while writers continue
  --lock-timeout <duration>   how long the new slot may wait for open write transactions (10s)
  --accept-findings           exit code 0 also with findings, which are printed all the same; and a new slot beside another
                              one of the same table, which is refused otherwise`,
  examples: [
    ['outrider setup --grant-relay relay --grant-writer shop', 'and grant the roles at once'],
    ['outrider setup --only inbox --grant-consumer workers', "in the workers' own database"],
  ],
  docs: 'docs/operations.md, docs/configuration.md',
  unused: ['redis'],
  options: {
    only: { type: 'string' },
    'grant-relay': { type: 'string' },
    'grant-writer': { type: 'string' },
    'grant-consumer': { type: 'string' },
    index: { type: 'string' },
    'lock-timeout': { type: 'string' },
    'accept-findings': { type: 'boolean' },
  },
  async run(context) {
    const { only } = context.flags
    if (only !== undefined && only !== 'inbox') {
      throw new OutriderError(`--only: expected inbox, found ${only}.`, { exitCode: ExitCode.usage })
    }
    const wanted = grantsOf(context)
    const indexes = indexesOf(context)
    const acceptFindings = context.flags['accept-findings'] === true
    const options = { ...optionsOf(context.config), ...lockTimeoutOf(context), grants: wanted, acceptFindings }
    return withDatabase(context, 'outrider setup', async (client) => {
      await requireServer(client)
      await requireGrantable(client, wanted)
      if (only) {
        const { applied: migrations, newer } = await migrate(client, { only })
        const report = { migrations, newer, grants: await grantRoles(client, wanted) }
        context.out(context.json ? JSON.stringify(report) : describeSchema(report).join('\n'))
        return ExitCode.done
      }
      const set = await withSetupLock(client, () => setUp(client, options))
      const report = { ...set, indexes: await createIndexes(client, indexes) }
      context.out(context.json ? JSON.stringify(report) : describe(report))
      return report.findings.length > 0 && !acceptFindings ? ExitCode.findings : ExitCode.done
    })
  },
}

const INDEXES: Record<string, IndexedColumn> = { subject: 'subject', correlation: 'correlation_id', txid: 'txid' }

function indexesOf({ flags, config }: Context): IndexedColumn[] {
  if (flags.index === undefined) return []
  const names = String(flags.index)
    .split(',')
    .map((name) => name.trim())
  const usage = (message: string) => new OutriderError(message, { exitCode: ExitCode.usage })
  if (flags.only !== undefined)
    throw usage('--only inbox: expected no --index with it. Only a database with an outbox has an index for it.')
  if (config.outbox.table !== OWN_OUTBOX.table) {
    throw usage(
      `--index: expected Outrider's own table, found ${config.outbox.table}. Create the indexes that it needs yourself.`,
    )
  }
  return names.map((name) => {
    const column = Object.hasOwn(INDEXES, name) ? INDEXES[name] : undefined
    if (column) return column
    throw usage(
      `--index: expected subject, correlation, txid, or several with commas in between, found "${flags.index}".`,
    )
  })
}

interface CreatedIndex {
  column: IndexedColumn
  state: 'created' | 'present'
}

async function createIndexes(client: pg.ClientBase, columns: readonly IndexedColumn[]): Promise<CreatedIndex[]> {
  const created: CreatedIndex[] = []
  for (const column of columns) created.push({ column, state: await createSearchIndex(client, column) })
  return created
}

function grantsOf({ flags }: Context): Grants {
  const relay = rolesOf(flags, 'grant-relay')
  const writer = rolesOf(flags, 'grant-writer')
  if (flags.only !== undefined && (relay.length > 0 || writer.length > 0)) {
    throw new OutriderError(
      `--only inbox: expected at most --grant-consumer with it, found ${relay.length > 0 ? '--grant-relay' : '--grant-writer'}. ` +
        'A database with the inbox alone has no outbox.',
      { exitCode: ExitCode.usage },
    )
  }
  return { outrider_relay: relay, outrider_writer: writer, outrider_consumer: rolesOf(flags, 'grant-consumer') }
}

function rolesOf(flags: Context['flags'], name: string): string[] {
  const given = flags[name]
  if (given === undefined) return []
  const roles = String(given)
    .split(',')
    .map((role) => role.trim())
  if (!roles.includes('')) return roles
  throw new OutriderError(`--${name}: expected names of roles, with commas in between, found "${given}".`, {
    exitCode: ExitCode.usage,
  })
}

/** Shared with `adopt`, which creates a slot, too. */
export function lockTimeoutOf({ flags }: Context): { lockTimeout?: number } {
  const given = flags['lock-timeout']
  if (given === undefined) return {}
  const lockTimeout = parseDuration(given)
  if (!lockTimeout || lockTimeout > MOST) {
    throw new OutriderError(`--lock-timeout: expected a duration such as 30s, up to 24h, found ${given}.`, {
      exitCode: ExitCode.usage,
    })
  }
  return { lockTimeout }
}

const MOST = 24 * 3_600_000

function optionsOf(config: Config): SetupOptions {
  return {
    slot: config.slot,
    publication: config.publication,
    source: config.source,
    outboxTable: config.outbox.table,
    mapping: config.outbox,
    maxEventBytes: config.maxEventBytes,
    ...(config.outbox.table === OWN_OUTBOX.table ? { retention: config.retention } : {}),
    partitions: partitionsOf(config.streams),
  }
}

const describeSchema = ({ grants, ...schema }: Pick<SetupReport, 'migrations' | 'newer' | 'grants'>): string[] => [
  describeMigrations(schema),
  ...grants.map(({ role, to, state }) => `${state.padEnd(7)}  ${role} to ${to}`),
]

function describeMigrations({ migrations, newer }: Pick<SetupReport, 'migrations' | 'newer'>): string {
  if (migrations.length > 0) return `created  schema outrider (${migrations.join(', ')})`
  if (newer.length === 0) return 'present  schema outrider'
  return `present  schema outrider: it is newer (${newer.join(', ')}) and serves this version, so it stays as it is`
}

function describe(report: SetupReport & { indexes: CreatedIndex[] }): string {
  const { publication, slot, streams, lineage, findings, indexes, renewed } = report
  return [
    ...describeSchema(report),
    `${publication.padEnd(7)}  publication ${lineage.publication} for ${lineage.outboxTable}`,
    ...streams.map((stream) => `created  partitions of stream ${stream}`),
    ...(renewed > 0 ? [`renewed  ${describeRenewed(renewed)}`] : []),
    `${slot.padEnd(7)}  slot ${lineage.slot}, confirmed up to ${lineage.confirmedLsn}`,
    `${slot.padEnd(7)}  lineage ${lineage.lineage}, source ${lineage.source}`,
    ...indexes.map(({ column, state }) => `${state.padEnd(7)}  index of ${lineage.outboxTable} by ${column}`),
    ...findings.map((finding) => `\n! ${finding}`),
    ...(slot === 'created' ? [next(report)] : []),
  ].join('\n')
}

/** Shared with `adopt`. */
export const describeRenewed = (rows: number): string => `transaction ids of ${rows} rows: some were of another cluster`

function next({ grants }: SetupReport): string {
  const granted = new Set(grants.map(({ role }) => role))
  const left = [
    ...(granted.has('outrider_writer') ? [] : ["outrider_writer to your application's role"]),
    ...(granted.has('outrider_relay') ? [] : ["outrider_relay (and REPLICATION) to the relay's"]),
  ]
  const steps = [
    ...(left.length > 0 ? [`grant ${left.join(', ')};`] : []),
    '`outrider check` looks at the rest, `outrider relay` begins to publish.',
  ]
  return `\nNext: ${steps.join('\n      ')}`
}
