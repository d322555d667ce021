import { createConsumer } from 'outrider/consumer'
import { openPool, setting, stopSignal } from '../service.js'
import { ProductChanged } from './events.js'

/** The worker that updates a catalogue, as a program. Run as many processes as you need. */

const number = setting('CATALOGUE')
// The number becomes part of an SQL statement.
if (!/^[1-9]\d{0,3}$/.test(number)) throw new Error(`Expected CATALOGUE as a number from 1 to 9999, found "${number}".`)

// A rebuild has many events, so one statement applies a batch of them. An upsert must not change the same row twice, so
// it takes only the highest version of each product. It changes the rows in the order of the product ids, so that two
// batches wait for each other and do not deadlock. Events are processed in parallel, and may arrive late or again, so
// only a higher version changes a row.
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
  // Each table has its own group: a group processes an event once, and a new group begins at the beginning of the stream.
  group: `catalogue-${number}`,
  startFrom: 'beginning',
  // A rebuild reads old events. By default an event older than 7d is dead-lettered, because the inbox no longer shows whether
  // it was processed. Here it does no harm to process an event twice: the version decides.
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
