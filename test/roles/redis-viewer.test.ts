import { expect, vi } from 'vitest'
import { find } from '../../src/cli/find.js'
import { status } from '../../src/cli/status.js'
import { deadKey, retriesKey, waitingDueKey, waitingKey } from '../../src/event/names.js'
import { currentLineage } from '../../src/postgres/state/lineage.js'
import { entryOf } from '../../testkit/entry.js'
import { relayTest } from '../relay/relay-env.js'
import { runCommand } from '../support/command.js'
import { granted, startGuarded } from './acl.js'

// A server of another version may have to be fetched first.
vi.setConfig({ testTimeout: 180_000 })

relayTest('a viewer runs status and find under the line, and uses every command of it', async ({ env, skip }) => {
  const guarded = await startGuarded({ skip }, '7.0', ['viewer'])
  const { admin } = guarded
  const { lineage } = (await currentLineage(env.postgres, env.slot))!
  const id = await env.insert('orders')
  const entries: string[] = []
  for (const key of ['orders', 'payments']) {
    const entry = (await admin.xadd(key, `${Date.now() - 3_600_000}-0`, ...entryOf({}, { id }))) as string
    await admin.xadd(key, '*', ...entryOf({}))
    entries.push(entry)
    await admin.xgroup('CREATE', key, 'billing', '0')
    await env.postgres.query(
      `with s as (
         insert into outrider.session (session, lineage, hostname, pid, version, timeline)
         values (gen_random_uuid(), $1, 'web-1', 1, '0', 1) returning session
       )
       insert into outrider.head select $1, $2, '', gen_random_uuid(), $3, session from s`,
      [lineage, key, entry],
    )
  }
  await admin.xgroup('CREATE', 'orders', 'mail', '0')
  for (const group of ['billing', 'mail']) {
    await admin.xreadgroup('GROUP', group, 'worker-1', 'COUNT', 1, 'STREAMS', 'orders', '>')
  }
  await admin.hset(
    retriesKey('orders', 'billing'),
    entries[0] as string,
    JSON.stringify({ attempts: 1, failingSince: 1 }),
  )
  await admin.xack('orders', 'mail', entries[0] as string)
  await admin.xadd(deadKey('orders', 'mail'), '*', ...entryOf({}, { id }))
  const waiting = (await admin.xadd(waitingKey('orders', 'mail'), '*', ...entryOf({}))) as string
  await admin.zadd(waitingDueKey('orders', 'mail'), 1, waiting)
  await guarded.forget()

  const options = {
    config: { slot: env.slot, redis: { url: guarded.url('viewer'), connectTimeout: 5_000 } },
    json: true,
  }
  const seen = JSON.parse((await runCommand(status, env.database.url, options)).text)
  expect(seen.streams).toMatchObject([{ stream: 'orders', length: 2 }])
  expect(seen.findings.filter(({ id }: { id: string }) => id === 'redis-refused')).toMatchObject([
    { is: expect.stringMatching(/^Redis refused to tell of payments: NOPERM/) },
  ])
  const found = JSON.parse((await runCommand(find, env.database.url, { ...options, args: [id] })).text)
  expect(found.events[0].groups.map(({ state }: { state: string }) => state)).toEqual(['backoff', 'dead-lettered'])
  expect((await guarded.called()).filter((name) => !/^config/.test(name))).toEqual(granted('viewer'))
  expect(await guarded.refused()).toEqual(['config|get', 'payments'])
})
