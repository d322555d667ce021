import { defineEvent } from 'outrider'
import { z } from 'zod'

/**
 * All events about articles are in one stream, in the order of their commits. The subject of each event is the id of the article.
 */
const stream = 'articles'

const revision = z.int().positive()

/** The event contains the content, so that the worker checks this revision even if the article already has a newer one. */
export const ArticleValidationRequested = defineEvent({
  stream,
  type: 'article.validation_requested',
  version: 1,
  data: z.object({ revision, title: z.string(), body: z.string() }),
})

export const ArticleValidated = defineEvent({
  stream,
  type: 'article.validated',
  version: 1,
  data: z.object({ revision }),
})

export const ArticleValidationFailed = defineEvent({
  stream,
  type: 'article.validation_failed',
  version: 1,
  data: z.object({ revision, problems: z.array(z.string()).min(1) }),
})
