import { publish } from 'outrider'
import type pg from 'pg'
import { inTransaction } from '../service.js'
import { ProductChanged } from './events.js'

/** Changes the price of a product. The lock on its row ensures that versions increase in the order of commits. */
export function change(client: pg.Client, id: string, priceCents: number): Promise<void> {
  return inTransaction(client, async () => {
    const { rows } = await client.query(
      `insert into product (id, name, price_cents) values ($1, $2, $3)
       on conflict (id) do update set version = product.version + 1, price_cents = excluded.price_cents
       returning version, name`,
      [id, `Product ${id}`, priceCents],
    )
    const { version, name } = rows[0]
    await publish(client, ProductChanged, { subject: id, data: { version, name, priceCents } })
  })
}
