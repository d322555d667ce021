import { chownSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { afterAll, describe, expect, it, onTestFinished, vi } from 'vitest'
import type { ExitCode, OutriderError } from '../../src/base/failure.js'
import type { PostgresConfig } from '../../src/config/schema.js'
import { connectFailure, connectPostgres, postgresOptions } from '../../src/postgres/client/connect.js'
import {
  createDatabase,
  freePort,
  needsProcess,
  type Postgres,
  sharedPostgres,
  startPostgres,
  startProxy,
} from '../../testkit/services/index.js'
import { type Authority, createCertificate } from '../support/certificate.js'

const config = (url: string, more: Partial<PostgresConfig> = {}): PostgresConfig => ({
  url,
  connectTimeout: 10_000,
  ...more,
})

async function failure(config: PostgresConfig): Promise<OutriderError> {
  const client = await connectPostgres(config, 'test').catch((error: OutriderError) => error)
  if (client instanceof pg.Client) {
    await client.end()
    throw new Error('Expected an OutriderError, found a connection.')
  }
  expect(client.name).toBe('OutriderError')
  expect(client.message).not.toContain('\n')
  expect(client.message).not.toContain('hunter2')
  return client
}

async function refused(
  given: PostgresConfig,
  exitCode: ExitCode,
  code: string | undefined,
  ...texts: string[]
): Promise<void> {
  const { message, cause, exitCode: found } = await failure(given)
  for (const text of texts) expect(message).toContain(text)
  expect(found, message).toBe(exitCode)
  expect((cause as { code?: string }).code).toBe(code)
}

const folder = mkdtempSync(join(tmpdir(), 'outrider-connect-'))
afterAll(() => rmSync(folder, { recursive: true }))
let count = 0
function written(text: string): string {
  const file = join(folder, `${count++}`)
  writeFileSync(file, text)
  return file
}

describe('connected', () => {
  it('pins everything that text depends on, whatever the database says', async () => {
    const database = await createDatabase()
    onTestFinished(() => database.drop())
    const odd = {
      DateStyle: 'German',
      TimeZone: 'Asia/Tokyo',
      IntervalStyle: 'iso_8601',
      extra_float_digits: '0',
      bytea_output: 'escape',
    }
    for (const [name, value] of Object.entries(odd)) {
      await database.query(`alter database ${pg.escapeIdentifier(database.name)} set ${name} = '${value}'`)
    }
    await database.query(`alter database ${pg.escapeIdentifier(database.name)} set client_encoding = 'latin1'`)
    const client = await connectPostgres(config(`${database.url}?options=-c%20lock_timeout%3D77`), 'outrider test')
    onTestFinished(() => client.end())
    const show = async (name: string) =>
      (await client.query(`select current_setting('${name}') as value`)).rows[0].value
    expect(await show('DateStyle')).toMatch(/^ISO/)
    expect(await show('TimeZone')).toBe('UTC')
    expect(await show('IntervalStyle')).toBe('postgres')
    expect(await show('extra_float_digits')).toBe('3')
    expect(await show('bytea_output')).toBe('hex')
    expect(await show('client_encoding')).toBe('UTF8')
    expect(await show('application_name')).toBe('outrider test')
    expect(await show('lock_timeout')).toBe('77ms')
  })

  it('pins them for replication, too', async () => {
    const database = await createDatabase()
    onTestFinished(() => database.drop())
    const options = await postgresOptions(config(database.url), 'outrider test')
    const client = new pg.Client({ ...options, replication: 'database' } as pg.ClientConfig)
    await client.connect()
    onTestFinished(() => client.end())
    expect((await client.query('show TimeZone')).rows[0]).toEqual({ TimeZone: 'UTC' })
    expect((await client.query('IDENTIFY_SYSTEM')).rows[0]).toMatchObject({ dbname: database.name })
  })

  it('outlives the loss of its connection while idle', async () => {
    const database = await createDatabase()
    onTestFinished(() => database.drop())
    const client = await connectPostgres(config(database.url), 'test')
    const ended = new Promise((resolve) => client.once('end', resolve))
    const { rows } = await client.query('select pg_backend_pid() as pid')
    await database.query('select pg_terminate_backend($1)', [rows[0].pid])
    await ended
  })
})

describe('refused, with one line that says what to do', () => {
  it('no one listens', async () => {
    const port = await freePort()
    await refused(
      config(`postgres://me:hunter2@127.0.0.1:${port}/x`),
      3,
      'ECONNREFUSED',
      `127.0.0.1:${port} refused`,
      'Check that it is running',
    )
  })

  it('a name that does not exist', async () => {
    const { exitCode, message } = await failure(config('postgres://me:hunter2@nowhere.invalid/x'))
    expect(exitCode).toBe(3)
    expect(message).toContain('Postgres at nowhere.invalid:5432 was not found')
  })

  it('a server that takes the connection and says nothing', async () => {
    const database = await sharedPostgres()
    const proxy = await startProxy(Number(new URL(database.url()).port))
    onTestFinished(() => proxy.close())
    proxy.pause('up', 'down')
    await refused(
      config(proxy.url(database.url()), { connectTimeout: 200 }),
      3,
      undefined,
      'did not answer within 200 ms',
    )
  })

  it('something else than Postgres', async () => {
    const server = createServer((socket) => socket.end())
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    onTestFinished(() => void server.close())
    const { port } = server.address() as { port: number }
    await refused(
      config(`postgres://me:hunter2@127.0.0.1:${port}/x`),
      3,
      undefined,
      'closed the connection',
      'Check that host and port',
    )
  })

  it('a database that does not exist', async () => {
    const server = await sharedPostgres()
    await refused(config(server.url('no_such')), 1, '3D000', 'has no database "no_such"')
  })

  it('a server that is starting or stopping', async (context) => {
    needsProcess(context, ['postgres'])
    const server = await startPostgres()
    onTestFinished(() => server.remove())
    const idle = await server.connect()
    onTestFinished(() => idle.end().catch(() => {}))
    idle.on('error', () => {})
    await server.kill('SIGTERM')
    await expect
      .poll(async () => (await failure(config(server.url()))).message, { timeout: 30_000 })
      .toContain('is not accepting connections yet (the database system is shutting down)')
    await refused(config(server.url()), 3, '57P03')
  })
})

describe('credentials', () => {
  let server: Postgres
  const start = async () => {
    server ??= await startPostgres({
      auth: 'scram-sha-256',
      hba: ['host all stranger all reject'],
      settings: {
        max_connections: '6',
        superuser_reserved_connections: '3',
        max_wal_senders: '0',
        max_replication_slots: '4',
      },
    })
    return server
  }
  afterAll(() => server?.remove())

  it('a wrong password', async (context) => {
    needsProcess(context, ['postgres'])
    await start()
    await refused(
      config(server.url(undefined, { password: 'hunter2' })),
      1,
      '28P01',
      'refused the password of role "postgres"',
    )
  })

  it('a role that is not let in', async (context) => {
    needsProcess(context, ['postgres'])
    await start()
    await refused(
      config(server.url(undefined, { user: 'stranger', password: 'hunter2' })),
      1,
      '28000',
      'did not let role "stranger" in',
    )
  })

  it('no password at all', async (context) => {
    needsProcess(context, ['postgres'])
    await start()
    await refused(
      config(server.url(undefined, { user: 'postgres' })),
      1,
      undefined,
      'requires a password for role "postgres"',
    )
  })

  it('a password from a file, read again for each connection', async (context) => {
    needsProcess(context, ['postgres'])
    await start()
    const file = written('hunter2\n')
    const given = config(server.url(undefined, { user: 'postgres' }), { password: { file } })
    expect((await failure(given)).message).toContain('refused the password')
    writeFileSync(file, 'outrider\n')
    await (await connectPostgres(given, 'test')).end()
    rmSync(file)
    expect((await failure(given)).message).toBe(
      `Expected a readable file with a secret at ${file}, found ENOENT. Check the path and its mode.`,
    )
  })

  it('no connection left', async (context) => {
    needsProcess(context, ['postgres'])
    await start()
    const given = config(server.url())
    const clients: pg.Client[] = []
    onTestFinished(async () => void (await Promise.all(clients.map((client) => client.end()))))
    for (;;) {
      const client = await connectPostgres(given, 'test').catch((error: OutriderError) => error)
      if (client instanceof pg.Client) clients.push(client)
      else {
        expect(client).toMatchObject({ exitCode: 3, cause: { code: '53300' } })
        expect(client.message).toContain('has no connection left')
        return
      }
    }
  })
})

describe('TLS', () => {
  let server: Postgres
  let authority: Authority
  const start = async () => {
    if (server) return
    server = await startPostgres({ hba: ['hostnossl all plain all reject'] })
    authority = createCertificate()
    await present(createCertificate({ names: ['localhost'], signedBy: authority }))
  }
  const present = async ({ cert, key }: { cert: string; key: string }) => {
    const { uid, gid } = statSync(server.dataDir)
    for (const [name, text] of Object.entries({ 'server.crt': cert, 'server.key': key })) {
      const file = join(server.dataDir, name)
      writeFileSync(file, text, { mode: 0o600 })
      chownSync(file, uid, gid)
    }
    await server.set({ ssl: 'on' })
  }
  const url = (host: string, query = '') => {
    const url = new URL(server.url())
    return `postgres://${url.username}@${host}:${url.port}/postgres${query}`
  }
  afterAll(() => server?.remove())

  const encrypted = async (given: PostgresConfig) => {
    const client = await connectPostgres(given, 'test')
    try {
      return (await client.query('select ssl from pg_stat_ssl where pid = pg_backend_pid()')).rows[0].ssl
    } finally {
      await client.end()
    }
  }

  it('is used and checked when a CA or sslmode asks for it, and not otherwise', async (context) => {
    needsProcess(context, ['postgres'])
    await start()
    const ca = written(authority.cert)
    expect(await encrypted(config(url('localhost')))).toBe(false)
    expect(await encrypted(config(url('localhost'), { tls: { ca } }))).toBe(true)
    expect(await encrypted(config(url('localhost', `?sslmode=verify-full&sslrootcert=${ca}`)))).toBe(true)
    expect(await encrypted(config(url('127.0.0.1'), { tls: { ca, serverName: 'localhost' } }))).toBe(true)
  })

  it.for(['require', 'verify-ca', 'verify-full'])('checks the certificate with sslmode=%s', async (mode, context) => {
    needsProcess(context, ['postgres'])
    await start()
    await refused(
      config(url('localhost', `?sslmode=${mode}`)),
      3,
      'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
      'not signed by a CA that is trusted',
    )
  })

  it('says which check failed', async (context) => {
    needsProcess(context, ['postgres'])
    await start()
    const ca = written(authority.cert)
    const other = written(createCertificate().cert)
    await refused(
      config(url('localhost'), { tls: { ca: other } }),
      3,
      'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
      'not signed by a CA that is trusted',
    )
    await refused(
      config(url('127.0.0.1'), { tls: { ca } }),
      3,
      'ERR_TLS_CERT_ALTNAME_INVALID',
      'made out to another name',
    )
    await present(
      createCertificate({ names: ['localhost'], signedBy: authority, expires: new Date(Date.now() - 60_000) }),
    )
    await refused(config(url('localhost'), { tls: { ca } }), 3, 'CERT_HAS_EXPIRED', 'has expired')
    await present(createCertificate({ names: ['db.example'], signedBy: authority }))
    await refused(
      config(url('localhost'), { tls: { ca } }),
      3,
      'ERR_TLS_CERT_ALTNAME_INVALID',
      'made out to another name',
    )
    expect(await encrypted(config(url('localhost'), { tls: { ca, serverName: 'db.example' } }))).toBe(true)
    await present(createCertificate({ names: ['localhost'] }))
    await refused(config(url('localhost'), { tls: { ca } }), 3, 'DEPTH_ZERO_SELF_SIGNED_CERT', 'self-signed')
  })

  it('checks even where the environment says not to', async (context) => {
    needsProcess(context, ['postgres'])
    await start()
    onTestFinished(() => void vi.unstubAllEnvs())
    vi.stubEnv('NODE_TLS_REJECT_UNAUTHORIZED', '0')
    vi.stubEnv('PGSSLMODE', 'no-verify')
    const other = written(createCertificate().cert)
    expect((await failure(config(url('localhost'), { tls: { ca: other } }))).exitCode).toBe(3)
  })

  it('says that the server offers none', async () => {
    const database = await sharedPostgres()
    await refused(config(`${database.url()}?sslmode=require`), 3, undefined, 'does not offer TLS')
  })
})

it.each([
  'number of requested standby connections exceeds max_wal_senders (currently 0)',
  'number of requested standby connections exceeds "max_wal_senders" (currently 0)',
])('a server that allows no WAL sender at all is told its wal_level: %s', (message) => {
  const error = Object.assign(new Error(message), { code: '53300' })
  const { message: said } = connectFailure(error, config('postgres://db:5432/shop'))
  expect(said).toContain(message)
  expect(said).toContain('Set wal_level = logical')
  expect(said).not.toContain('close others')
})
