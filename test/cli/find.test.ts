import { describe, expect } from 'vitest'
import { find } from '../../src/cli/find.js'
import { widthOf } from '../../src/cli/table.js'
import { deadKey, headKey, retriesKey, waitingKey } from '../../src/event/names.js'
import { openIncidents } from '../../src/postgres/state/incidents.js'
import { currentLineage } from '../../src/postgres/state/lineage.js'
import { entryOf } from '../../testkit/entry.js'
import { freePort } from '../../testkit/services/index.js'
import { type RelayEnv, relayTest } from '../relay/relay-env.js'
import { type CommandRun, runCommand } from '../support/command.js'

/** As the owner of the database, which has the inbox as well. */
const run = (env: RelayEnv, term: string, options: CommandRun = {}, url = env.database.url) =>
  runCommand(find, url, {
    args: [term],
    ...options,
    config: { slot: env.slot, redis: { url: env.server.url, connectTimeout: 10_000 }, ...options.config },
  })

/** The code and the first event, as JSON. */
async function json(env: RelayEnv, term: string, options: CommandRun = {}): Promise<Answer> {
  const { code, text } = await run(env, term, { ...options, json: true })
  const { events, ...rest } = JSON.parse(text) as Answer
  return { ...rest, code, events, event: events[0] as Json }
}

interface Answer {
  code: number
  events: Json[]
  event: Json
  [name: string]: unknown
}

interface Json {
  id: string
  published: { state: string; entry?: string }
  groups: { group: string; state: string; doneAt: string | null; detail: object | null }[]
  [name: string]: unknown
}

interface Insert {
  stream?: string
  subject?: string
  correlation?: string
  causation?: string
}

async function insert(
  env: RelayEnv,
  { stream = 'orders', subject, correlation, causation }: Insert = {},
): Promise<string> {
  const { rows } = await env.postgres.query(
    "select outrider.publish($1, 'order.placed', '{}', subject => $2, correlation_id => $3, causation_id => $4) as id",
    [stream, subject ?? null, correlation ?? null, causation ?? null],
  )
  return rows[0].id
}

/** Appends it as the relay does. */
const append = async (env: RelayEnv, id: string, key = 'orders') =>
  (await env.redis.xadd(key, '*', ...entryOf({}, { id }))) as string

const groups = (env: RelayEnv, ...names: string[]) =>
  Promise.all(names.map((name) => env.redis.xgroup('CREATE', 'orders', name, '0', 'MKSTREAM')))

const read = (env: RelayEnv, name: string) =>
  env.redis.xreadgroup('GROUP', name, 'worker-1', 'COUNT', 100, 'STREAMS', 'orders', '>')

const sourceOf = async (env: RelayEnv) => (await currentLineage(env.postgres, env.slot))!.source

describe('one event', () => {
  relayTest('through each step of its way', async ({ env }) => {
    const id = await insert(env, { subject: 'order-1', correlation: 'c-1' })
    expect(await json(env, id)).toMatchObject({ code: 0, by: 'id', event: { id, published: { state: 'not-yet' } } })
    expect((await run(env, id)).text).toMatch(/^published +not yet\n +outrider status$/m)
    await env.postgres.query("update outrider.outbox set created_at = now() - interval '1 minute'")
    expect((await json(env, id)).code).toBe(4)

    const entry = await append(env, id)
    await groups(env, 'unread', 'with', 'backoff', 'waits', 'dead', 'done', 'late', 'acked')
    for (const name of ['with', 'backoff', 'waits', 'dead', 'done', 'late', 'acked']) await read(env, name)
    const due = Date.now() + 600_000
    const remembered = JSON.stringify({ attempts: 3, failingSince: Date.now() - 60_000, due })
    await env.redis.hset(retriesKey('orders', 'backoff'), entry, remembered)
    for (const name of ['waits', 'dead', 'done', 'acked']) await env.redis.xack('orders', name, entry)
    const wait = [
      'waiting-attempts',
      '12',
      'waiting-since',
      String(Date.now() - 60_000),
      'waiting-error',
      'Error: 503\n  more',
    ]
    const waiting = [...wait, 'waiting-due', new Date(due).toISOString(), 'waiting-entry', entry]
    await env.redis.xadd(waitingKey('orders', 'waits'), '*', ...entryOf({}, { id }), ...waiting)
    const death = [
      'deadreason',
      'crashed',
      'deaderror',
      'Error: no stock',
      'deadattempts',
      '5',
      'deadtime',
      'T',
      'deadentry',
      entry,
    ]
    await env.redis.xadd(deadKey('orders', 'dead'), '*', ...entryOf({}, { id }), ...death)
    await env.postgres.query('insert into outrider.inbox select g, $1, $2 from unnest($3::text[]) as g', [
      await sourceOf(env),
      id,
      ['done', 'late', 'elsewhere'],
    ])

    const { code, event } = await json(env, id)
    expect(code).toBe(4)
    expect(event.published).toMatchObject({ state: 'entry', entry })
    const states = Object.fromEntries(event.groups.map(({ group, state }) => [group, state]))
    expect(states).toEqual({
      ...{ unread: 'unread', with: 'delivered', backoff: 'backoff', waits: 'waiting', dead: 'dead-lettered' },
      ...{ done: 'done', late: 'done', elsewhere: 'done', acked: 'settled' },
    })
    expect(event.groups.find(({ group }) => group === 'backoff')?.detail).toMatchObject({
      failed: 3,
      next: due,
      worker: 'worker-1',
    })

    const { text } = await run(env, id)
    expect(text).toMatch(/^stream +orders, subject order-1$/m)
    expect(text).toMatch(/^correlation +c-1$/m)
    expect(text).toMatch(/^inserted +\d{4}-.*Z, \d+ s ago$/m)
    expect(text).toMatch(new RegExp(`^published +\\d{4}-.* as entry ${entry}$`, 'm'))
    const flat = text.replaceAll(/\s+/g, ' ')
    expect(flat).toContain('unread unread; the group has 1 entry to read')
    expect(flat).toMatch(/with with worker-1, last heard \d+ s ago; 1 delivery/)
    expect(flat).toMatch(/ backoff attempt 3 failed, failing for \d+ (s|min), next attempt in \d min; with worker-1/)
    expect(flat).toMatch(
      / waits waiting: attempt 12 failed, failing for \d+ (s|min), next attempt in \d min: Error: 503 /,
    )
    expect(flat).toContain(' dead dead-lettered T as crashed, after 5 failed attempts: Error: no stock')
    expect(flat).toMatch(/ late done \S+ \(inbox \S+\); not yet acknowledged/)
    expect(flat).toContain(' acked acknowledged; no inbox row')
    expect(text).toContain(`outrider dead-letters show ${id}`)
    expect(
      text
        .split('\n')
        .map(widthOf)
        .filter((width) => width > 80),
    ).toEqual([])
  })

  relayTest('among others, also where the relay was late, and in a partition', async ({ createEnv }) => {
    const env = await createEnv({ partitions: { mails: 4 } })
    const ids: string[] = []
    for (let n = 0; n < 30; n++) ids.push(await insert(env))
    const pipeline = env.redis.pipeline()
    // All of them in a few milliseconds, in the order of inserting.
    for (const id of ids) pipeline.xadd('orders', '*', ...entryOf({}, { id, time: new Date(0) }))
    await pipeline.exec()
    for (const id of [ids[0]!, ids[17]!, ids[29]!]) {
      expect((await json(env, id)).event.published.state).toBe('entry')
    }
    const mail = await insert(env, { stream: 'mails', subject: 'a' })
    const { event } = await json(env, mail)
    expect(event.key).toMatch(/^mails:[0-3]$/)
    await append(env, mail, event.key as string)
    expect((await json(env, mail)).event.published.state).toBe('entry')
  })

  relayTest('whose row was rejected, whose entry was removed, whose row is gone', async ({ env }) => {
    const { lineage } = (await currentLineage(env.postgres, env.slot))!
    const rejected = await insert(env)
    await openIncidents(env.postgres, lineage, 'rejected', [
      { reason: 'too_large', position: 'p', eventId: rejected, stream: 'orders' },
    ])
    expect((await run(env, rejected)).text).toMatch(
      /^published +rejected \(too_large\) .*\n +outrider incidents show \d+$/m,
    )

    const trimmed = await insert(env)
    await env.postgres.query(
      "insert into outrider.checkpoint (lineage, lsn, snapshot) values ($1, '0/1', pg_current_snapshot())",
      [lineage],
    )
    expect((await json(env, trimmed)).event.published.state).toBe('trimmed')

    const gone = '01234567-89ab-7cde-8000-000000000001'
    const entry = await append(env, gone)
    await env.redis.hset(headKey('orders', lineage), 'entry', entry)
    expect(await json(env, gone)).toMatchObject({ inOutbox: false, event: { published: { entry } } })
  })
})

describe('several events', () => {
  relayTest('of a subject, and the tree of a correlation id', async ({ env }) => {
    const root = await insert(env, { subject: 'order-1', correlation: 'c-1' })
    const child = await insert(env, { subject: 'mail-1', correlation: 'c-1', causation: root })
    const grandchild = await insert(env, { correlation: 'c-1', causation: child })
    await insert(env, { subject: 'order-1' })
    await append(env, root)
    await groups(env, 'billing')

    const tree = (await run(env, 'c-1')).text
    expect(tree).toMatch(/^c-1 is the correlation id of 3 events/)
    const indents = [root, child, grandchild].map((id) =>
      tree
        .split('\n')
        .find((line) => line.includes(id))
        ?.indexOf(id),
    )
    expect(indents).toEqual([0, 2, 4])
    expect(tree).toContain('orders: published, billing unread')
    expect(tree).toContain('without an index')
    const subject = await json(env, 'order-1')
    expect(subject).toMatchObject({ by: 'subject', searchedSince: expect.any(String) })
    expect(subject.events).toHaveLength(2)
  })

  relayTest('older than an hour are found with --since, or with an index', async ({ env }) => {
    const id = '01234567-89ab-7cde-8000-000000000001'
    await env.postgres.query(
      "insert into outrider.outbox (id, stream, type, subject, correlation_id) values ($1::uuid, 'orders', 't', 'old', $2)",
      [id, id],
    )
    await expect(run(env, 'old')).rejects.toMatchObject({
      exitCode: 1,
      message: expect.stringMatching(/since .*--since/),
    })
    expect((await json(env, 'old', { flags: { since: '7300d' } })).events).toHaveLength(1)
    await env.postgres.query('create index on outrider.outbox (subject)')
    expect(await json(env, 'old')).toMatchObject({ searchedSince: null, event: { id } })
    // The same text may be an id and a correlation id.
    expect((await json(env, id)).by).toBe('id')
    expect((await json(env, id, { flags: { by: 'correlation', since: '7300d' } })).by).toBe('correlation')
  })
})

describe('a server that is down', () => {
  relayTest('Redis: what Postgres knows, exit code 3', async ({ env }) => {
    const id = await insert(env)
    const redis = { url: `redis://127.0.0.1:${await freePort()}`, connectTimeout: 2_000 }
    const lines: string[] = []
    const failure = await runCommand(find, env.database.url, {
      args: [id],
      config: { slot: env.slot, redis },
      out: (text) => lines.push(text),
    }).catch((error) => error)
    expect(failure).toMatchObject({
      exitCode: 3,
      message: expect.stringMatching(/^Redis at .* refused the connection/),
    })
    expect(lines.join()).toMatch(/^published +its entry was not looked for/m)
  })

  relayTest('Postgres: where it is in its stream, exit code 3', async ({ env }) => {
    const { lineage } = (await currentLineage(env.postgres, env.slot))!
    const id = await insert(env)
    await env.redis.hset(headKey('orders', lineage), 'entry', await append(env, id))
    await groups(env, 'billing')
    const lines: string[] = []
    const url = `postgres://me@127.0.0.1:${await freePort()}/shop`
    const config = { redis: { url: env.server.url, connectTimeout: 10_000 } }
    const failure = await runCommand(find, url, { args: [id], config, out: (text) => lines.push(text) }).catch(
      (error) => error,
    )
    expect(failure).toMatchObject({ exitCode: 3 })
    expect(lines.join()).toMatch(/^billing +unread/m)
  })

  relayTest('an inbox: the others are asked, and it is named', async ({ env }) => {
    const id = await insert(env)
    const { text } = await run(env, id, { flags: { inbox: [`postgres://me@127.0.0.1:${await freePort()}/shop`] } })
    expect(text).toMatch(/^Inbox at 127\.0\.0\.1:\d+\/shop not asked: Postgres at/m)
  })
})

relayTest('what cannot be looked for is refused', async ({ env }) => {
  const refusal = (args: string[], flags: CommandRun['flags'] = {}) =>
    run(env, '', { args, flags }).catch((error) => ({ exitCode: error.exitCode, message: error.message }))
  expect(await refusal([])).toMatchObject({ exitCode: 2, message: expect.stringContaining('found none') })
  expect(await refusal(['a', 'b'])).toMatchObject({ exitCode: 2, message: expect.stringContaining('"a b"') })
  expect(await refusal(['a'], { by: 'type' })).toMatchObject({ exitCode: 2 })
  expect(await refusal(['a'], { since: 'soon' })).toMatchObject({ exitCode: 2 })
  expect(await refusal(['nothing'])).toMatchObject({ exitCode: 1, message: expect.stringContaining('Found no event') })
})
