import { truncate } from 'node:fs/promises'
import { join } from 'node:path'
import { until } from '../../testkit/services/until.js'
import type { Account } from '../support/account.js'
import type { ExampleEnv } from '../support/example-env.js'
import type { WorkerProcess } from '../support/worker-process.js'
import { announce, put, upload } from './uploads.js'

const WORKER = new URL('./worker.ts', import.meta.url)
const GROUP = 'word-count-1'

/**
 * Long work outside a transaction. A slow worker keeps its file, another worker repeats the file of a killed one, and
 * each content is analysed once.
 */
export async function analysis(env: ExampleEnv, account: Account): Promise<void> {
  const store = env.folder('store')
  const uploads = await env.connect('uploads')
  const send = async (file: string, words: number, content = file) => {
    await upload(uploads, store, file, textOf(content, words))
    account.say(`${file} is uploaded`)
  }
  const start = (name: string) => env.worker(name, WORKER, 'analysis_worker', { STORE: store })
  const workers = await Promise.all(['worker A', 'worker B', 'worker C'].map(start))
  /** The workers that printed a line with this beginning, once for each such line. */
  const whoSaid = (line: string) =>
    workers.flatMap((worker) => worker.lines.filter((said) => said.startsWith(line)).map(() => worker))
  const said = (line: string) => until(() => whoSaid(line).at(-1), { message: `a worker to say: ${line}` })

  account.heading('Three workers, and one is killed at work')
  await send('doomed.txt', 6_000)
  const victim = await said('begins doomed.txt')
  await victim.kill()
  account.say(`${victim.name} is killed`)

  account.heading('Then a long file, short files, two with the same content, and a damaged file are uploaded')
  await send('novel.txt', LONG)
  for (const file of SHORT) await send(file, 300)
  await send('same-as-six.txt', 300, 'six.txt')
  const damaged = await put(store, 'damaged.txt', textOf('damaged.txt', 300))
  await truncate(join(store, damaged.file), 100)
  await announce(uploads, damaged)
  account.say('damaged.txt is uploaded, but cut off in the store')
  await Promise.all([said('has counted novel.txt'), said('has counted doomed.txt'), said('gives up damaged.txt')])
  await env.drained('files', GROUP)

  account.heading('The same long file once more, and one whose worker is asked to stop')
  await send('novel-later.txt', LONG, 'novel.txt')
  await send('last.txt', 6_000)
  const leaver = await said('begins last.txt')
  const code = await leaver.stop()
  account.say(`${leaver.name} has ended`)
  const successor = await said('has counted last.txt')
  await env.drained('files', GROUP)

  account.heading('Results')
  const { rows: results } = await env.owner.query(RESULTS)
  account.table([
    ['file', 'words', 'distinct', 'runs'],
    ...results.map((row) => [row.file, String(row.words), String(row.distinct_words), String(row.runs)]),
  ])
  const expected = [
    ...['doomed.txt 6000 100 1', 'last.txt 6000 100 1', `novel.txt ${LONG} 100 1`],
    ...SHORT.map((file) => `${file} 300 100 1`),
  ]
  account.check(
    'each content has one result, committed once, and the right one',
    results
      .map((row) => Object.values(row).join(' '))
      .sort()
      .join() === expected.sort().join(),
    results,
  )
  account.check(
    'the killed worker’s file was processed by another one',
    whoSaid('has counted doomed.txt').length === 1 && whoSaid('begins doomed.txt').length === 2,
  )
  const [holder, ...others] = whoSaid('begins novel.txt')
  account.check(
    'work longer than claimAfter stayed with its worker, which sent heartbeats',
    holder !== undefined && others.length === 0 && whoSaid('has counted novel.txt')[0] === holder,
  )
  account.check(
    'a content that was analysed before was not read again under another name',
    whoSaid('begins novel-later.txt').length === 0,
  )
  const busiest = Math.max(...workers.map(mostAtOnce))
  account.check('no worker had more than two files in work at once', busiest === 2, busiest)
  account.check(
    'the stopped worker aborted its file and ended with exit code 0, and another one did it',
    code === 0 && whoSaid('aborts last.txt')[0] === leaver && successor !== leaver,
    code,
  )
  const dead = JSON.parse(await env.outrider('dead-letters', 'list', '--json')).letters as Record<string, string>[]
  account.check(
    'the damaged file, and nothing else, is a dead letter: checksum mismatch',
    dead.map(({ subject, group, reason }) => `${subject} ${group} ${reason}`).join() ===
      `damaged.txt ${GROUP} checksum mismatch`,
    dead,
  )
}

/** The number of words of the long file. Its analysis takes longer than claimAfter. */
const LONG = 30_000
const SHORT = ['one.txt', 'two.txt', 'three.txt', 'four.txt', 'five.txt', 'six.txt']

/** Each result, with the name under which its content was first uploaded. */
const RESULTS = `
select
  (select file from upload where upload.sha256 = analysis.sha256 order by uploaded_at limit 1) as file,
  words, distinct_words, runs
from analysis order by 1`

/** A text of this many words, of which 100 are distinct. */
const textOf = (seed: string, words: number): string =>
  Array.from({ length: words }, (_, n) => `${seed.slice(0, 2)}${n % 100}`).join(' ')

/** The most files that a worker analysed at once, according to its output. */
function mostAtOnce({ lines }: WorkerProcess): number {
  const atWork = new Set<string>()
  let most = 0
  for (const line of lines) {
    const file = /\S+\.txt/.exec(line)?.[0] as string
    if (line.startsWith('begins')) atWork.add(file)
    else atWork.delete(file)
    most = Math.max(most, atWork.size)
  }
  return most
}
