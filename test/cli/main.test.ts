import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { describe, expect, it, onTestFinished } from 'vitest'
import { MAIN } from '../../testkit/outrider.js'
import { createDatabase, freePort, freshRedis, sharedPostgres } from '../../testkit/services/index.js'

interface Ended {
  code: number | null
  out: string
  err: string
}

/** Runs `outrider …` as a process with nothing in its environment but `env`, and without a terminal. */
async function outrider(args: string[], env: Record<string, string> = {}): Promise<Ended> {
  const child = spawn(process.execPath, [MAIN, ...args], {
    env: { PATH: process.env.PATH, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  onTestFinished(() => void child.kill('SIGKILL'))
  const [out, err, [code]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')])
  expect(out + err).not.toContain('hunter2')
  return { code, out, err }
}

/** One line on stderr, nothing on stdout, no stack trace. */
function expectLine({ code, out, err }: Ended, expected: number, ...texts: string[]): void {
  for (const text of texts) expect(err).toContain(text)
  expect(err).toMatch(/^outrider: [^\n]+\n$/)
  expect(err).not.toMatch(/\bat .*:\d+:\d+|node_modules|\.ts\b/)
  expect(out).toBe('')
  expect(code).toBe(expected)
}

const URLS = {
  OUTRIDER_POSTGRES_URL: 'postgres://me:hunter2@127.0.0.1:1/shop',
  OUTRIDER_REDIS_URL: 'redis://:hunter2@127.0.0.1:1',
}

describe('help', () => {
  it('tells of every command and every option that all have', async () => {
    const { code, out, err } = await outrider(['--help'])
    expect([code, err]).toEqual([0, ''])
    for (const name of [
      'setup',
      'teardown',
      'adopt',
      'move-redis',
      'relay',
      'check',
      'ping',
      'status',
      'find',
      'incidents',
      'dead-letters',
    ])
      expect(out).toMatch(new RegExp(`^  ${name} +\\S`, 'm'))
    for (const option of ['--config', '--timeout', '--json', '--yes', '--help', '--version'])
      expect(out).toContain(option)
    expect(out).not.toContain('\u001b')
  })

  it('names the environment variables, the port and the documentation, with examples', async () => {
    for (const args of [['--help'], ['incidents', '--help']]) {
      const { out } = await outrider(args)
      for (const text of ['OUTRIDER_POSTGRES_URL', 'OUTRIDER_REDIS_URL', '9474', 'docs/', 'Examples']) {
        expect(out).toContain(text)
      }
    }
  })

  it.each([[['setup', '--help']], [['help', 'setup']]])('tells of one command: %j', async (args) => {
    const { code, out } = await outrider(args)
    expect(code).toBe(0)
    expect(out).toContain('outrider setup')
    expect(out).toContain('--only inbox')
  })

  it('comes for nothing at all, as wrong usage', async () => {
    const { code, out, err } = await outrider([])
    expect([code, out]).toEqual([2, ''])
    expect(err).toContain('outrider <command> [options]')
  })

  it('knows the version', async () => {
    const { code, out } = await outrider(['--version'])
    expect([code, out]).toEqual([0, expect.stringMatching(/^\d+\.\d+\.\d+\n$/)])
  })
})

describe('wrong usage is one line and exit code 2', () => {
  it.each([
    [['setpu'], 'Unknown command "setpu". Did you mean setup?'],
    [['constructor'], 'Unknown command "constructor". See `outrider --help`'],
    [['incidents', 'lits'], 'Expected list, show, repair or close, found "lits". Did you mean list?'],
    [['dead-letters', 'replya'], 'found "replya". Did you mean replay? See `outrider dead-letters --help`.'],
    [['setup', '--onyl', 'inbox'], 'Unknown option --onyl. Did you mean --only? See `outrider setup --help`.'],
    [['setup', '--only'], '--only'],
    [['setup', 'foo'], 'outrider setup takes no arguments, found "foo".'],
    [['setup', '--timeout', 'soon'], 'Expected --timeout as a duration such as 10s, found "soon".'],
    [['setup', '--config', '/nowhere.yaml'], '/nowhere.yaml: expected a readable configuration file; found ENOENT'],
  ])('%j', async (args, message) => {
    expectLine(await outrider(args, URLS), 2, message)
  })

  it('a setting that is wrong', async () => {
    expectLine(
      await outrider(['setup'], { ...URLS, OUTRIDER_HTTP_PORT: 'http' }),
      2,
      'OUTRIDER_HTTP_PORT: expected a port from 0 to 65535; found "http"',
    )
    const url = 'mysql://me:hunter2@db/shop'
    expectLine(
      await outrider(['setup'], { ...URLS, OUTRIDER_POSTGRES_URL: url }),
      2,
      'OUTRIDER_POSTGRES_URL',
      'mysql://me:***@db/shop',
    )
  })
})

describe('a dependency that cannot be used is one line', () => {
  it('unreachable: exit code 3', async () => {
    const port = await freePort()
    const env = { ...URLS, OUTRIDER_POSTGRES_URL: `postgres://me:hunter2@127.0.0.1:${port}/shop` }
    expectLine(await outrider(['incidents'], env), 3, `Postgres at 127.0.0.1:${port} refused the connection`)
  })

  it('a database that is missing: exit code 1', async () => {
    const server = await sharedPostgres()
    const env = { ...URLS, OUTRIDER_POSTGRES_URL: server.url('no_such_database') }
    expectLine(await outrider(['incidents'], env), 1, 'has no database "no_such_database"')
  })

  it('a role without the privilege: exit code 1', async () => {
    const database = await createDatabase()
    onTestFinished(() => database.drop())
    const role = `nobody_${database.name}`
    await database.query(`create role ${role} login`)
    onTestFinished(() => database.server.query(`drop role ${role}`).then(() => {}))
    const env = { ...URLS, OUTRIDER_POSTGRES_URL: database.urlAs({ user: role }) }
    const ended = await outrider(['setup'], env)
    expectLine(ended, 1, 'permission denied')
  })
})

describe('a server that a command does not use', () => {
  it('needs no URL, and a URL that is given is checked', async () => {
    const [postgres, redis] = [await freePort(), await freePort()].map((port) => `127.0.0.1:${port}`)
    const postgresOnly = { OUTRIDER_POSTGRES_URL: `postgres://me:hunter2@${postgres}/shop` }
    for (const args of [['incidents'], ['setup', '--only', 'inbox'], ['teardown']]) {
      expectLine(await outrider(args, postgresOnly), 3, `Postgres at ${postgres} refused the connection`)
    }
    expectLine(await outrider(['dead-letters'], { REDIS_URL: `redis://${redis}` }), 3, `Redis at ${redis} refused`)
    expectLine(await outrider(['incidents'], { ...postgresOnly, REDIS_URL: 'http://x' }), 2, 'redis://')
    expectLine(await outrider(['status'], postgresOnly), 2, 'redis.url (OUTRIDER_REDIS_URL): expected a URL')
  })
})

it('does what it is told, with the settings of a URL and a file', async () => {
  const database = await createDatabase()
  const redis = await freshRedis()
  onTestFinished(() => redis.remove())
  onTestFinished(() => database.drop())
  const env = { DATABASE_URL: database.url, REDIS_URL: redis.url }
  const setup = await outrider(['setup', '--json', '--lock-timeout', '60s'], env)
  expect([setup.code, setup.err]).toEqual([0, ''])
  expect(JSON.parse(setup.out)).toBeTypeOf('object')
  const incidents = await outrider(['incidents'], env)
  expect([incidents.code, incidents.out, incidents.err]).toEqual([0, 'No open incident.\n', ''])

  // Without a terminal nothing asks.
  const asked = await outrider(['teardown'], env)
  expect(asked.code).toBe(2)
  expect(asked.err).toMatch(/^outrider: .*There is no terminal to answer on\. Run it again with --yes/)
  expect((await outrider(['teardown', '--yes'], env)).code).toBe(0)
})
