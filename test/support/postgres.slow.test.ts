import { existsSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { createDatabase, needsProcess, type Postgres, startPostgres, until } from '../../testkit/services/index.js'
import { own } from './own.js'

async function numbers(postgres: Postgres): Promise<number[]> {
  return (await postgres.query<{ n: number }>('select n from numbers order by n')).map((row) => row.n)
}

async function write(postgres: Postgres, n: number): Promise<void> {
  await postgres.query('create table if not exists numbers (n int primary key)')
  await postgres.query('insert into numbers values ($1)', [n])
}

describe('Postgres', () => {
  it('keeps what was committed through SIGKILL and a restart on the same port', async (context) => {
    needsProcess(context, ['postgres'])
    const postgres = own(await startPostgres())
    await write(postgres, 1)
    const before = postgres.pid
    await postgres.kill('SIGKILL')
    expect(postgres.isRunning).toBe(false)
    await expect(postgres.query('select 1')).rejects.toMatchObject({ code: 'ECONNREFUSED' })
    await postgres.start()
    expect(postgres.pid).not.toBe(before)
    expect(await numbers(postgres)).toEqual([1])
  })

  it('answers nothing while frozen, and continues when thawed', async (context) => {
    needsProcess(context, ['postgres'])
    const postgres = own(await startPostgres())
    const client = await postgres.connect()
    await postgres.freeze()
    let answered = false
    const answer = client.query('select 1').then(() => {
      answered = true
    })
    await expect(until(() => answered, { timeout: 300 })).rejects.toThrow('within 300 ms')
    await postgres.thaw()
    await answer
    await client.end()
  })

  it('clones its data with slots and system identifier, at one instant, while it runs', async (context) => {
    needsProcess(context, ['postgres'])
    const postgres = own(await startPostgres())
    await write(postgres, 1)
    await postgres.query("select pg_create_logical_replication_slot('kept', 'pgoutput')")
    const dataFrom = await postgres.cloneData()
    await write(postgres, 2)
    const clone = own(await startPostgres({ dataFrom }))
    expect(await numbers(clone)).toEqual([1])
    expect(await clone.query('select slot_name from pg_replication_slots')).toEqual([{ slot_name: 'kept' }])
    const identifier = 'select system_identifier::text from pg_control_system()'
    expect(await clone.query(identifier)).toEqual(await postgres.query(identifier))

    await postgres.restore(dataFrom)
    expect(await numbers(postgres)).toEqual([1])
  })

  it('has a system identifier of its own where the test asks for it', async (context) => {
    needsProcess(context, ['postgres'])
    const [one, other] = await Promise.all([
      startPostgres().then(own),
      startPostgres({ ownIdentifier: true }).then(own),
    ])
    const identifier = 'select system_identifier::text from pg_control_system()'
    expect(await one.query(identifier)).not.toEqual(await other.query(identifier))
  })

  it('follows a primary as its standby, and is promoted to a timeline of its own', async (context) => {
    needsProcess(context, ['postgres'])
    const primary = own(await startPostgres())
    await write(primary, 1)
    const standby = own(await startPostgres({ standbyOf: primary }))
    await write(primary, 2)
    await until(async () => (await numbers(standby)).length === 2, { message: 'the standby to catch up' })
    await primary.kill()
    await standby.promote()
    await write(standby, 3)
    expect(await numbers(standby)).toEqual([1, 2, 3])
    const [control] = await standby.query<{ line: number }>(
      "select ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int as line",
    )
    expect(control?.line).toBe(2)
  })

  it('takes settings at its start, by reload and at a restart', async (context) => {
    needsProcess(context, ['postgres'])
    const postgres = own(await startPostgres({ settings: { wal_sender_timeout: '5s' } }))
    const show = async (name: string) => Object.values((await postgres.query(`show ${name}`))[0]!)[0]
    expect(await show('wal_sender_timeout')).toBe('5s')
    await postgres.set({ wal_sender_timeout: '7s' })
    expect(await show('wal_sender_timeout')).toBe('7s')
    await postgres.set({ wal_sender_timeout: null })
    expect(await show('wal_sender_timeout')).toBe('5s')
    await postgres.stop('fast')
    await postgres.start({ max_replication_slots: '3' })
    expect(await show('max_replication_slots')).toBe('3')
    expect(await show('wal_level')).toBe('logical')
    expect(await show('fsync')).toBe('on')
  })

  it('has set whom commits wait for only once the checkpointer has read it', async (context) => {
    needsProcess(context, ['postgres'])
    const postgres = own(await startPostgres())
    if (!postgres.host.isLocal) return context.skip('its processes have other numbers in a container')
    const [checkpointer] = await postgres.query<{ pid: number }>(
      "select pid from pg_stat_activity where backend_type = 'checkpointer'",
    )
    process.kill(checkpointer!.pid, 'SIGSTOP')
    let isSet = false
    const setting = postgres.set({ synchronous_standby_names: 'nobody' }).then(() => {
      isSet = true
    })
    await expect(until(() => isSet, { timeout: 500 })).rejects.toThrow('within 500 ms')
    process.kill(checkpointer!.pid, 'SIGCONT')
    await setting
    const client = await postgres.connect()
    const committed = client.query('create table waits (n int)')
    const waits = "select from pg_stat_activity where wait_event = 'SyncRep'"
    await until(async () => (await postgres.query(waits)).length === 1, { message: 'the commit to wait' })
    await postgres.set({ synchronous_standby_names: null })
    await committed
    await client.end()
  })

  it('asks for the password where told to', async (context) => {
    needsProcess(context, ['postgres'])
    const postgres = own(await startPostgres({ auth: 'scram-sha-256' }))
    expect(await postgres.query('select 1 as one')).toEqual([{ one: 1 }])
    await expect(postgres.connect('postgres', { user: 'postgres', password: 'wrong' })).rejects.toMatchObject({
      code: '28P01',
    })
  })

  it('says why it does not start', async (context) => {
    needsProcess(context, ['postgres'])
    await expect(startPostgres({ settings: { max_connections: 'many' } })).rejects.toThrow(/invalid value[\s\S]*many/)
  })

  it('leaves nothing on the disk when removed, also frozen', async (context) => {
    needsProcess(context, ['postgres'])
    const postgres = await startPostgres()
    const { pid } = postgres
    await postgres.freeze()
    await postgres.remove()
    expect(existsSync(postgres.dataDir)).toBe(false)
    expect(() => process.kill(pid, 0)).toThrow('ESRCH')
  })

  it('gives a test a database of its own, and drops it with sessions and slots', async () => {
    const database = await createDatabase({ collation: 'da-DK' })
    const client = await database.connect()
    expect((await client.query("select 'aa' < 'z' as less")).rows).toEqual([{ less: false }])
    await client.query("select pg_create_logical_replication_slot('dropped_with_' || current_database(), 'pgoutput')")
    await database.drop()
    await expect(database.connect()).rejects.toMatchObject({ code: '3D000' })
    await client.end().catch(() => {})
  })
})
