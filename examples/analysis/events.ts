import { defineEvent } from 'outrider'
import { z } from 'zod'

/** Names the file and its checksum. The content itself is in the store: it is too large for an event. */
export const FileUploaded = defineEvent({
  stream: 'files',
  type: 'file.uploaded',
  version: 1,
  data: z.object({
    /**
     * The name of the file in the store. It becomes part of a path, so the pattern refuses a name that leads out of the
     * folder.
     */
    file: z.string().regex(/^[a-z0-9][a-z0-9.-]{0,99}$/),
    bytes: z.int().nonnegative(),
    sha256: z.string().regex(/^[0-9a-f]{64}$/),
  }),
})
