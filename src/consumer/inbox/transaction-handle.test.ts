import { DummyDriver, Kysely, PostgresAdapter, PostgresIntrospector, PostgresQueryCompiler } from 'kysely'
import { expect, test } from 'vitest'
import { TransactionHandle } from './transaction-handle.js'

const db = new Kysely<{ account: { id: number } }>({
  dialect: {
    createAdapter: () => new PostgresAdapter(),
    createDriver: () => new DummyDriver(),
    createIntrospector: (of) => new PostgresIntrospector(of),
    createQueryCompiler: () => new PostgresQueryCompiler(),
  },
})

const handleOf = <Tx>(tx: Tx) => {
  const handle = new TransactionHandle(tx, async () => [])
  return { handle, tx: handle.tx as Tx }
}

test('a function of the transaction keeps its properties, such as fn of Kysely', async () => {
  await db.transaction().execute(async (trx) => {
    const { tx } = handleOf(trx)
    expect(tx.selectFrom('account').select(tx.fn.countAll().as('n')).compile().sql).toContain('count(*)')
  })
})

test('a method that was taken off the transaction is refused after its end as well', () => {
  class Client {
    #sent = 0
    query = () => ++this.#sent
    send() {
      return ++this.#sent
    }
  }
  const { handle, tx } = handleOf(new Client())
  const [query, send] = [tx.query, tx.send.bind(tx)]
  expect([query(), send()]).toEqual([1, 2])
  handle.close()
  for (const late of [query, send]) expect(late).toThrow(/Expected tx and publish to be used before/)
})

test('a session that all transactions share, as with Drizzle over one client, costs no more with each of them', () => {
  const shared = { session: { client: { query: () => 1, release() {} } } }
  for (let n = 0; n < 20_000; n++) handleOf(shared).handle.close()
  const { tx } = handleOf(shared)
  expect(tx.session.client.query()).toBe(1)
  tx.session.client.release()
  expect(tx.session.client.query).toThrow(/Expected tx and publish to be used before/)
})
