import { type Config, partitionsOf } from '../config/schema.js'
import { parseDuration } from '../config/units.js'
import { ExitCode, Failure } from '../failure.js'
import { migrate } from '../postgres/migrate.js'
import { requireServer } from '../postgres/server.js'
import { type SetupOptions, type SetupReport, setUp } from '../postgres/setup.js'
import { withSetupLock } from '../postgres/setup-lock.js'
import type { Command, Context } from './command.js'
import { withDatabase } from './database.js'

export const setup: Command = {
  summary: 'create or migrate schema, roles, publication and slot; safe to run again',
  usage: `outrider setup [--only inbox] [--lock-timeout <duration>]

  --only inbox                only the inbox, for the workers' own database
  --lock-timeout <duration>   how long the new slot may wait for open write transactions (10s)`,
  options: { only: { type: 'string' }, 'lock-timeout': { type: 'string' } },
  async run(context) {
    const { only } = context.flags
    if (only !== undefined && only !== 'inbox') {
      throw new Failure(`--only: expected inbox, found ${only}.`, { exitCode: ExitCode.usage })
    }
    const lockTimeout = lockTimeoutOf(context)
    return withDatabase(context, 'outrider setup', async (client) => {
      await requireServer(client)
      if (only) {
        const { applied } = await migrate(client, { only })
        context.out(context.json ? JSON.stringify({ migrations: applied }) : describeMigrations(applied))
        return ExitCode.done
      }
      const report = await withSetupLock(client, () => setUp(client, optionsOf(context.config, lockTimeout)))
      context.out(context.json ? JSON.stringify(report) : describe(report))
      return report.findings.length > 0 ? ExitCode.findings : ExitCode.done
    })
  },
}

/** Shared with `adopt`, which creates a slot, too. */
export function lockTimeoutOf({ flags }: Context): { lockTimeout?: number } {
  const given = flags['lock-timeout']
  if (given === undefined) return {}
  const lockTimeout = parseDuration(given)
  if (!lockTimeout || lockTimeout > MOST) {
    throw new Failure(`--lock-timeout: expected a duration such as 30s, up to 24h, found ${given}.`, {
      exitCode: ExitCode.usage,
    })
  }
  return { lockTimeout }
}

const MOST = 24 * 3_600_000

function optionsOf(config: Config, lockTimeout: { lockTimeout?: number }): SetupOptions {
  return {
    slot: config.slot,
    publication: config.publication,
    source: config.source,
    outboxTable: config.outbox.table,
    partitions: partitionsOf(config.streams),
    ...lockTimeout,
  }
}

const describeMigrations = (applied: string[]): string =>
  applied.length > 0 ? `created  schema outrider (${applied.join(', ')})` : 'present  schema outrider'

function describe({ migrations, publication, slot, streams, lineage, findings }: SetupReport): string {
  return [
    describeMigrations(migrations),
    `${publication.padEnd(7)}  publication ${lineage.publication} for ${lineage.outboxTable}`,
    ...streams.map((stream) => `created  partitions of stream ${stream}`),
    `${slot.padEnd(7)}  slot ${lineage.slot}, confirmed up to ${lineage.confirmedLsn}`,
    `${slot.padEnd(7)}  lineage ${lineage.lineage}, source ${lineage.source}`,
    ...findings.map((finding) => `\n! ${finding}`),
    ...(slot === 'created' ? [NEXT] : []),
  ].join('\n')
}

const NEXT = `
Next: grant outrider_writer to your application's role, outrider_relay (and REPLICATION) to the relay's;
      \`outrider check\` looks at the rest, \`outrider relay\` begins to publish.`
