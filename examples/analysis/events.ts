import { defineEvent } from 'outrider'
import { z } from 'zod'

/** Says where the content is and what it must be; the content itself has no place in an event. */
export const FileUploaded = defineEvent({
  stream: 'files',
  type: 'file.uploaded',
  version: 1,
  data: z.object({
    /** A name in the store. It becomes part of a path, so nothing that leads elsewhere is let through. */
    file: z.string().regex(/^[a-z0-9][a-z0-9.-]{0,99}$/),
    bytes: z.int().nonnegative(),
    sha256: z.string().regex(/^[0-9a-f]{64}$/),
  }),
})
