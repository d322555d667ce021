import { setTimeout as pause } from 'node:timers/promises'
import { until } from '../../testkit/services/until.js'
import type { Account } from '../support/account.js'
import type { ExampleEnv } from '../support/example-env.js'
import { watch } from './reader.js'
import { prepare, retire, swap } from './rebuild.js'
import { change } from './shop.js'

const WORKER = new URL('./worker.ts', import.meta.url)
const PRODUCTS = 150
/** Products whose price keeps changing; the events of the others are at the beginning of the stream. */
const CHANGING = 100
const HISTORY = 450
/** Milliseconds between two changes of prices. */
const CHANGE_EVERY = 4

/** Rebuilds a read model from the beginning of its stream and swaps it in, while events continue. */
export async function projection(env: ExampleEnv, account: Account): Promise<void> {
  const shop = await env.connect('shop')
  let changes = 0
  const sell = (products: number) => change(shop, `${(changes * 7) % products}`, 100 + changes++)
  const sellUntil = async (over: AbortSignal) => {
    for (; !over.aborted; await pause(CHANGE_EVERY)) await sell(CHANGING)
  }

  account.heading('A catalogue, made from events')
  const first = await env.worker('worker of catalogue 1', WORKER, 'catalogue_worker', { CATALOGUE: '1' })
  while (changes < HISTORY) await sell(PRODUCTS)
  await env.drained('products', 'catalogue-1')
  account.say(`It shows ${HISTORY} changes to ${PRODUCTS} products.`)

  account.heading('It is built again, by a new group into a new table, while prices keep changing')
  const over = new AbortController()
  const selling = sellUntil(over.signal)
  const watching = watch(await env.connect('catalogue_reader'), over.signal)
  await prepare(env.owner)
  const second = await env.worker('worker of catalogue 2', WORKER, 'catalogue_worker', { CATALOGUE: '2' })
  await until(() => swap(env.owner), { message: 'the new catalogue to catch up with the old one' })
  account.say('The new table has caught up with the old one; readers see it from now on.')
  const atSwap = changes
  await until(() => changes > atSwap + 50, { message: 'fifty changes after the swap' })
  over.abort()
  const [{ looks, back }] = await Promise.all([watching, selling])
  await env.drained('products', 'catalogue-1', 'catalogue-2')
  account.say(`There were ${changes - HISTORY} changes meanwhile, ${changes - atSwap} of them after the swap.`)
  account.check('no reader saw a product go back, or missing', looks > 0 && back === 0, { looks, back })
  const differences = () => differencesOf(env)
  account.check('both tables agree, with each other and with the products', (await differences()) === 0)

  account.heading('An old event comes late')
  await comeLate(env)
  await env.drained('products', 'catalogue-1', 'catalogue-2')
  account.check('it changes nothing in either', (await differences()) === 0)

  account.heading('The old catalogue is taken away')
  account.check('its worker stops when it is asked to, exit code 0', (await first.stop()) === 0)
  await retire(env.owner, env.redis)
  await sell(PRODUCTS)
  await env.drained('products', 'catalogue-2')
  const { rows } = await env.owner.query(
    'select from catalogue as shown join product on id = product_id and shown.version = product.version',
  )
  account.check(`readers see ${PRODUCTS} products, each in its newest version`, rows.length === PRODUCTS, rows.length)
  account.check('the new worker stops when it is asked to, exit code 0', (await second.stop()) === 0)
}

/** The number of rows in which the two tables differ from the products. */
async function differencesOf({ owner }: ExampleEnv): Promise<number> {
  const { rows } = await owner.query(`
    with truth as (select id, version, name, price_cents from product)
    select from ((table truth except table catalogue_1) union all (table catalogue_1 except table truth)
      union all (table truth except table catalogue_2) union all (table catalogue_2 except table truth)) as difference`)
  return rows.length
}

/** Appends the first event again and deletes its inbox rows, so that both groups process it a second time. */
async function comeLate({ owner, redis }: ExampleEnv): Promise<void> {
  const [[, fields]] = (await redis.xrange('products', '-', '+', 'COUNT', 1)) as [[string, string[]]]
  await owner.query('delete from outrider.inbox where id = $1', [fields[fields.indexOf('id') + 1]])
  await redis.xadd('products', '*', ...fields)
}
