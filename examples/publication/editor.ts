import { publish } from 'outrider'
import type pg from 'pg'
import { inTransaction } from '../service.js'
import { ArticleValidationRequested } from './events.js'

export interface Draft {
  id: string
  title: string
  body: string
}

/**
 * Saves an article and publishes the request to validate it, in one transaction. So every saved article has a request,
 * and every request has a saved article. `correlationId` comes from the HTTP request of the editor.
 */
export function submit(client: pg.Client, draft: Draft, correlationId: string): Promise<void> {
  const { id, title, body } = draft
  return inTransaction(client, async () => {
    const { rows } = await client.query(
      `insert into article (id, title, body) values ($1, $2, $3)
       on conflict (id) do update
         set revision = article.revision + 1, title = excluded.title, body = excluded.body
       returning revision`,
      [id, title, body],
    )
    const { revision } = rows[0]
    await publish(client, ArticleValidationRequested, { subject: id, correlationId, data: { revision, title, body } })
  })
}
