import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { OutriderError } from '../base/failure.js'
import { readSecret } from '../base/secret.js'
import { loadConfig } from './load.js'
import { VARIABLES } from './variables.js'

const folder = mkdtempSync(join(tmpdir(), 'outrider-config-'))
afterAll(() => rmSync(folder, { recursive: true }))

let count = 0
function written(text: string): string {
  const file = join(folder, `${count++}`)
  writeFileSync(file, text)
  return file
}

const URLS = { OUTRIDER_POSTGRES_URL: 'postgres://me@db/shop', OUTRIDER_REDIS_URL: 'redis://r' }
const load = (env: Record<string, string> = {}, yaml?: string) =>
  loadConfig({ env: { ...URLS, ...env }, ...(yaml === undefined ? {} : { file: written(yaml) }) })

function failure(load: () => unknown): OutriderError {
  try {
    load()
  } catch (error) {
    expect(error).toBeInstanceOf(OutriderError)
    expect((error as OutriderError).exitCode).toBe(2)
    return error as OutriderError
  }
  throw new Error('Expected an OutriderError, found none.')
}

describe('every setting is refused when it is wrong, with its name, what was expected and what was found', () => {
  const wrong: [variable: string, value: string, expected: string, shown?: string][] = [
    ['OUTRIDER_POSTGRES_URL', 'mysql://me:hunter2@db/x', 'starts with postgres://', 'mysql://me:***@db/x'],
    ['OUTRIDER_POSTGRES_URL', 'hunter2', 'starts with postgres://', '(hidden, 7 characters)'],
    ['OUTRIDER_POSTGRES_URL', 'postgres://me:hunter2@db/x?sslmode=no-verify', 'sslmode=verify-full', 'me:***@db'],
    ['OUTRIDER_POSTGRES_URL', 'postgres://me:hunter2@db/x?sslmode=prefer', 'sslmode=verify-full', 'me:***@db'],
    [
      'OUTRIDER_POSTGRES_URL',
      'postgres://me@db/x?password=hunter2&sslmode=allow',
      'sslmode=verify-full',
      'password=***',
    ],
    ['OUTRIDER_POSTGRES_URL_FILE', '/nowhere', 'a readable file that holds a URL', 'ENOENT'],
    ['OUTRIDER_POSTGRES_PASSWORD_FILE', '/nowhere', 'a readable file', 'ENOENT'],
    ['OUTRIDER_POSTGRES_TLS_CA', '/nowhere', 'a readable file', 'ENOENT'],
    ['OUTRIDER_POSTGRES_TLS_CERT', '/nowhere', 'a readable file', 'ENOENT'],
    ['OUTRIDER_POSTGRES_TLS_KEY', '/nowhere', 'a readable file', 'ENOENT'],
    ['OUTRIDER_POSTGRES_CONNECT_TIMEOUT', 'soon', 'a duration', '"soon"'],
    ['OUTRIDER_POSTGRES_CONNECT_TIMEOUT', '0', 'above 0', '"0"'],
    ['OUTRIDER_REDIS_URL', 'http://:hunter2@r', 'starts with redis://', 'http://:***@r'],
    ['OUTRIDER_REDIS_URL_FILE', '/nowhere', 'a readable file that holds a URL', 'ENOENT'],
    ['OUTRIDER_REDIS_PASSWORD_FILE', '/nowhere', 'a readable file', 'ENOENT'],
    ['OUTRIDER_REDIS_SENTINEL_USERNAME', 'me', 'redis+sentinel://', 'another URL'],
    ['OUTRIDER_REDIS_SENTINEL_PASSWORD', 'hunter2', 'redis+sentinel://', 'another URL'],
    ['OUTRIDER_REDIS_SENTINEL_PASSWORD_FILE', '/nowhere', 'a readable file', 'ENOENT'],
    ['OUTRIDER_REDIS_TLS_CA', '/nowhere', 'a readable file', 'ENOENT'],
    ['OUTRIDER_REDIS_TLS_CERT', '/nowhere', 'a readable file', 'ENOENT'],
    ['OUTRIDER_REDIS_TLS_KEY', '/nowhere', 'a readable file', 'ENOENT'],
    ['OUTRIDER_REDIS_TLS_SERVER_NAME', 'r', 'rediss://', 'a URL without TLS'],
    ['OUTRIDER_REDIS_CONNECT_TIMEOUT', '-5s', 'a duration', '"-5s"'],
    ['OUTRIDER_SLOT', 'My-Slot', 'a slot name of 1 to 63 lower-case letters', '"My-Slot"'],
    ['OUTRIDER_SLOT', 'x'.repeat(64), 'a slot name of 1 to 63 lower-case letters', 'xxx'],
    ['OUTRIDER_PUBLICATION', 'no good', 'a publication name', '"no good"'],
    ['OUTRIDER_SOURCE', 'no good', 'a URI reference', '"no good"'],
    ['OUTRIDER_SOURCE', '/100%', 'a URI reference', '"/100%"'],
    ['OUTRIDER_DURABILITY', 'fsnc', 'one of auto, memory, fsync, replicated, fsync+replicated', '"fsnc"'],
    ['OUTRIDER_RETENTION', 'a week', 'a duration', '"a week"'],
    ['OUTRIDER_RETENTION_MAX_SIZE', 'much', 'a size', '"much"'],
    ['OUTRIDER_REPAIR_MAX_EVENTS', '0', 'a number of events from 1 to 1000000000', '"0"'],
    ['OUTRIDER_MAX_EVENT_BYTES', '65MiB', 'at most 64MiB', '"65MiB"'],
    ['OUTRIDER_MAX_EVENT_BYTES', '1 megabyte', 'a size', '"1 megabyte"'],
    ['OUTRIDER_ON_GAP', 'ignore', 'one of repair, halt', '"ignore"'],
    ['OUTRIDER_HTTP_PORT', 'http', 'a port from 0 to 65535', '"http"'],
    ['OUTRIDER_HTTP_PORT', '65536', 'a port from 0 to 65535', '"65536"'],
    ['OUTRIDER_LOG_LEVEL', 'loud', 'one of trace, debug, info, warn, error, fatal, silent', '"loud"'],
    ['OUTRIDER_LIMITS_BATCH_EVENTS', '0', 'a number of events from 1 to 10000', '"0"'],
    ['OUTRIDER_LIMITS_BATCH_BYTES', '0', 'a size', '"0"'],
    ['OUTRIDER_LIMITS_INFLIGHT_BYTES', '2GiB', 'at most 1GiB', '"2GiB"'],
    ['OUTRIDER_DRAIN_TIMEOUT', '2h', 'at most 1h', '"2h"'],
  ]

  it.each(wrong)('%s=%s', (variable, value, expected, shown = value) => {
    const { message } = failure(() => {
      const other = variable.endsWith('URL_FILE') ? { [variable.replace('_FILE', '')]: '' } : {}
      load({ ...other, [variable]: value })
    })
    expect(message).toContain(variable)
    expect(message).toContain(expected)
    expect(message).toContain(shown)
    expect(message).not.toContain('hunter2')
  })

  it('leaves out only what is right whatever it says', () => {
    const free = ['POSTGRES_PASSWORD', 'POSTGRES_TLS_SERVER_NAME', 'REDIS_USERNAME', 'REDIS_PASSWORD', 'HTTP_HOST']
    const tested = new Set(wrong.map(([variable]) => variable))
    expect(Object.keys(VARIABLES).filter((variable) => !tested.has(variable))).toEqual(
      free.map((name) => `OUTRIDER_${name}`),
    )
  })

  it.each([
    ['slot: 5', 'slot', 'a slot name', '5'],
    ['slot:', 'slot', 'a slot name', 'null'],
    ['postgres: 5', 'postgres', 'a mapping', '5'],
    ['postgres: [1]', 'postgres', 'a mapping', '[1]'],
    ['postgres: {password: 5}', 'postgres.password', 'a password', '(hidden)'],
    ['postgres: {passwordFile: hunter2}', 'postgres.passwordFile', 'a readable file', 'ENOENT'],
    ['postgres: {tls: {ca: 1}}', 'postgres.tls.ca', 'the path of a file', '1'],
    ['postgres: {tls: {serverName: ""}}', 'postgres.tls.serverName', 'the name that the certificate bears', '""'],
    ['redis: {username: [a]}', 'redis.username', 'a user name', '["a"]'],
    ['redis: {sentinelPassword: 5}', 'redis.sentinelPassword', 'a password', '(hidden)'],
    ['http: {port: -1}', 'http.port', 'a port from 0 to 65535', '-1'],
    ['http: {port: 1.5}', 'http.port', 'a port from 0 to 65535', '1.5'],
    ['http: {host: 5}', 'http.host', 'an address', '5'],
    ['limits: {batchEvents: many}', 'limits.batchEvents', 'a number of events', '"many"'],
    ['streams: 5', 'streams', 'a mapping', '5'],
    ['streams: {"a b": {}}', 'streams.a b', 'a stream name', '"a b"'],
    ['streams: {outrider_x: {}}', 'streams.outrider_x', 'a stream name', '"outrider_x"'],
    ['streams: {a: {partitions: 1025}}', 'streams.a.partitions', 'a number of partitions from 1 to 1024', '1025'],
    ['streams: {a: {retention: ever}}', 'streams.a.retention', 'a duration', '"ever"'],
    ['streams: {a: {groups: billing}}', 'streams.a.groups', 'a list', '"billing"'],
    ['streams: {a: {groups: ["a b"]}}', 'streams.a.groups', 'a list', '["a b"]'],
    ['streams: {a: {maxFinished: 0}}', 'streams.a.maxFinished', 'a number of entries from 1', '0'],
    ['streams: {a: {trimAtMemory: 100}}', 'streams.a.trimAtMemory', 'a percentage of maxmemory from 0 to 99', '100'],
    ['streams: {a: {maxFinished: 9, maxLength: 9}}', 'streams.a.maxFinished', 'fewer entries than maxLength (9)', '9'],
    ['streams: {a: {retention: 0, groups: [b]}}', 'streams.a.groups', 'groups only of a stream that is trimmed', 'a'],
    ['streams: {"*": {partitions: 2}}', 'streams.*.partitions', 'of one stream, by its name', 'one of every stream'],
    ['outbox: {table: events, stream: x, columns: {id: a, type: b}}', 'outbox.table', 'schema.table', '"events"'],
    ['outbox: {table: a.b, stream: "{a", columns: {id: a, type: b}}', 'outbox.stream', 'a template', '"{a"'],
    ['outbox: {table: a.b, stream: x, columns: {id: a}}', 'outbox.columns.type', 'the name of a column', 'nothing'],
    ['outbox: {table: a.b, stream: x}', 'outbox.columns', 'a mapping', 'nothing'],
  ])('%s', (yaml, path, expected, shown) => {
    const { message } = failure(() => load({}, yaml))
    expect(message).toContain(`${path}`)
    expect(message).toContain(expected)
    expect(message).toContain(`found ${shown}`)
    expect(message).not.toContain('hunter2')
  })

  it('names a column of the outbox that is wrong', () => {
    for (const column of [
      'id',
      'type',
      'subject',
      'data',
      'schemaVersion',
      'correlationId',
      'causationId',
      'headers',
      'time',
    ]) {
      const columns = { id: 'id', type: 'type', [column]: 5 }
      const { message } = failure(() => load({}, JSON.stringify({ outbox: { table: 'a.b', stream: 'x', columns } })))
      expect(message).toContain(`outbox.columns.${column}`)
    }
  })
})

describe('settings that are wrong together are refused', () => {
  const inUrl = { OUTRIDER_POSTGRES_URL: 'postgres://me:hunter2@db/shop', OUTRIDER_REDIS_URL: 'redis://me:hunter2@r' }
  const file = written('hunter2')

  it.each<[string, Record<string, string>, string, string]>([
    [
      'a password in the URL and beside it',
      { ...inUrl, OUTRIDER_POSTGRES_PASSWORD: 'hunter2' },
      'OUTRIDER_POSTGRES_PASSWORD',
      'not both',
    ],
    [
      'one in the URL and in a file',
      { ...inUrl, OUTRIDER_REDIS_PASSWORD_FILE: file },
      'OUTRIDER_REDIS_PASSWORD_FILE',
      'not both',
    ],
    ['two user names', { ...inUrl, OUTRIDER_REDIS_USERNAME: 'you' }, 'OUTRIDER_REDIS_USERNAME', 'not both'],
    [
      'a secret and its file',
      { OUTRIDER_POSTGRES_PASSWORD: 'hunter2', OUTRIDER_POSTGRES_PASSWORD_FILE: file },
      'OUTRIDER_POSTGRES_PASSWORD and OUTRIDER_POSTGRES_PASSWORD_FILE',
      'only one',
    ],
    [
      'a URL and its file',
      { OUTRIDER_REDIS_URL_FILE: file },
      'OUTRIDER_REDIS_URL and OUTRIDER_REDIS_URL_FILE',
      'only one',
    ],
    [
      'a CA and sslmode=disable',
      { OUTRIDER_POSTGRES_URL: 'postgres://db/shop?sslmode=disable', OUTRIDER_POSTGRES_TLS_CA: file },
      'OUTRIDER_POSTGRES_TLS_CA',
      'sslmode=disable',
    ],
    [
      'two CAs',
      { OUTRIDER_POSTGRES_URL: 'postgres://db/shop?sslrootcert=/x', OUTRIDER_POSTGRES_TLS_CA: file },
      'OUTRIDER_POSTGRES_TLS_CA',
      'not both',
    ],
    [
      'a certificate without its key',
      { OUTRIDER_POSTGRES_TLS_CERT: file },
      'OUTRIDER_POSTGRES_TLS_KEY',
      'the key of the certificate',
    ],
    ['TLS settings and a URL without TLS', { OUTRIDER_REDIS_TLS_CA: file }, 'OUTRIDER_REDIS_TLS_CA', 'rediss://'],
    [
      'a batch larger than all that may be in flight',
      { OUTRIDER_LIMITS_BATCH_BYTES: '2MiB', OUTRIDER_LIMITS_INFLIGHT_BYTES: '1MiB' },
      'OUTRIDER_LIMITS_BATCH_BYTES',
      'at most limits.inflightBytes (1048576)',
    ],
    [
      'an event larger than that',
      { OUTRIDER_MAX_EVENT_BYTES: '33MiB' },
      'OUTRIDER_MAX_EVENT_BYTES',
      'at most limits.inflightBytes',
    ],
  ])('%s', (_, env, name, expected) => {
    const { message } = failure(() => load(env))
    expect(message).toContain(name)
    expect(message).toContain(expected)
    expect(message).not.toContain('hunter2')
  })

  it('a secret and its file in the file', () => {
    const { message } = failure(() => load({}, 'redis: {password: hunter2, passwordFile: /x}'))
    expect(message).toContain('redis.password and redis.passwordFile')
    expect(message).not.toContain('hunter2')
  })
})

it('names everything that is wrong at once', () => {
  const { message } = failure(() =>
    loadConfig({
      env: { OUTRIDER_HTTP_PORT: 'http', OUTRIDER_SLOTT: 'x' },
      file: written('onGap: ignore\nhttp: {prot: 1}'),
    }),
  )
  expect(message.split('\n')).toHaveLength(7)
  for (const name of [
    'postgres.url (OUTRIDER_POSTGRES_URL)',
    'redis.url (OUTRIDER_REDIS_URL)',
    'OUTRIDER_HTTP_PORT',
    'onGap',
  ]) {
    expect(message).toContain(name)
  }
})

describe('what is not known', () => {
  it('is refused as a key, with what was probably meant', () => {
    expect(failure(() => load({}, 'http: {prot: 1}')).message).toMatch(
      /http\.prot in .*: expected a known setting, perhaps port/,
    )
    expect(failure(() => load({}, 'streams: {a: {partition: 1}}')).message).toMatch(
      /streams\.a\.partition in .*perhaps partitions/,
    )
  })

  it('is refused as a variable, with what was probably meant', () => {
    const { message } = failure(() => load({ OUTRIDER_SLOTT: 'hunter2' }))
    expect(message).toBe(
      'Configuration: OUTRIDER_SLOTT: expected a known variable, perhaps OUTRIDER_SLOT; found one that sets nothing',
    )
  })

  it('is left alone where tests and Kubernetes put it', () => {
    load({
      OUTRIDER_TEST_POSTGRES: '17',
      OUTRIDER_SERVICE_HOST: '10.0.0.1',
      OUTRIDER_SERVICE_PORT: '9474',
      OUTRIDER_SERVICE_PORT_HTTP: '9474',
      OUTRIDER_PORT: 'tcp://10.0.0.1:9474',
      OUTRIDER_PORT_9474_TCP: 'tcp://10.0.0.1:9474',
      OUTRIDER_PORT_9474_TCP_ADDR: '10.0.0.1',
      OUTRIDER_METRICS_PORT_9474_TCP_PROTO: 'tcp',
    })
    expect(failure(() => load({ OUTRIDER_PORT: '9474' })).message).toContain('OUTRIDER_PORT: expected a known variable')
  })
})

describe('the file', () => {
  it('is named when it cannot be read', () => {
    const file = join(folder, 'none.yaml')
    expect(failure(() => loadConfig({ env: URLS, file })).message).toBe(
      `Configuration: ${file}: expected a readable configuration file; found ENOENT`,
    )
  })

  it('is not quoted when it is no YAML, because it may hold passwords', () => {
    const { message } = failure(() => load({}, 'postgres:\n  password: "hunter2\n x: ['))
    expect(message).toMatch(/expected valid YAML; found .* at line \d+, column \d+$/)
    expect(message).not.toContain('hunter2')
    expect(failure(() => load({}, '- hunter2')).message).toContain('found a list')
    expect(failure(() => load({}, 'hunter2')).message).toContain('found a string')
  })

  it('may be empty, and may leave a section empty', () => {
    expect(load({}, '')).toEqual(load())
    expect(load({}, 'http:\nlimits:\n')).toEqual(load())
  })

  it('is found by OUTRIDER_CONFIG, unless another is given', () => {
    const env = { ...URLS, OUTRIDER_CONFIG: written('slot: one') }
    expect(loadConfig({ env }).slot).toBe('one')
    expect(loadConfig({ env, file: written('slot: two') }).slot).toBe('two')
  })

  it('gives way to variables', () => {
    const yaml =
      'postgres: {url: "postgres://other/other", passwordFile: /other}\nslot: other\nhttp: {port: 1, host: h}'
    const config = load({ OUTRIDER_POSTGRES_PASSWORD: 'mine', OUTRIDER_SLOT: 'mine', OUTRIDER_HTTP_PORT: '2' }, yaml)
    expect(config).toMatchObject({ slot: 'mine', http: { port: 2, host: 'h' } })
    expect(config.postgres).toMatchObject({ url: 'postgres://me@db/shop', password: { value: 'mine' } })
  })
})

describe('what comes out', () => {
  it('has the defaults of the contract', () => {
    expect(load()).toEqual({
      postgres: { url: 'postgres://me@db/shop', connectTimeout: 10_000 },
      redis: { url: 'redis://r', connectTimeout: 5_000 },
      slot: 'outrider_shop',
      publication: 'outrider',
      source: undefined,
      durability: 'auto',
      retention: 259_200_000,
      retentionMaxSize: 53_687_091_200,
      isRetentionSet: false,
      maxEventBytes: 1_048_576,
      onGap: 'repair',
      repairMaxEvents: 10_000_000,
      http: { port: 9474, host: '0.0.0.0' },
      logLevel: 'info',
      streams: {},
      outbox: {
        table: 'outrider.outbox',
        stream: '{stream}',
        columns: {
          id: 'id',
          type: 'type',
          subject: 'subject',
          data: 'data',
          schemaVersion: 'schema_version',
          correlationId: 'correlation_id',
          causationId: 'causation_id',
          headers: 'headers',
          time: 'created_at',
        },
      },
      limits: { batchEvents: 256, batchBytes: 262_144, inflightBytes: 8_388_608 },
      drainTimeout: 20_000,
    })
  })

  it('has what the file says', () => {
    const outbox = {
      table: 'public.events',
      stream: 'shop.{kind}',
      columns: { id: 'event_id', type: 'event', data: 'payload' },
    }
    const streams = { orders: { partitions: 16, retention: '7d', groups: ['billing'] }, other: {} }
    const config = load({}, JSON.stringify({ outbox, streams, limits: { batchBytes: '1MiB' }, source: '/shop' }))
    expect(config).toMatchObject({ outbox, limits: { batchEvents: 256, batchBytes: 1_048_576 }, source: '/shop' })
    expect(config.streams).toEqual({
      orders: { partitions: 16, retention: 604_800_000, groups: ['billing'] },
      other: {},
    })
  })

  it('takes DATABASE_URL and REDIS_URL only where nothing of its own is set', () => {
    const env = { DATABASE_URL: 'postgres://d/d', REDIS_URL: 'redis://d' }
    expect(loadConfig({ env })).toMatchObject({
      postgres: { url: 'postgres://d/d' },
      redis: { url: 'redis://d' },
      slot: 'outrider_d',
    })
    expect(loadConfig({ env: { ...env, ...URLS } })).toMatchObject({ postgres: { url: URLS.OUTRIDER_POSTGRES_URL } })
    const file = written('postgres: {url: "postgres://f/f"}\nredis: {urlFile: /nowhere}')
    expect(failure(() => loadConfig({ env, file })).message).toContain('redis.urlFile')
  })

  it('takes an empty variable for one that is not set', () => {
    expect(load({ OUTRIDER_SLOT: '', OUTRIDER_POSTGRES_PASSWORD_FILE: '' })).toEqual(load())
  })

  it('makes a slot name of any database name', () => {
    const slotOf = (database: string) =>
      load({ OUTRIDER_POSTGRES_URL: `postgres://db/${encodeURIComponent(database)}` }).slot
    expect(slotOf('My-Shop.1')).toBe('outrider_my_shop_1')
    expect(slotOf('x'.repeat(63))).toHaveLength(63)
  })

  it('keeps passwords out of the URLs', () => {
    const config = load({
      OUTRIDER_POSTGRES_URL: 'postgres://me:hunter%402@db:1/shop?sslmode=require',
      OUTRIDER_REDIS_URL: 'rediss+sentinel://:hunter2@a:1/main?node=b:2',
    })
    expect(config.postgres).toMatchObject({
      url: 'postgres://me@db:1/shop?sslmode=require',
      password: { value: 'hunter@2' },
    })
    expect(config.redis).toMatchObject({ url: 'rediss+sentinel://a:1/main?node=b:2', password: { value: 'hunter2' } })
    expect(load({ OUTRIDER_POSTGRES_URL: 'postgres://db/shop?password=hunter2&user=me' }).postgres).toMatchObject({
      url: 'postgres://db/shop?user=me',
      password: { value: 'hunter2' },
    })
  })

  it('reads a secret from its file again each time', async () => {
    const file = written('first\n')
    const { password } = load({ OUTRIDER_POSTGRES_PASSWORD_FILE: file }).postgres
    expect(await readSecret(password!)).toBe('first')
    writeFileSync(file, 'second')
    expect(await readSecret(password!)).toBe('second')
    rmSync(file)
    await expect(readSecret(password!)).rejects.toThrow(
      `Expected a readable file with a secret at ${file}, found ENOENT.`,
    )
  })

  it('reads the password of a URL in a file again each time, too', async () => {
    const file = written('redis://:first@r/1\n')
    const { url, password } = load({ OUTRIDER_REDIS_URL: '', OUTRIDER_REDIS_URL_FILE: file }).redis
    expect(url).toBe('redis://r/1')
    writeFileSync(file, 'redis://:sec%40nd@r/1')
    expect(await readSecret(password!)).toBe('sec@nd')
    writeFileSync(file, 'redis://r/1')
    await expect(readSecret(password!)).rejects.toThrow(`Expected a URL with a password in ${file}, found none.`)
  })
})

describe('retention', () => {
  it('is a duration, the default by name, or 0; whether it was asked for is known', () => {
    const of = (env: Record<string, string>) => {
      const { retention, retentionMaxSize, isRetentionSet } = load(env)
      return [retention, retentionMaxSize, isRetentionSet]
    }
    expect(of({ OUTRIDER_RETENTION: 'default' })).toEqual([259_200_000, 53_687_091_200, true])
    expect(of({ OUTRIDER_RETENTION: '7d' })).toEqual([604_800_000, 53_687_091_200, true])
    expect(of({ OUTRIDER_RETENTION: '0' })).toEqual([0, 53_687_091_200, true])
    expect(of({ OUTRIDER_RETENTION_MAX_SIZE: '1GiB' })).toEqual([259_200_000, 1_073_741_824, true])
    expect(failure(() => load({ OUTRIDER_RETENTION: '4000d' })).message).toContain('at most 3650d')
  })

  it('is refused where it would have no effect', () => {
    const mapped = 'outbox: {table: public.events, stream: "{kind}", columns: {id: id, type: type}}\n'
    expect(failure(() => load({ OUTRIDER_RETENTION: '72h' }, mapped)).message).toContain(
      'a table of your own is never emptied',
    )
    expect(failure(() => load({}, `${mapped}retentionMaxSize: 1GiB\n`)).message).toContain(
      'a table of your own is never emptied',
    )
    expect(failure(() => load({}, 'retention: 0\nretentionMaxSize: 1GiB\n')).message).toContain(
      'it only with a retention above 0',
    )
    expect(load({}, mapped).isRetentionSet).toBe(false)
  })
})
