import { join } from 'node:path'
import { createConsumer, DeadLetter } from 'outrider/consumer'
import { openPool, setting, stopSignal } from '../service.js'
import { FileUploaded } from './events.js'
import { countWords } from './words.js'

/** The worker that counts words, as a program. Run as many processes as you need. */

/**
 * A new version is a new group. It begins at the beginning of the stream and counts every file again whose event is
 * younger than `inboxWindow` (7d).
 */
const ANALYSIS = { name: 'word-count', version: 1 }
/** How many files one process analyses at once. Choose it by memory and CPU. */
const AT_ONCE = 2

const store = setting('STORE')
const db = openPool(4)

const consumer = createConsumer({
  redis: setting('REDIS_URL'),
  db,
  group: `${ANALYSIS.name}-${ANALYSIS.version}`,
  // Other workers cannot take the events that this worker holds. This limit is about the default for long work; a higher
  // one would delay events.
  prefetch: AT_ONCE + 1,
  // After this time without a heartbeat another worker takes over. The heartbeat continues during long work. 30s by default;
  // short here, so that the example is quick.
  claimAfter: '2s',
  // Work that still runs this long after SIGTERM is aborted, and another worker begins it again. Keep it below the grace
  // period of your platform. 30s by default.
  stopTimeout: '300ms',
})

consumer.on(
  FileUploaded,
  {
    // No transaction is open while this runs.
    async work(event, { signal }) {
      const { file, sha256 } = event.data
      console.log(`begins ${file}`)
      signal.addEventListener('abort', () => console.log(`aborts ${file}`), { once: true })
      const found = await countWords(join(store, file), signal)
      if (found.sha256 !== sha256) {
        console.log(`gives up ${file}`)
        // A retry would not help: the file never changes.
        const cause = new Error(`Expected a content with sha256 ${sha256}, found ${found.sha256}`)
        throw new DeadLetter('checksum mismatch', { cause })
      }
      console.log(`has counted ${file}: ${found.words} words`)
      return found
    },
    async commit(_event, { sha256, words, distinct }, { tx }) {
      // The row exists already only if the same content was analysed so long ago that the inbox has forgotten it
      // (inboxWindow, 7d).
      await tx.query(
        `insert into analysis as known (sha256, analysis, version, words, distinct_words) values ($1, $2, $3, $4, $5)
         on conflict (sha256, analysis, version) do update
           set words = excluded.words, distinct_words = excluded.distinct_words, runs = known.runs + 1`,
        [sha256, ANALYSIS.name, ANALYSIS.version, words, distinct],
      )
    },
  },
  {
    concurrency: AT_ONCE,
    // The same content is analysed once, however often it is uploaded and under whatever name.
    key: (event) => `${event.data.sha256} ${ANALYSIS.name} ${ANALYSIS.version}`,
  },
)

await consumer.run({ signal: stopSignal() })
await db.end()
