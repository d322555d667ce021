import { drizzle } from 'drizzle-orm/node-postgres'
import { Kysely, PostgresDialect } from 'kysely'
import pg from 'pg'
import { describe, expect, it } from 'vitest'
import { queryOf, type Transaction, TransactionError } from './transaction.js'

const refusal = (tx: unknown): string => {
  try {
    queryOf(tx as Transaction)
  } catch (error) {
    if (error instanceof TransactionError) return error.message
  }
  throw new Error('Expected a TransactionError')
}

describe('queryOf', () => {
  const pool = new pg.Pool()

  it('refuses a pool, and says what to do', () => {
    expect(refusal(pool)).toMatch(/^Expected an open transaction, found a pool.*await pool\.connect\(\)/)
  })

  it('refuses a Drizzle database', () => {
    expect(refusal(drizzle(pool))).toMatch(/found a Drizzle database.*db\.transaction\(\(tx\) =>/)
  })

  it('refuses a Kysely database', () => {
    const db = new Kysely({ dialect: new PostgresDialect({ pool }) })
    expect(refusal(db)).toMatch(/found a Kysely database.*db\.transaction\(\)\.execute/)
  })

  it('refuses a database of another library that begins transactions itself', () => {
    expect(refusal({ query: async () => {}, transaction: async () => {} })).toContain('found a database')
  })

  it.each([
    [undefined, 'undefined'],
    [null, 'null'],
    ['tx', 'string'],
    [{}, 'an object of another kind'],
    [() => {}, 'an object of another kind'],
  ])('refuses %o', (tx, found) => {
    expect(refusal(tx)).toContain(`found ${found}.`)
  })

  it('takes an adapter as it is, with its own this', async () => {
    const adapter = {
      prefix: 'ran ',
      async query(text: string, values: string[]) {
        return this.prefix + text + values
      },
    }
    expect(await queryOf(adapter)('a', ['b'])).toBe('ran ab')
  })
})
