import pg from 'pg'
import { audit } from '../audit/audit.js'
import type { AuditProgress, MissingEvent } from '../audit/options.js'
import { type AuditReport, hasFindings, hasFindingsLeft } from '../audit/report.js'
import { ExitCode, OutriderError } from '../base/failure.js'
import { parseDuration } from '../base/units.js'
import { STREAM_NAME } from '../event/names.js'
import type { Lineage } from '../postgres/state/lineage.js'
import type { RedisClient } from '../redis/client/connect.js'
import { requirePrimary } from '../redis/client/primary.js'
import { MissingRequest } from './audit-repair.js'
import { describeProgress, describeRepair, describeReport } from './audit-text.js'
import type { Command, Context } from './command.js'
import { withDatabase } from './database.js'
import { lineageOf } from './lineage.js'
import { atMostEvery, printable, progress } from './output.js'
import { withRedis } from './redis.js'
import { requireOwnOutbox } from './republish.js'
import { sinceOf } from './since.js'
import { usage } from './usage.js'

export const auditStreams: Command = {
  summary: 'compare the table with the streams: missing, extra and altered events',
  usage: `outrider audit [--since <time>] [--stream <name>] [--limit <number>] [--wait <duration>] [--repair [--no-wait]]

Reads the outbox table and the streams page by page, and reports each event that is missing in its stream, that is in a
stream without a row, or whose attributes or data differ from its row. Exit code 4 when there is one. What cannot be known
(trimmed, not confirmed yet, from before setup) is counted and is no finding. Changes nothing without --repair.

  --since <time>      only what was committed since then: a duration such as 24h, or a time such as 2026-11-29T08:00:00Z
  --stream <name>     only this stream with its partitions, or <stream>:<number> for one of them
  --limit <number>    how many events of each kind are listed (100); all are counted
  --wait <duration>   how long to wait until rows without an entry are confirmed (30s)
  --repair            have the relay append all missing events, and wait until it has; it leaves out what is there by then.
                      Exit code 4 only for what is left: extra and altered events, and rows that could not be published
  --no-wait           with --repair: leave the rest to the relay`,
  examples: [
    ['outrider audit --since 24h', 'what was committed in the last day'],
    ['outrider audit --stream orders --json', 'one stream, for a program'],
    ['outrider audit --repair', 'append what is missing'],
  ],
  docs: 'docs/audit.md',
  options: {
    since: { type: 'string' },
    stream: { type: 'string' },
    limit: { type: 'string' },
    wait: { type: 'string' },
    repair: { type: 'boolean' },
    'no-wait': { type: 'boolean' },
  },
  async run(context) {
    const selection = selectionOf(context)
    return withDatabase(context, 'outrider audit', async (postgres) => {
      const lineage = await lineageOf(postgres, context)
      if (context.flags.repair === true) return repair(context, postgres, lineage, selection)
      const report = await compare(context, postgres, lineage, selection)
      context.out(context.json ? printable(JSON.stringify(report)) : describeReport(report))
      return hasFindings(report) ? ExitCode.findings : ExitCode.done
    })
  },
}

async function repair(
  context: Context,
  postgres: pg.Client,
  lineage: Lineage,
  selection: Selection,
): Promise<ExitCode> {
  const { flags, json, out } = context
  requireOwnOutbox(context)
  const request = new MissingRequest(postgres, lineage)
  let report: AuditReport
  try {
    report = await compare(context, postgres, lineage, selection, (events) => request.add(events))
  } catch (error) {
    await request.drop()
    throw error
  }
  // A person sees what is missing while it is appended.
  if (!json) out(describeReport(report))
  const repaired = await request.execute(context, flags['no-wait'] !== true).catch((error) => {
    if (json) out(printable(JSON.stringify({ ...report, repair: null })))
    throw error
  })
  out(json ? printable(JSON.stringify({ ...report, repair: repaired })) : `\n${describeRepair(repaired)}`)
  return hasFindingsLeft(report, repaired) ? ExitCode.findings : ExitCode.done
}

interface Selection {
  since: number | undefined
  stream: string | undefined
  limit: number
  wait: number
}

const MAX_WAIT_MS = 3_600_000

function selectionOf({ flags }: Context): Selection {
  const { stream, limit = '100', wait = '30s' } = flags
  if (flags['no-wait'] === true && flags.repair !== true) throw usage('Expected --repair together with --no-wait.')
  if (stream !== undefined && !(typeof stream === 'string' && STREAM_NAME.test(stream.replace(/:\d+$/, '')))) {
    throw usage(`--stream: expected the name of a stream, found "${printable(String(stream))}".`)
  }
  if (typeof limit !== 'string' || !/^\d{1,6}$/.test(limit)) {
    throw usage(`--limit: expected a number of events, up to 999999, found "${limit}".`)
  }
  const patience = parseDuration(wait)
  if (patience === undefined || patience > MAX_WAIT_MS) {
    throw usage(`--wait: expected a duration such as 30s, up to 1h, found "${wait}".`)
  }
  return { since: sinceOf(flags.since), stream, limit: Number(limit), wait: patience }
}

async function compare(
  context: Context,
  postgres: pg.Client,
  lineage: Lineage,
  selection: Selection,
  missing?: (events: readonly MissingEvent[]) => Promise<void>,
): Promise<AuditReport> {
  const { config, log } = context
  const line = progress()
  const sayNow = atMostEvery()
  const show = (progress: AuditProgress) => {
    line.show(() => describeProgress(progress))
    if (sayNow()) log.info({ ...progress }, 'audit progress')
  }
  let lost = false
  postgres.once('end', () => {
    lost = true
  })
  // What Postgres says is thrown outside: `withRedis` would take it for a fault of Redis.
  let outcome: { report: AuditReport } | { refused: unknown } | undefined
  const work = async (redis: RedisClient): Promise<ExitCode> => {
    await requireUsablePrimary(redis)
    try {
      const options = { postgres, redis, lineage, mapping: config.outbox, ...selection }
      outcome = { report: await audit({ ...options, progress: show, ...(missing && { missing }) }) }
    } catch (error) {
      if (!lost && !(error instanceof pg.DatabaseError)) throw error
      outcome = { refused: error }
    }
    return ExitCode.done
  }
  try {
    await withRedis(context, 'outrider-audit', work, () => '')
  } finally {
    line.clear()
  }
  if (outcome === undefined || 'refused' in outcome) throw outcome?.refused
  return outcome.report
}

/** A replica may lack entries. Where neither ROLE nor INFO is permitted, the URL is trusted. */
async function requireUsablePrimary(redis: RedisClient): Promise<void> {
  try {
    await requirePrimary(redis)
  } catch (error) {
    const { name, message } = error as Error
    if (name === 'ReplyError' && message.startsWith('NOPERM')) return
    throw name === 'Error' && message.startsWith('Expected') ? new OutriderError(message, { cause: error }) : error
  }
}
