import { DummyDriver, Kysely, PostgresAdapter, PostgresIntrospector, PostgresQueryCompiler } from 'kysely'
import { expect, test } from 'vitest'
import { TransactionHandle } from './handle.js'

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
