import { randomUUID } from 'node:crypto'
import { until } from '../../testkit/services/until.js'
import type { Account } from '../support/account.js'
import type { ExampleEnv } from '../support/example-env.js'
import { submit } from './editor.js'

const VALIDATION = new URL('./validation.ts', import.meta.url)
const PROJECTION = new URL('./projection.ts', import.meta.url)

const DRAFTS = {
  comets: {
    id: 'comets',
    title: 'Why comets have tails',
    body: 'The sun warms the ice, and its wind blows the dust away.',
  },
  moons: { id: 'moons', title: '', body: 'TODO: count them.' },
  tides: { id: 'tides', title: 'Two tides a day', body: 'The earth turns beneath two bulges of water, once a day.' },
}

/**
 * An editor saves an article, a worker validates it, another worker updates a read model. Each step publishes the event
 * for the next one in its transaction.
 */
export async function publication(env: ExampleEnv, account: Account): Promise<void> {
  const editor = await env.connect('editor')
  const correlations = new Map<string, string>()
  const send = async (draft: (typeof DRAFTS)['moons'], what: string) => {
    // In a real service this id comes from the HTTP request of the editor.
    const correlationId = randomUUID()
    await submit(editor, draft, correlationId)
    correlations.set(draft.id, correlationId)
    account.say(`${draft.id}: ${what}`)
  }
  const overview = async () => (await env.owner.query('select * from article_overview order by article_id')).rows
  const shows = (id: string, revision: number, status: string) =>
    until(
      async () => {
        const rows = await overview()
        return rows.some((row) => row.article_id === id && row.revision === revision && row.status === status)
      },
      { message: `revision ${revision} of ${id} to be ${status}` },
    )

  const [validation] = await Promise.all([
    env.worker('validation', VALIDATION, 'validation_worker'),
    env.worker('projection', PROJECTION, 'projection_worker'),
  ])

  account.heading('Articles that pass, and one that fails and is corrected')
  await send(DRAFTS.comets, 'submitted')
  await send(DRAFTS.moons, 'submitted without a title, and with a TODO')
  await Promise.all([shows('comets', 1, 'valid'), shows('moons', 1, 'invalid')])
  account.table(asTable(await overview()))
  await send({ ...DRAFTS.moons, title: 'Moons', body: 'Saturn has more of them than any other planet.' }, 'corrected')
  await shows('moons', 2, 'valid')

  account.heading('One that arrives while no worker validates')
  account.check('the validation worker stops when it is asked to, exit code 0', (await validation.stop()) === 0)
  await send(DRAFTS.tides, 'submitted')
  await shows('tides', 1, 'in validation')
  account.say('The overview shows it as in validation. A validation worker starts:')
  await env.worker('validation', VALIDATION, 'validation_worker')
  await shows('tides', 1, 'valid')
  account.table(asTable(await overview()))

  await env.drained('articles', 'validation', 'projection')
  const { rows: verdicts } = await env.owner.query(
    'select article_id, revision, valid from article_validation order by article_id, revision',
  )
  account.check(
    'each revision has its verdict in the table of verdicts',
    verdicts.map((row) => `${row.article_id} ${row.revision} ${row.valid}`).join() ===
      'comets 1 true,moons 1 false,moons 2 true,tides 1 true',
    verdicts,
  )

  account.heading('Who caused what')
  const events = await trail(env)
  account.table([
    ['article', 'event', 'id', 'caused by', 'correlation'],
    ...events.map((event) => [
      event.subject,
      event.type,
      short(event.id),
      short(event.cause),
      short(event.correlation),
    ]),
  ])
  account.check(
    'each request has one outcome, which names it as its cause, and both have the correlation id of the editor’s request',
    events.length === 8 &&
      events.every((event) => event.cause === null || events.filter(({ id }) => id === event.cause).length === 1) &&
      events.filter((event) => event.cause === null).every((request) => outcomesOf(request, events).length === 1),
    events,
  )
  const shown = await overview()
  account.check(
    'the overview knows the correlation id of the last request for each article',
    shown.length === 3 && shown.every((row) => row.correlation_id === correlations.get(row.article_id)),
    shown,
  )

  account.heading('The projection receives all events again, after its inbox rows were deleted')
  await env.owner.query(`delete from outrider.inbox where consumer_group = 'projection'`)
  await env.redis.xgroup('SETID', 'articles', 'projection', '0')
  await env.drained('articles', 'projection')
  const { rows: done } = await env.owner.query(`select from outrider.inbox where consumer_group = 'projection'`)
  account.check(
    'it processes all 8 events again and changes no row, because no event is newer than its row',
    done.length === 8 && JSON.stringify(await overview()) === JSON.stringify(shown),
    done.length,
  )
}

interface Link {
  id: string
  subject: string
  type: string
  correlation: string
  cause: string | null
}

/** All events of the outbox, ordered by article, then by commit. */
async function trail(env: ExampleEnv): Promise<Link[]> {
  const { rows } = await env.owner.query(
    `select id, subject, type, correlation_id as correlation, causation_id as cause
     from outrider.outbox order by subject, seq`,
  )
  return rows
}

const outcomesOf = (request: Link, events: Link[]): Link[] =>
  events.filter(({ cause, correlation }) => cause === request.id && correlation === request.correlation)

/** The last 8 characters of an id. UUIDs of version 7 that were made at about the same time begin with the same characters. */
const short = (id: string | null): string => (id === null ? '-' : id.slice(-8))

const asTable = (rows: { article_id: string; revision: number; status: string; problems: string[] }[]): string[][] => [
  ['article', 'revision', 'status', 'problems'],
  ...rows.map((row) => [row.article_id, String(row.revision), row.status, row.problems.join('; ')]),
]
