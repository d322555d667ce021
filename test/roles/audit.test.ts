import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { entryOf } from '../../testkit/entry.js'
import { type AuditEnv, createAuditEnv } from '../audit/audit-env.js'
import { expectRefused, granted, startGuarded, VERSIONS } from './acl.js'

// Servers of three versions may have to be fetched first.
vi.setConfig({ testTimeout: 180_000 })

let env: AuditEnv
let role: string

beforeAll(async () => {
  env = await createAuditEnv()
  role = `auditor_${env.database.name}`
  const page = readFileSync(new URL('../../docs/audit.md', import.meta.url), 'utf8')
  const [, statements = ''] = /```sql\n(create role auditor.*?)```/s.exec(page) ?? []
  await env.postgres.query(statements.replaceAll('auditor', role))
  await env.checkpoint()
  await env.insert('orders')
  await env.checkpoint()
})
afterAll(async () => {
  await env.postgres.query(`drop owned by ${role}; drop role ${role}`)
  await env.close()
})

test.for(VERSIONS)('an audit finds what it finds under its lines, and may do no more: %s', async (version, context) => {
  const guarded = await startGuarded(context, version, ['audit'])
  const source = (await env.postgres.query('select source from outrider.lineage')).rows[0].source
  await guarded.admin.xadd('orders', '*', ...entryOf({}, { source }))
  await guarded.forget()
  const { code, report } = await env.audit(
    { stream: 'orders' },
    {
      postgres: { url: env.database.urlAs({ user: role }), connectTimeout: 5_000 },
      redis: { url: guarded.url('audit'), connectTimeout: 5_000 },
    },
  )
  expect([code, report.counts]).toEqual([4, { missing: 1, extra: 1, altered: 0 }])
  expect(await guarded.called()).toEqual(granted('audit'))
  expect(await guarded.refused()).toEqual([])
  await expectRefused(guarded.as('audit'), [
    ...['XADD orders * a b', 'XDEL orders 1-1', 'XTRIM orders MAXLEN 0', 'DEL orders', 'XRANGE payments - +'],
    ...['HGETALL outrider:{orders}:head:x', 'SCRIPT LOAD return', 'KEYS *', 'INFO', 'FLUSHALL', 'CONFIG GET maxmemory'],
  ])
})

test('a role that row level security hides rows from is told so: it would miss none of them', async () => {
  const config = { postgres: { url: env.database.urlAs({ user: role }), connectTimeout: 5_000 } }
  await env.postgres.query('alter table outrider.outbox enable row level security')
  await expect(env.audit({}, config)).rejects.toThrow('row-level security policy for table "outbox"')
  await env.postgres.query('alter table outrider.outbox disable row level security')
})

test('a role that may not read the outbox is told what it lacks', async () => {
  await env.postgres.query(`revoke select on outrider.outbox from ${role}`)
  const config = { postgres: { url: env.database.urlAs({ user: role }), connectTimeout: 5_000 } }
  await expect(env.audit({}, config)).rejects.toThrow('permission denied for table outbox')
})
