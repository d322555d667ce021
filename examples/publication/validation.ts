import { createConsumer } from 'outrider/consumer'
import { openPool, setting, stopSignal } from '../service.js'
import { ArticleValidated, ArticleValidationFailed, ArticleValidationRequested } from './events.js'
import { problemsOf } from './rules.js'

/** The worker that validates articles, as a program. Run as many processes as you need. */

const db = openPool(5)

const consumer = createConsumer({
  redis: setting('REDIS_URL'),
  db,
  group: 'validation',
  // These types are in the same stream, but this group does not process them. A type that is neither handled nor named here is
  // dead-lettered, so that you notice a new type of event.
  skip: [ArticleValidated, ArticleValidationFailed],
})

// One transaction commits the result, the event that reports it, and the inbox row of this request.
consumer.on(ArticleValidationRequested, async (event, { tx, publish }) => {
  const { revision } = event.data
  const problems = problemsOf(event.data)
  await tx.query(
    `insert into article_validation (article_id, revision, valid, problems) values ($1, $2, $3, $4)
     on conflict (article_id, revision) do update set valid = excluded.valid, problems = excluded.problems`,
    [event.subject, revision, problems.length === 0, problems],
  )
  // If the article breaks a rule, publish that as a result. Do not throw: the consumer would retry, and dead-letter the
  // event in the end. `publish` copies the correlation id of this event, and sets the causation id to the id of this
  // event.
  if (problems.length === 0) await publish(ArticleValidated, { subject: event.subject, data: { revision } })
  else await publish(ArticleValidationFailed, { subject: event.subject, data: { revision, problems } })
})

await consumer.run({ signal: stopSignal() })
await db.end()
