import { join } from 'node:path'
import { createConsumer, DeadLetter } from 'outrider/consumer'
import { openPool, setting, stopSignal } from '../service.js'
import { FileUploaded } from './events.js'
import { countWords } from './words.js'

/** The worker that counts words: a process; run as many as are needed. */

/** With a new version everything is counted anew: by a group of its own, which begins at the beginning of the stream. */
const ANALYSIS = { name: 'word-count', version: 1 }
/** At once, in one process: what its memory, its processor or its model bears. */
const AT_ONCE = 2

const store = setting('STORE')
const db = openPool(4)

const consumer = createConsumer({
  redis: setting('REDIS_URL'),
  db,
  group: `${ANALYSIS.name}-${ANALYSIS.version}`,
  // What one worker holds, the others cannot have. With long work, hold little more than what runs.
  prefetch: AT_ONCE + 1,
  // After so long without a sign of life a worker is taken to be dead, however long its work takes: it gives that sign
  // while it works. 30s by default; short here, for those who watch.
  claimAfter: '2s',
  // What still runs so long after SIGTERM is aborted, and another worker begins it anew. Stay below what your platform
  // waits before it kills. 30s by default.
  stopTimeout: '300ms',
})

consumer.on(
  FileUploaded,
  {
    // No transaction is open here, however long it takes.
    async work(event, { signal }) {
      const { file, sha256 } = event.data
      console.log(`begins ${file}`)
      signal.addEventListener('abort', () => console.log(`lets go of ${file}`), { once: true })
      const found = await countWords(join(store, file), signal)
      if (found.sha256 !== sha256) {
        console.log(`gives up ${file}`)
        // Trying again would not help: the file is never changed.
        const cause = new Error(`Expected a content with sha256 ${sha256}, found ${found.sha256}`)
        throw new DeadLetter('checksum mismatch', { cause })
      }
      console.log(`has counted ${file}: ${found.words} words`)
      return found
    },
    async commit(_event, { sha256, words, distinct }, { tx }) {
      // It is there already only if the same content was analysed before what the inbox remembers (inboxWindow, 7d).
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
    // The same content is analysed once, whoever uploads it again and under whatever name.
    key: (event) => `${event.data.sha256} ${ANALYSIS.name} ${ANALYSIS.version}`,
  },
)

await consumer.run({ signal: stopSignal() })
await db.end()
