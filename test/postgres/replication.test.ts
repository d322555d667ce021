import { chownSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { postgresOptions } from '../../src/postgres/client/connect.js'
import { MessageType } from '../../src/postgres/replication/pgoutput.js'
import { Replication } from '../../src/postgres/replication/stream.js'
import { type Database, needsProcess, type Postgres, startPostgres, until } from '../../testkit/services/index.js'
import { createCertificate } from '../support/certificate.js'

let server: Postgres
let database: Database
let ca: string

beforeAll(async () => {
  server = await startPostgres({ syncs: false })
  const authority = createCertificate()
  const { cert, key } = createCertificate({ names: ['localhost'], signedBy: authority })
  const { uid, gid } = statSync(server.dataDir)
  for (const [name, text] of Object.entries({ 'server.crt': cert, 'server.key': key, 'ca.crt': authority.cert })) {
    const file = join(server.dataDir, name)
    writeFileSync(file, text, { mode: 0o600 })
    chownSync(file, uid, gid)
  }
  ca = join(server.dataDir, 'ca.crt')
  await server.set({ ssl: 'on' })
  database = await server.createDatabase('stream')
  await database.query('create table things (n int, text text)')
  await database.query('create publication things for table things')
})
afterAll(() => server?.remove())

/** A slot of its own, which gives only what is inserted from here on. */
async function createSlot(): Promise<string> {
  const slot = `things_${slots++}`
  await database.query("select pg_create_logical_replication_slot($1, 'pgoutput')", [slot])
  return slot
}
let slots = 0

/** Reads a slot; what the rows of `things` are: their number, and how long their text is. */
class Reader {
  readonly rows: [n: number, length: number][] = []
  ssl: unknown
  readonly running: Promise<void>
  readonly replication: Replication

  private constructor(replication: Replication, slot: string) {
    this.replication = replication
    this.running = replication.run(slot, 'things', {
      prepare: async (query) => {
        this.ssl = (await query('select ssl from pg_stat_ssl where pid = pg_backend_pid()'))[0]?.ssl
        return 0n
      },
      message: (data, start, end) => {
        if (data[start] !== MessageType.insert) return
        const digits = data.readUInt32BE(start + 9)
        const n = Number(data.toString('latin1', start + 13, start + 13 + digits))
        const text = data.subarray(start + 18 + digits, end)
        expect(text.equals(Buffer.alloc(text.length, 'x'))).toBe(true)
        this.rows.push([n, text.length])
      },
      keepalive: () => {},
    })
    this.running.catch(() => {})
  }

  static async start(slot: string, tls: boolean): Promise<Reader> {
    const url = new URL(database.url)
    const query = tls ? `?sslmode=verify-full&sslrootcert=${ca}` : ''
    const config = {
      url: `postgres://${url.username}@localhost:${url.port}${url.pathname}${query}`,
      connectTimeout: 5_000,
    }
    return new Reader(new Replication(await postgresOptions(config, 'test')), slot)
  }
}

it.for([false, true])(
  'rows of any size arrive whole, and the end of the connection as its error (TLS: %s)',
  async (tls, context) => {
    needsProcess(context, ['postgres'])
    const slot = await createSlot()
    const reader = await Reader.start(slot, tls)
    const lengths = [0, 1, 300, 5_000, 65_511, 65_536, 400_000, 3, 2_000_000, 7]
    await database.query(
      `insert into things select n, repeat('x', length) from unnest($1::int[]) with ordinality as given(length, n)`,
      [lengths],
    )
    const expected = lengths.map((length, i) => [i + 1, length])
    await until(() => reader.rows.length >= lengths.length, { message: 'all rows' })
    expect(reader.rows).toEqual(expected)
    expect(reader.ssl).toBe(tls)
    await database.query('select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = $1', [
      slot,
    ])
    await expect(reader.running).rejects.toMatchObject({ code: '57P01' })
  },
)

it('a stream that is refused ends with what the server says of it', async (context) => {
  needsProcess(context, ['postgres'])
  const reader = await Reader.start('nothing', true)
  await expect(reader.running).rejects.toMatchObject({ code: '42704', message: expect.stringContaining('nothing') })
})

it('a stream that is closed from this side ends without an error', async (context) => {
  needsProcess(context, ['postgres'])
  const slot = await createSlot()
  await database.query("insert into things values (1, 'x')")
  const reader = await Reader.start(slot, true)
  await until(() => reader.rows.length > 0, { message: 'the row' })
  await reader.replication.close()
  await expect(reader.running).resolves.toBeUndefined()
})
