import { createConsumer } from 'outrider/consumer'
import { openPool, setting, stopSignal } from '../service.js'
import { ArticleValidated, ArticleValidationFailed, ArticleValidationRequested } from './events.js'
import { problemsOf } from './rules.js'

/** The worker that validates articles: a process; run as many as are needed. */

const db = openPool(5)

const consumer = createConsumer({
  redis: setting('REDIS_URL'),
  db,
  group: 'validation',
  // They are in the same stream, and not this group's concern. A type that is neither handled nor named here is
  // dead-lettered, so that a new kind of event is never missed in silence.
  skip: [ArticleValidated, ArticleValidationFailed],
})

// The verdict, the event that tells of it, and the record that this request is done are committed together or not at all.
consumer.on(ArticleValidationRequested, async (event, { tx, publish }) => {
  const { revision } = event.data
  const problems = problemsOf(event.data)
  await tx.query(
    `insert into article_validation (article_id, revision, valid, problems) values ($1, $2, $3, $4)
     on conflict (article_id, revision) do update set valid = excluded.valid, problems = excluded.problems`,
    [event.subject, revision, problems.length === 0, problems],
  )
  // An article that breaks the rules is an outcome. An error would mean: try again, and in the end a dead letter.
  // The correlation id is carried on; the causation id becomes this event's id.
  if (problems.length === 0) await publish(ArticleValidated, { subject: event.subject, data: { revision } })
  else await publish(ArticleValidationFailed, { subject: event.subject, data: { revision, problems } })
})

await consumer.run({ signal: stopSignal() })
await db.end()
