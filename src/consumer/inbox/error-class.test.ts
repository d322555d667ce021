import { DrizzleQueryError } from 'drizzle-orm'
import fc from 'fast-check'
import pg from 'pg'
import { describe, expect, it } from 'vitest'
import { classifyDatabaseError, type DatabaseErrorClass, type Stage } from './error-class.js'

const STAGES: readonly Stage[] = ['opening', 'handler', 'commit']

/** An error of Postgres, as pg gives it. */
const ofPostgres = (code: string, message = 'boom'): Error =>
  Object.assign(new pg.DatabaseError(message, 0, 'error'), { code })

const ofSocket = (code: string): Error => Object.assign(new Error(`connect ${code} 127.0.0.1:5432`), { code })

/** At each stage, in a transaction in which a statement has failed. */
const faultsOf = (cause: unknown): (DatabaseErrorClass | undefined)[] =>
  STAGES.map((stage) => classifyDatabaseError({ cause, stage, session: 'aborted' }))

describe('an error of Postgres', () => {
  it.each([
    ['40001', 'conflict', 'could not serialize access due to concurrent update'],
    ['40P01', 'conflict', 'deadlock detected'],
    ['55P03', 'conflict', 'canceling statement due to lock timeout'],
    ['40003', 'conflict', 'statement completion unknown'],
    ['08006', 'outage', 'could not receive data from server'],
    ['08P01', 'outage', 'server conn crashed?, as PgBouncer says'],
    ['53100', 'outage', 'could not extend file: No space left on device'],
    ['53200', 'outage', 'out of memory'],
    ['53300', 'outage', 'sorry, too many clients already'],
    ['57P01', 'outage', 'terminating connection due to administrator command'],
    ['57P02', 'outage', 'terminating connection because of crash of another server process'],
    ['57P03', 'outage', 'the database system is starting up'],
    ['57P05', 'outage', 'terminating connection due to idle-session timeout'],
    ['58030', 'outage', 'could not read file'],
    ['25006', 'outage', 'cannot execute INSERT in a read-only transaction'],
    ['OR001', 'fenced', 'another worker holds orders:1 of the group billing by now'],
  ] as const)('%s is no attempt but a %s, at whatever stage: %s', (code, fault, message) => {
    expect(faultsOf(ofPostgres(code, message))).toEqual([fault, fault, fault])
  })

  it.each([
    ['23505', 'duplicate key value violates unique constraint'],
    ['23503', 'insert violates a deferred foreign key'],
    ['22P02', 'invalid input syntax for type integer'],
    ['25P02', 'current transaction is aborted, commands ignored'],
    ['42601', 'syntax error at or near "selct"'],
    ['57014', 'canceling statement due to statement timeout'],
    ['P0001', 'raised by a trigger of somebody'],
    ['XX000', 'cache lookup failed'],
  ])('%s is an attempt in the handler and at the commit: %s', (code, message) => {
    expect(faultsOf(ofPostgres(code, message))).toEqual(['outage', undefined, undefined])
  })

  it.each([
    ['25P03', 'terminating connection due to idle-in-transaction timeout'],
    ['25P04', 'terminating connection due to transaction timeout'],
  ])('%s is an attempt in the handler, which took too long, and at the commit, which tells it: %s', (code, message) => {
    expect(faultsOf(ofPostgres(code, message))).toEqual(['outage', undefined, undefined])
  })

  it.each([
    ['42P01', 'relation "outrider.inbox" does not exist'],
    ['42883', 'function outrider.accept(unknown, unknown, unknown) does not exist'],
    ['42501', 'permission denied for function accept'],
    ['28P01', 'password authentication failed for user "worker"'],
    ['3D000', 'database "shop" does not exist'],
  ])('%s, where the library itself asked, is no fault of the event: %s', (code, message) => {
    expect(classifyDatabaseError({ cause: ofPostgres(code, message), stage: 'opening', session: 'aborted' })).toBe(
      'outage',
    )
  })

  it('is the same wrapped, as by Drizzle, and as by whoever wraps that', () => {
    const deadlock = new DrizzleQueryError('update stock', [], ofPostgres('40P01'))
    expect(faultsOf(deadlock)).toEqual(['conflict', 'conflict', 'conflict'])
    expect(faultsOf(new Error('could not book', { cause: deadlock }))).toEqual(['conflict', 'conflict', 'conflict'])
    const shutdown = new DrizzleQueryError('update stock', [], ofPostgres('57P01'))
    expect(faultsOf(shutdown)).toEqual(['outage', 'outage', 'outage'])
    const unique = new DrizzleQueryError('insert into stock', [], ofPostgres('23505'))
    expect(classifyDatabaseError({ cause: unique, stage: 'handler', session: 'aborted' })).toBeUndefined()
  })
})

describe('an error of a connection', () => {
  it.each([
    'ECONNREFUSED',
    'ECONNRESET',
    'EPIPE',
    'ETIMEDOUT',
    'ENOTFOUND',
    'EAI_AGAIN',
    'EHOSTUNREACH',
    'CONNECTION_CLOSED',
  ])(
    '%s is an outage where the library itself spoke to the database, and an attempt where the handler spoke to anybody',
    (code) => {
      expect(faultsOf(ofSocket(code))).toEqual(['outage', undefined, 'outage'])
      expect(classifyDatabaseError({ cause: ofSocket(code), stage: 'handler', session: 'ended' })).toBe('outage')
    },
  )

  it('of a fetch in the handler is an attempt', async () => {
    const failed = await fetch('http://127.0.0.1:1/').catch((error: unknown) => error)
    expect(failed).toBeInstanceOf(Error)
    expect(classifyDatabaseError({ cause: failed, stage: 'handler', session: 'aborted' })).toBeUndefined()
  })

  it.each([
    'Connection terminated unexpectedly',
    'Connection terminated due to connection timeout',
    'Client has encountered a connection error and is not queryable',
    'Client was closed and is not queryable',
    'timeout exceeded when trying to connect',
    'Cannot use a pool after calling end on the pool',
  ])('that pg gives without a code is an outage: %s', (message) => {
    expect(faultsOf(new Error(message))).toEqual(['outage', 'outage', 'outage'])
    expect(faultsOf(new DrizzleQueryError('select 1', [], new Error(message)))).toEqual(['outage', 'outage', 'outage'])
    // As Knex words it.
    expect(faultsOf(new Error(`select 1 - ${message}`))).toEqual(['outage', 'outage', 'outage'])
  })

  it('that is gone is an outage, whatever the handler made of it', () => {
    for (const cause of [new Error('boom'), undefined, 'a text', ofPostgres('23505')]) {
      expect(classifyDatabaseError({ cause, stage: 'handler', session: 'ended' })).toBe('outage')
    }
  })
})

describe('a handler whose transaction is open when it fails', () => {
  it.each(['40001', '40P01', '55P03', '08006', '53300', '57P01', '58030', '25006', 'OR001', 'ECONNREFUSED'])(
    'has failed, though %s was thrown: it came from another database or an API',
    (code) => {
      expect(classifyDatabaseError({ cause: ofPostgres(code), stage: 'handler', session: 'open' })).toBeUndefined()
    },
  )
})

describe('anything else', () => {
  it('that a handler throws is an attempt', () => {
    for (const cause of [new Error('boom'), new TypeError('x is not a function'), 'a text', undefined, null, {}]) {
      expect(classifyDatabaseError({ cause, stage: 'handler', session: 'aborted' })).toBeUndefined()
      expect(classifyDatabaseError({ cause, stage: 'opening', session: 'aborted' })).toBe('outage')
    }
  })

  it('has an answer, also where its causes go round in a circle', () => {
    const round = new Error('round')
    round.cause = round
    expect(faultsOf(round)).toEqual(['outage', undefined, undefined])
    const state = fc.stringMatching(/^[0-9A-Z]{5}$/)
    fc.assert(
      fc.property(state, (code) => {
        expect(['conflict', 'outage', 'fenced', undefined]).toContain(faultsOf(ofPostgres(code))[1])
        expect(faultsOf(ofPostgres(code))[0]).toBeDefined()
      }),
    )
  })
})
