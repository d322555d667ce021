import { randomUUID } from 'node:crypto'
import type pg from 'pg'
import { shaOf } from '../../testkit/oracle/truth.js'

/** Inserts one event with its truth, of a subject that no writer has; its id. */
export async function insertEvent(client: pg.ClientBase, stream: string, subject: string): Promise<string> {
  const id = randomUUID()
  const data = '{"n":1}'
  await client.query(
    `with own as (
       insert into subject values ($3, 1) on conflict (name) do update set seq = subject.seq + 1 returning seq
     ), known as (
       insert into truth select $1, -1, 0, $2, $3, seq, $5 from own
     )
     insert into outrider.outbox (id, stream, type, subject, data) values ($1, $2, 'test.happened', $3, $4::json)`,
    [id, stream, subject, data, shaOf(data)],
  )
  return id
}
