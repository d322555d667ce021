import type pg from 'pg'
import type { Finding } from '../../src/check/finding.js'
import { check } from '../../src/cli/check.js'
import type { Config } from '../../src/config/schema.js'
import { runCommand } from '../support/command.js'

export interface Checked {
  code: number
  findings: (Finding & { server: 'postgres' | 'redis' | 'configuration' })[]
  /** Ids of what has to be mended or decided. */
  open: string[]
}

/** Runs `outrider check --json` in this process. */
export async function runCheck(
  postgres: string,
  redis: string,
  config: Partial<Config> = {},
  flags: Record<string, boolean> = {},
): Promise<Checked> {
  const run = { json: true, flags, config: { redis: { url: redis, connectTimeout: 5_000 }, ...config } }
  const { code, text } = await runCommand(check, postgres, run)
  const { findings } = JSON.parse(text) as Pick<Checked, 'findings'>
  return { code, findings, open: findings.filter(({ level }) => level !== 'info').map(({ id }) => id) }
}

/** Runs what a finding says, one statement a line, as somebody would who copies it. */
export async function paste(client: pg.Client, text: string): Promise<void> {
  for (const statement of text.split('\n')) await client.query(statement)
}
