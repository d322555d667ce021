import { z } from 'zod'
import { defineEvent } from '../../src/index.js'

export const GROUP = 'billing'

/** The kind of event of most tests of consumers. */
export const Happened = defineEvent({
  stream: 'things',
  type: 'thing.happened',
  version: 1,
  data: z.object({ n: z.number() }),
})
