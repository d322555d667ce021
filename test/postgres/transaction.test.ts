import { expect, test } from 'vitest'
import { inTransaction } from '../../src/postgres/client/transaction.js'
import { createDatabase } from '../../testkit/services/index.js'

test('what throws leaves nothing behind, and the connection is good for the next', async () => {
  const database = await createDatabase()
  const client = await database.connect()
  const work = inTransaction(client, async () => {
    await client.query('create table half (id int primary key)')
    throw new Error('changed my mind')
  })
  await expect(work).rejects.toThrow('changed my mind')
  const there = await inTransaction(client, async () => client.query("select to_regclass('half') as half"))
  expect(there.rows).toEqual([{ half: null }])
  await client.end()
  await database.drop()
})
