import { describe, expect, test } from 'vitest'
import { auditStreams } from '../../src/cli/audit.js'
import { freshRedis } from '../../testkit/services/index.js'
import { createAuditEnv } from '../audit/audit-env.js'
import { runCommand } from '../support/command.js'

const NOWHERE = 'postgres://127.0.0.1:1/none'
const run = (flags: Record<string, string | boolean>) => runCommand(auditStreams, NOWHERE, { flags })

describe('what it refuses', () => {
  test.each([
    [{ since: 'yesterday' }, '--since: expected a duration such as 24h, or a time in the past'],
    [{ since: '2026-11-29T08:00:00' }, '--since: expected'],
    [{ since: '2999-01-01T00:00:00Z' }, '--since: expected'],
    [{ stream: 'outrider:{x}' }, '--stream: expected the name of a stream'],
    [{ limit: '-1' }, '--limit: expected a number of events'],
    [{ wait: '2h' }, '--wait: expected a duration'],
  ])('%j', async (flags, message) => {
    await expect(run(flags as Record<string, string>)).rejects.toMatchObject({
      exitCode: 2,
      message: expect.stringContaining(message),
    })
  })

  test('--no-wait without --repair', async () => {
    await expect(run({ 'no-wait': true })).rejects.toMatchObject({ exitCode: 2 })
  })
})

test('servers that cannot be reached: exit code 3; a replica, or a database without a lineage: exit code 1', async ({
  onTestFinished,
}) => {
  await expect(run({})).rejects.toMatchObject({ exitCode: 3, message: expect.stringContaining('Postgres at') })
  const env = await createAuditEnv()
  onTestFinished(() => env.close())
  const away = { redis: { url: 'redis://127.0.0.1:1', connectTimeout: 1_000 } }
  await expect(env.audit({}, away)).rejects.toMatchObject({ exitCode: 3, message: expect.stringContaining('Redis') })
  await expect(env.audit({}, { slot: 'another' })).rejects.toMatchObject({
    exitCode: 1,
    message: expect.stringContaining('Expected a lineage of slot another'),
  })
  const replica = await freshRedis()
  onTestFinished(() => replica.remove())
  await replica.client().call('REPLICAOF', '127.0.0.1', '1')
  const config = { redis: { url: replica.url, connectTimeout: 10_000 } }
  await expect(env.audit({}, config)).rejects.toMatchObject({
    exitCode: 1,
    message: expect.stringContaining('Expected a primary of Redis'),
  })
})
