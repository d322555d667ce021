import { createConsumer } from 'outrider/consumer'
import { openPool, setting, stopSignal } from '../service.js'
import { ProductChanged } from './events.js'

/** The worker that keeps a catalogue: a process; run as many as are needed. */

const number = setting('CATALOGUE')
// It becomes part of a statement.
if (!/^[1-9]\d{0,3}$/.test(number)) throw new Error(`Expected CATALOGUE as a number from 1 to 9999, found "${number}".`)

// Many events in one statement, for a rebuild has many. A statement may change a row only once, so the highest version of
// each product is taken; in the order of products, so that two batches wait for each other and never deadlock.
// Events run side by side, and may come late or again: only a higher version changes anything.
const SHOW = `
insert into catalogue_${number} as shown (product_id, version, name, price_cents)
select distinct on (product_id) product_id, version, name, price_cents
from unnest($1::text[], $2::integer[], $3::text[], $4::integer[]) as changed (product_id, version, name, price_cents)
order by product_id, version desc
on conflict (product_id) do update set
  version = excluded.version,
  name = excluded.name,
  price_cents = excluded.price_cents
where excluded.version > shown.version`

const db = openPool(5)

const consumer = createConsumer({
  redis: setting('REDIS_URL'),
  db,
  // A group for each table: a group does an event once, and a new group begins at the beginning.
  group: `catalogue-${number}`,
  startFrom: 'beginning',
  // A rebuild reads old events. By default an event older than 7d is dead-lettered, because the inbox no longer tells whether
  // it was done. Here a second time does no harm: the version decides.
  inboxWindow: '3650d',
})

consumer.onBatch(
  ProductChanged,
  async (events, { tx }) => {
    await tx.query(SHOW, [
      events.map(({ subject }) => subject),
      events.map(({ data }) => data.version),
      events.map(({ data }) => data.name),
      events.map(({ data }) => data.priceCents),
    ])
  },
  { size: 200 },
)

await consumer.run({ signal: stopSignal() })
await db.end()
