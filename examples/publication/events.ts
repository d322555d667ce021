import { defineEvent } from 'outrider'
import { z } from 'zod'

/**
 * All that happens to articles, in one stream: there it keeps the order in which it was committed. The subject of each event is
 * the article's id.
 */
const stream = 'articles'

const revision = z.int().positive()

/** The content goes with it: what is checked is this revision, though the article may have a newer one by then. */
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
