import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { describe, expect, onTestFinished } from 'vitest'
import { status } from '../../src/cli/status.js'
import { widthOf } from '../../src/cli/table.js'
import { deadKey, headKey, retriesKey, waitingDueKey, waitingKey } from '../../src/event/names.js'
import { recordLostStreams } from '../../src/postgres/state/gaps.js'
import { acceptHeads } from '../../src/postgres/state/heads.js'
import { openIncident } from '../../src/postgres/state/incidents.js'
import { currentLineage } from '../../src/postgres/state/lineage.js'
import { entryOf } from '../../testkit/entry.js'
import { MAIN } from '../../testkit/outrider.js'
import { freePort, until } from '../../testkit/services/index.js'
import { type RelayEnv, relayTest } from '../relay/relay-env.js'
import { type CommandRun, runCommand } from '../support/command.js'
import { holdLock } from '../support/lock-holder.js'

/** As the relay's own role, against the servers of the environment. */
const run = (env: RelayEnv, options: CommandRun = {}, url = env.variables.OUTRIDER_POSTGRES_URL as string) =>
  runCommand(status, url, {
    ...options,
    config: { slot: env.slot, redis: { url: env.server.url, connectTimeout: 10_000 }, ...options.config },
  })

interface Json {
  code: number
  findings: { id: string; is: string; next: string[] }[]
  [name: string]: unknown
}

const json = async (env: RelayEnv, options: CommandRun = {}): Promise<Json> => {
  const { code, text } = await run(env, { ...options, json: true })
  return { ...JSON.parse(text), code }
}

const ids = ({ findings }: Json): string[] => findings.map(({ id }) => id)
const found = (status: Json, id: string) => status.findings.find((finding) => finding.id === id)

const HOUR = 3_600_000
const hourAgo = () => `${Date.now() - HOUR}-0`

/** A stream as a relay of this lineage has left it, with an entry of an hour ago; the lineage. */
async function publish(env: RelayEnv, key: string, id = 'e1'): Promise<string> {
  const { lineage } = (await currentLineage(env.postgres, env.slot))!
  const entry = (await env.redis.xadd(key, hourAgo(), ...entryOf({ n: 1 }, { id }))) as string
  await env.postgres.query(
    `with s as (
       insert into outrider.session (session, lineage, hostname, pid, version, timeline)
       values (gen_random_uuid(), $1, 'web-1', 4711, '0.1.0', 1) returning session
     )
     insert into outrider.head (lineage, stream_key, position, event_id, entry_id, session)
     select $1, $2, '', gen_random_uuid()::text, $3, session from s`,
    [lineage, key, entry],
  )
  await env.redis.hset(headKey(key, lineage), 'entry', entry)
  return lineage
}

/** Delivers all of the stream to a worker that lives. */
const read = (env: RelayEnv, group: string, worker = 'worker-1') =>
  env.redis.xreadgroup('GROUP', group, worker, 'STREAMS', 'orders', '>')

const group = (env: RelayEnv, name: string, key = 'orders') => env.redis.xgroup('CREATE', key, name, '0', 'MKSTREAM')

describe('a relay', () => {
  relayTest('that streams is no problem; once it is gone, it is named with what it leaves behind', async ({ env }) => {
    const relay = await env.streamingRelay({ OUTRIDER_DURABILITY: 'memory' })
    const http = { port: relay.httpPort, host: '127.0.0.1' }
    const id = await env.insert('orders')
    await until(async () => (await env.postgres.query('select from outrider.head')).rowCount === 1)
    await until(async () => {
      const { code, text } = await run(env, { config: { http } })
      expect([code, text]).toEqual([0, expect.stringContaining('No problem found.')])
      expect(text).toMatch(/^relay +active, streaming on /m)
      expect(text).toContain('durability memory;')
      expect(text).toContain('every row is published')
      expect(text).toMatch(/^orders +1 /m)
      return true
    })
    // A walsender that computes, as it does while other databases write, waits for nothing.
    await until(async () => {
      expect(await json(env, { config: { http } })).toMatchObject({
        ...{ code: 0, healthy: true, findings: [] },
        relay: { leads: true, session: { pid: relay.pid }, says: { state: 'streaming', durability: 'memory' } },
        slot: { name: env.slot, active: true, activity: { waitEventType: expect.any(String) } },
        outbox: { backlog: { rows: 0 } },
        streams: [{ stream: 'orders', length: 1, partitions: [{ key: 'orders' }] }],
      })
      return true
    })

    await relay.kill()
    await env.postgres.query(
      "insert into outrider.outbox (stream, type) select 'orders', 't' from generate_series(1, 3)",
    )
    await until(async () => ids(await json(env)).includes('relay-missing'))
    const gone = await json(env)
    expect(gone).toMatchObject({ code: 4, relay: { leads: false }, outbox: { backlog: { rows: 3 } } })
    expect(found(gone, 'relay-missing')).toMatchObject({
      is: expect.stringContaining(env.slot),
      next: ['outrider relay'],
    })
    expect(await env.ids('orders')).toEqual([id])
  })

  relayTest('halted by an incident: the incident, with the commands that lead on', async ({ env }) => {
    const lineage = await publish(env, 'orders')
    const id = await openIncident(env.postgres, { lineage, kind: 'gap', reason: 'stream_behind', stream: 'orders' })
    const halt = { config: { onGap: 'halt' } } as const
    const halted = await json(env, halt)
    expect(halted.code).toBe(4)
    expect(ids(halted)).toEqual(['incident-halting'])
    expect(halted.findings[0]?.next).toEqual([`outrider incidents show ${id}`, `outrider incidents repair ${id}`])
    expect((await run(env, halt)).text).toMatch(/^relay +halted by an incident, or not running/m)
    await env.postgres.query("update outrider.incident set reason = 'outbox_renamed'")
    expect((await json(env)).findings[0]?.next).toEqual([
      `outrider incidents show ${id}`,
      `outrider incidents close ${id}`,
    ])
  })

  relayTest('that repairs a gap: its progress, and nothing that a person has to do', async ({ env }) => {
    const lineage = await publish(env, 'orders')
    await env.redis.del('orders')
    expect(ids(await json(env))).toContain('stream-lost')
    const id = await recordLostStreams(env.postgres, { lineage, walsender: await holdLock(env.postgres) }, [
      { key: 'orders', snapshot: null, since: null, head: null, detail: {} },
      { key: 'mails', snapshot: null, since: null, head: null, detail: {} },
    ])
    const due = await json(env)
    expect(ids(due)).toEqual(['gap-repairing', 'relay-missing'])
    expect(found(due, 'gap-repairing')).toMatchObject({
      is: expect.stringMatching(
        /^Incident \d+ is being repaired: gap stream_behind in 2 streams, since .*by itself\.$/,
      ),
      next: [`outrider incidents show ${id}`],
    })
    await env.postgres.query(
      `insert into outrider.repair (lineage, session, timeline, snapshot, until_lsn, unsettled, every_stream, found, put_back)
       select $1, session, 1, pg_current_snapshot(), pg_current_wal_lsn(), '{3}', false, 6000, 1000 from outrider.session`,
      [lineage],
    )
    const { code, text } = await run(env)
    expect(code).toBe(4)
    expect(text).toMatch(/^incidents +none open; being repaired: 1 gap$/m)
    expect(text.replace(/\n +/g, ' ')).toMatch(
      /^repair +incident \d+: The relay puts back what is missing: 1,000 of 6,000 events, 5,000 remaining/m,
    )
    expect(text).not.toContain('halt')
    expect(await json(env)).toMatchObject({ incidents: { repair: { found: 6000, putBack: 1000 }, counts: { gap: 1 } } })

    const halt = { reason: 'repair_lacks_memory', message: 'Raise maxmemory, or free memory.', commands: [] }
    await env.postgres.query('update outrider.incident set repair_halt = $1', [JSON.stringify(halt)])
    expect(found(await json(env), 'incident-halting')).toMatchObject({
      is: expect.stringMatching(/halts the relay: .*\(repair_lacks_memory\): Raise maxmemory, or free memory\.$/),
      next: [`outrider incidents show ${id}`],
    })
    const blocked = await run(env)
    expect(blocked.text).toMatch(/^relay +halted by an incident, or not running/m)
    expect(blocked.text).toMatch(/^incidents +open: 1 gap$/m)

    await env.postgres.query('update outrider.incident set repaired_at = clock_timestamp()')
    await env.redis.xadd('orders', '*', 'a', 'b')
    const settling = await json(env)
    expect(ids(settling)).toEqual(['relay-missing'])
    expect(settling).toMatchObject({ incidents: { counts: {}, newest: [{ id, repairedAt: expect.any(String) }] } })
    expect((await run(env)).text).toMatch(/^incidents +none open; repaired, waiting for transactions: 1 gap$/m)
  })

  relayTest(
    'that says itself that it is halted: the incident, although this configuration repairs',
    async ({ env }) => {
      const relay = await env.streamingRelay({ OUTRIDER_ON_GAP: 'halt' })
      const config = { http: { port: relay.httpPort, host: '127.0.0.1' } }
      await env.insert('orders')
      await until(async () => (await env.postgres.query('select from outrider.head')).rowCount === 1)
      await env.redis.flushall()
      await until(async () => {
        const { relay } = (await json(env, { config })) as { relay?: { says?: { state?: string } } }
        return relay?.says?.state === 'halted'
      })
      const halted = await json(env, { config })
      expect(ids(halted)).toEqual(['incident-halting'])
      const { rows } = await env.postgres.query<{ id: string }>('select id::text from outrider.incident')
      expect(halted.findings[0]?.next).toEqual([
        `outrider incidents show ${rows[0]?.id}`,
        `outrider incidents repair ${rows[0]?.id}`,
      ])
    },
  )

  relayTest('whose publication leaves rows out: the statements, each on a line of its own', async ({ env }) => {
    const lineage = await publish(env, 'orders')
    const detail = { publication: 'outrider', table: 'outrider.outbox', omissions: 'leaves out rows of it' }
    await openIncident(env.postgres, { lineage, kind: 'gap', reason: 'publication_changed', detail })
    const { text } = await run(env)
    expect(text).toContain('    begin;\n    drop publication "outrider";\n')
  })

  relayTest('whose loss was accepted: a stream that is gone since is no loss', async ({ env }) => {
    const lineage = await publish(env, 'orders')
    await env.redis.del('orders')
    expect(ids(await json(env))).toContain('stream-lost')
    await acceptHeads(env.postgres, lineage, 'stream_key = $2', ['orders'])
    expect(ids(await json(env))).not.toContain('stream-lost')
  })

  relayTest('whose slot is gone: the relay repairs that, or adopt where it does not', async ({ env }) => {
    await publish(env, 'orders')
    await env.postgres.query('select pg_drop_replication_slot($1)', [env.slot])
    expect(found(await json(env), 'slot-missing')?.next).toEqual([
      'outrider check',
      'The relay records a gap when it looks, and repairs it.',
    ])
    const halting = await json(env, { config: { onGap: 'halt' } })
    expect(found(halting, 'slot-missing')?.next).toEqual(['outrider check', 'outrider adopt'])
  })

  relayTest('of which Redis says that it is another one', async ({ env }) => {
    const lineage = await publish(env, 'orders')
    await env.redis.set(`outrider:{${lineage}}:alive`, 'somebody')
    expect(ids(await json(env))).toContain('relay-foreign')
    // A repair renews the key before it records its session.
    await openIncident(env.postgres, { lineage, kind: 'gap', reason: 'publication_missing' })
    expect(ids(await json(env))).not.toContain('relay-foreign')
  })
})

describe('a server that is down', () => {
  relayTest('Redis: what Postgres knows, exit code 3', async ({ env }) => {
    await publish(env, 'orders')
    const redis = { url: `redis://127.0.0.1:${await freePort()}`, connectTimeout: 2_000 }
    const { code, text } = await run(env, { config: { redis } })
    expect(code).toBe(3)
    expect(text).toMatch(/^redis +not reached/m)
    expect(text).toMatch(/^slot +outrider_/m)
    expect(text).toMatch(/✗ Redis at 127\.0\.0\.1:\d+ refused the connection/)
  })

  relayTest('Postgres: what Redis knows, exit code 3', async ({ env }) => {
    await publish(env, 'orders')
    await group(env, 'billing')
    const { code, text } = await run(env, {}, `postgres://me@127.0.0.1:${await freePort()}/shop`)
    expect(code).toBe(3)
    expect(text).toMatch(/^postgres +not reached/m)
    expect(text).toMatch(/^orders +1 /m)
    expect(text).toMatch(/✗ Postgres at 127\.0\.0\.1:\d+ refused the connection/)
    expect(text).toContain('Group billing of orders has had no worker')
  })

  relayTest('a database that is not set up: the command that does', async ({ env }) => {
    expect(found(await json(env, { config: { slot: 'another' } }), 'not-set-up')?.next).toEqual(['outrider setup'])
  })
})

describe('consumer groups', () => {
  relayTest('without a worker, behind, stuck, failing, with dead letters', async ({ env }) => {
    await publish(env, 'orders')
    for (const name of ['idle', 'behind', 'stuck', 'backoff', 'waits', 'dead']) await group(env, name)
    for (const name of ['stuck', 'backoff', 'waits', 'dead']) await read(env, name)
    await env.redis.xack('orders', 'dead', (await env.redis.xrange('orders', '-', '+'))[0]![0])
    // Heard, and given nothing.
    await env.redis.xgroup('CREATECONSUMER', 'orders', 'behind', 'worker-1')
    const [[entry]] = (await env.redis.xrange('orders', '-', '+')) as [[string, string[]]]
    const since = Date.now() - HOUR
    const due = Date.now() + 300_000
    await env.redis.hset(
      retriesKey('orders', 'backoff'),
      entry,
      JSON.stringify({ attempts: 7, failingSince: since, due }),
    )
    await env.redis.xack('orders', 'waits', entry)
    const waits = ['waiting-since', String(since), 'waiting-error', 'Error: 503', 'waiting-attempts', '12']
    const id = (await env.redis.xadd(
      waitingKey('orders', 'waits'),
      '*',
      ...entryOf({}, { id: 'e1' }),
      ...waits,
    )) as string
    await env.redis.zadd(waitingDueKey('orders', 'waits'), due, id)
    await env.redis.xadd(deadKey('orders', 'dead'), '*', ...entryOf({}, { id: 'e1' }))

    const status = await json(env)
    const said = (id: string) => found(status, id)
    expect(said('group-without-worker')?.is).toMatch(/^Group idle of orders .*: 1 entry unread, the oldest for 60 min/)
    expect(said('group-lagging')?.is).toMatch(/^Group behind .*: 1 entry unread, .* with 1 worker\./)
    expect(said('group-stuck')).toMatchObject({
      is: expect.stringMatching(/^Group stuck .*no outcome for 60 min; worker worker-1 holds it/),
      next: ['outrider find e1'],
    })
    expect(status.findings.filter(({ id }) => id === 'group-failing')).toMatchObject([
      {
        is: expect.stringMatching(/^Group backoff .*1 event, the first for 60 min; next attempt in \d/),
        next: ['outrider find e1'],
      },
      {
        is: expect.stringMatching(/^Group waits .*: Error: 503\.$/),
        next: ['outrider dead-letters list --stream orders --group waits'],
      },
    ])
    expect(said('dead-letters')).toMatchObject({
      is: 'Group dead of orders has 1 dead letter.',
      next: ['outrider dead-letters list --stream orders --group dead'],
    })
    expect(status.findings.filter(({ id }) => /^group|^dead/.test(id))).toHaveLength(6)
    expect(status.groups).toContainEqual(
      expect.objectContaining({ group: 'backoff', failing: 1, pending: 1, nextAttempt: new Date(due).toISOString() }),
    )
    const only = await json(env, { flags: { group: 'dead' } })
    expect(only.findings.filter(({ id }) => id.startsWith('group-'))).toEqual([])
    expect(only.groups).toHaveLength(1)
  })

  relayTest('in partitions are one line each; what they lost is named', async ({ env }) => {
    for (const key of ['orders:0', 'orders:1', 'mails']) await publish(env, key)
    // As the consumer creates it.
    for (const key of ['orders:0', 'orders:1']) {
      await env.redis.xgroup('CREATE', key, 'billing', '0', 'MKSTREAM', 'ENTRIESREAD', 0)
    }
    for (const key of ['orders:0', 'orders:1']) await env.redis.xadd(key, '*', ...entryOf({}))
    await env.redis.xtrim('orders:1', 'MAXLEN', 1)
    const { text } = await run(env)
    expect(text).toMatch(/^orders ×2 +3 /m)
    expect(text).toMatch(/^billing +orders +(3|\?) /m)
    expect(found(await json(env), 'group-lost-unread')?.is).toContain('lost 1 entry, removed before it read them')
    await env.redis.del('mails')
    expect(found(await json(env), 'stream-lost')?.is).toContain('Redis has lost events of mails')
    await env.redis.set('mails', 'no stream')
    expect(found(await json(env), 'redis-refused')).toMatchObject({
      is: expect.stringMatching(/mails: WRONGTYPE/),
      next: [expect.stringContaining('docs/healing.md#guards')],
    })
    await group(env, 'search', 'empty')
    await publish(env, 'empty').then(() => env.redis.del('empty'))
    await group(env, 'search', 'empty')
    expect((await run(env)).text).toMatch(/^empty +0 +\S+ B *$/m)
  })

  relayTest('that a database knows, and Redis does not', async ({ env }) => {
    await publish(env, 'orders')
    await env.postgres.query("insert into outrider.subscription (consumer_group, stream_key) values ('gone', 'orders')")
    expect(ids(await json(env))).not.toContain('group-missing')
    const asked = await json(env, { flags: { inbox: [env.database.url] } })
    expect(found(asked, 'group-missing')?.is).toContain('gone of orders')
    const wrong = `postgres://me@127.0.0.1:${await freePort()}/shop`
    expect(ids(await json(env, { flags: { inbox: [wrong] } }))).toContain('inbox-unreachable')
  })
})

describe('the command', () => {
  relayTest('refuses a stream or group that is not there, and a URL that is none', async ({ env }) => {
    await publish(env, 'orders')
    await group(env, 'billing')
    const refusal = (flags: CommandRun['flags'] = {}) => run(env, { flags }).catch((error) => error)
    const usage = (message: string) => ({ exitCode: 2, message: expect.stringContaining(message) })
    expect(await refusal({ stream: 'ordres' })).toMatchObject(usage('no stream "ordres". Did you mean orders?'))
    expect(await refusal({ group: 'mail' })).toMatchObject(usage('no group "mail". There is billing.'))
    expect(await refusal({ inbox: ['redis://x'] })).toMatchObject(
      usage('--inbox: expected a URL that starts with postgres'),
    )
  })

  relayTest('fits 80 columns, wide characters and long names included', async ({ env }) => {
    const key = `s${'x'.repeat(199)}`
    await publish(env, key)
    await group(env, `${'g'.repeat(60)}`, key)
    await group(env, '请求处理组请求处理组请求处理组请求处理组请求处理组', key)
    const { text } = await run(env)
    const screen = text.split('✗')[0]!.split('\n')
    expect(screen.map(widthOf).filter((width) => width > 80)).toEqual([])
    expect(text).toContain('请求')
  })

  relayTest('--watch looks again, and ends with the last exit code', async ({ env }) => {
    await publish(env, 'orders')
    const child = spawn(process.execPath, [MAIN, 'status', '--watch', '--json'], { env: env.variables })
    onTestFinished(() => void child.kill('SIGKILL'))
    const lines = createInterface({ input: child.stdout })
    const next = async (): Promise<Json> => JSON.parse(String((await once(lines, 'line'))[0]))
    expect(ids(await next())).not.toContain('dead-letters')
    await group(env, 'billing')
    await env.redis.xadd(deadKey('orders', 'billing'), '*', ...entryOf({}))
    const later = until(async () => ids(await next()).includes('dead-letters'))
    await later
    child.kill('SIGINT')
    expect((await once(child, 'exit'))[0]).toBe(4)
  })
})
