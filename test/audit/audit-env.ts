import type { AuditRepair, AuditReport } from '../../src/audit/report.js'
import { auditStreams } from '../../src/cli/audit.js'
import type { Config } from '../../src/config/schema.js'
import { formatLsn } from '../../src/postgres/client/lsn.js'
import { takeCheckpoint } from '../../src/postgres/state/checkpoints.js'
import { currentLineage } from '../../src/postgres/state/lineage.js'
import { until } from '../../testkit/services/index.js'
import { createRelayEnv, type RelayEnv, type RelayEnvOptions } from '../relay/relay-env.js'
import { runCommand } from '../support/command.js'

type Flags = Record<string, string | boolean>

/** A relay's servers, and audits of them. */
export interface AuditEnv extends RelayEnv {
  /** Takes and saves a checkpoint, as the relay does. Every row must be in its stream. */
  checkpoint(): Promise<void>
  /** Inserts events and waits until they are in the stream; their ids. */
  publish(stream: string, count: number): Promise<string[]>
  /** The entry of an event. */
  entryOf(stream: string, id: string): Promise<string>
  audit(
    flags?: Flags,
    config?: Partial<Config>,
  ): Promise<{ code: number; report: AuditReport & { repair?: AuditRepair } }>
  /** The report as a person sees it. */
  auditText(flags?: Flags): Promise<string>
}

export async function createAuditEnv(options: RelayEnvOptions = {}): Promise<AuditEnv> {
  const env = await createRelayEnv(options)
  const { lineage } = (await currentLineage(env.postgres, env.slot))!
  const run = (flags: Flags, json: boolean, config: Partial<Config> = {}) =>
    runCommand(auditStreams, env.variables.OUTRIDER_POSTGRES_URL!, {
      config: { redis: { url: env.server.url, connectTimeout: 5_000 }, slot: env.slot, ...config },
      flags: { wait: '0s', ...flags },
      json,
    })
  return {
    ...env,
    async checkpoint() {
      const { lsn, snapshot } = await takeCheckpoint(env.postgres)
      await env.postgres.query('insert into outrider.checkpoint (lineage, lsn, snapshot) values ($1, $2, $3)', [
        lineage,
        formatLsn(lsn),
        snapshot,
      ])
    },
    async publish(stream, count) {
      const ids: string[] = []
      for (let n = 0; n < count; n++) ids.push(await env.insert(stream, { n }))
      await until(async () => (await env.ids(stream)).includes(ids.at(-1) as string))
      return ids
    },
    async entryOf(stream, id) {
      const entries = await env.redis.xrange(stream, '-', '+')
      return entries.find(([, fields]) => fields[fields.indexOf('id') + 1] === id)![0]
    },
    async audit(flags = {}, config = {}) {
      const { code, text } = await run(flags, true, config)
      return { code, report: JSON.parse(text) }
    },
    auditText: async (flags = {}) => (await run(flags, false)).text,
  }
}

/** What a report says of nothing. */
export const NOTHING_UNKNOWN = {
  trimmed: 0,
  before: 0,
  unconfirmed: 0,
  alien: 0,
  undated: 0,
  rowGone: 0,
  republished: 0,
}
