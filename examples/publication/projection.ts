import { createConsumer, type EventOf } from 'outrider/consumer'
import { openPool, setting, stopSignal } from '../service.js'
import { ArticleValidated, ArticleValidationFailed, ArticleValidationRequested } from './events.js'

/** The worker that updates the overview of all articles, a read model. */

const db = openPool(5)

// Events are processed in parallel, and may be delivered again. So an event changes a row only if its `sequence` is
// higher than that of the event that the row shows. The order of `sequence` is the order of commits.
const SHOW = `
insert into article_overview as shown (article_id, revision, status, problems, correlation_id, sequence)
values ($1, $2, $3, $4, $5, $6)
on conflict (article_id) do update set
  revision = excluded.revision,
  status = excluded.status,
  problems = excluded.problems,
  correlation_id = excluded.correlation_id,
  sequence = excluded.sequence,
  changes = shown.changes + 1
where excluded.sequence > shown.sequence`

const ARTICLE_EVENTS = [ArticleValidationRequested, ArticleValidated, ArticleValidationFailed] as const
type ArticleEvent = EventOf<(typeof ARTICLE_EVENTS)[number]>

function statusOf(event: ArticleEvent): { status: string; problems: string[] } {
  switch (event.type) {
    case ArticleValidationRequested.type:
      return { status: 'in validation', problems: [] }
    case ArticleValidated.type:
      return { status: 'valid', problems: [] }
    case ArticleValidationFailed.type:
      return { status: 'invalid', problems: event.data.problems }
  }
}

const consumer = createConsumer({ redis: setting('REDIS_URL'), db, group: 'projection' })

consumer.on(ARTICLE_EVENTS, async (event, { tx }) => {
  const { status, problems } = statusOf(event)
  const values = [event.subject, event.data.revision, status, problems, event.correlationId, event.sequence]
  await tx.query(SHOW, values)
})

await consumer.run({ signal: stopSignal() })
await db.end()
