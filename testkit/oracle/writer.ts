import { randomUUID } from 'node:crypto'
import { setTimeout as pause } from 'node:timers/promises'
import type pg from 'pg'
import { shaOf } from './truth.js'

export interface WriterOptions {
  writer: number
  /** How many events to commit, at least. */
  events: number
  streams: string[]
  /** Subjects shared by all writers, so that their transactions meet. */
  subjects: number
  /** The payload of an event, as JSON text. */
  payload(random: () => number): string
  /** A number from 0 to 1; seeded, so that a run can be repeated. */
  random(): number
  /** Told after each commit; the writer waits for it. */
  committed?(events: number): void | Promise<void>
  signal?: AbortSignal
  /** This share of the transactions stays open for up to so many milliseconds: half of it prepared, half writes again after that. */
  lingering?: { share: number; ms: number }
}

interface Draft {
  id: string
  stream: string
  subject: string
  data: string
}

/**
 * Commits events with their truth, in transactions of different sizes; some roll back, some roll back a savepoint, some
 * stay open while others commit. Returns how many events it committed.
 */
export async function write(client: pg.ClientBase, options: WriterOptions): Promise<number> {
  const { random } = options
  let committed = 0
  let counter = 0
  while (committed < options.events && !options.signal?.aborted) {
    const fate = random()
    await client.query('begin')
    let events = await insert(client, options, counter)
    counter += events
    if (fate < 0.1) {
      await client.query('savepoint undone')
      counter += await insert(client, options, counter)
      await client.query('rollback to savepoint undone')
    } else if (fate < 0.2) {
      await client.query('savepoint kept')
      const more = await insert(client, options, counter)
      counter += more
      events += more
      await client.query('release savepoint kept')
    } else if (fate < 0.22) {
      // Stays open while the others commit.
      await client.query('select pg_sleep(0.05)')
    }
    const isUndone = fate > 0.9
    const more = await end(client, isUndone ? 'rollback' : 'commit', options, counter)
    counter += more
    events += more
    if (isUndone) continue
    committed += events
    await options.committed?.(events)
  }
  return committed
}

/** Ends the transaction; resolves with how many events it has inserted before. */
async function end(
  client: pg.ClientBase,
  how: 'commit' | 'rollback',
  options: WriterOptions,
  counter: number,
): Promise<number> {
  const { random, lingering, writer, signal } = options
  if (lingering === undefined || random() >= lingering.share) {
    await client.query(how)
    return 0
  }
  const isPrepared = random() < 0.5
  if (isPrepared) await client.query(`prepare transaction 'writer ${writer}'`)
  // Also one that is told to stop ends what it began.
  await pause(random() * lingering.ms, undefined, { signal }).catch(() => {})
  const inserted = isPrepared ? 0 : await insert(client, options, counter)
  await client.query(isPrepared ? `${how} prepared 'writer ${writer}'` : how)
  return inserted
}

async function insert(client: pg.ClientBase, options: WriterOptions, counter: number): Promise<number> {
  const drafts = drawDrafts(options)
  const subjects = [...new Set(drafts.map(({ subject }) => subject))]
  // Under the row's lock until the commit: the sequence of a subject is its order of commits. One after the other by
  // name, so that no two writers wait for each other; a savepoint may break that, so one of them then goes without lock.
  const { rows } = await client.query(
    'select name, seq from subject where name = any($1) order by name for update skip locked',
    [subjects],
  )
  const next = new Map<string, number>(rows.map(({ name, seq }) => [name, seq]))
  const taken = drafts.filter(({ subject }) => next.has(subject))
  if (taken.length === 0) return 0
  const seqs = taken.map(({ subject }) => {
    const seq = (next.get(subject) as number) + 1
    next.set(subject, seq)
    return seq
  })
  await client.query(
    `with drafts as (
       select * from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::int[], $6::text[]) with ordinality
         as d (id, stream, subject, data, seq, sha, n)
     ), numbered as (
       update subject set seq = greatest(subject.seq, d.seq)
         from (select subject, max(seq) as seq from drafts group by subject) d where name = d.subject
     ), known as (
       insert into truth select id, $7, $8 + n, stream, subject, seq, sha from drafts
     )
     insert into outrider.outbox (id, stream, type, subject, data)
       select id, stream, 'test.happened', subject, data::json from drafts order by n`,
    [
      taken.map(({ id }) => id),
      taken.map(({ stream }) => stream),
      taken.map(({ subject }) => subject),
      taken.map(({ data }) => data),
      seqs,
      taken.map(({ data }) => shaOf(data)),
      options.writer,
      counter,
    ],
  )
  return taken.length
}

function drawDrafts({ random, streams, subjects, payload }: WriterOptions): Draft[] {
  const count = random() < 0.05 ? 100 : 1 + Math.floor(random() * 12)
  return Array.from({ length: count }, () => {
    const subject = Math.floor(random() * subjects)
    return {
      id: randomUUID(),
      // A subject stays in one stream: that is what order means.
      stream: streams[subject % streams.length] as string,
      subject: `subject-${subject}`,
      data: payload(random),
    }
  })
}

/** To be called once, before the writers. */
export async function createSubjects(client: pg.ClientBase, subjects: number): Promise<void> {
  await client.query("insert into subject select 'subject-' || n from generate_series(0, $1 - 1) n", [subjects])
}

/** A small generator of numbers from 0 to 1 with a seed (mulberry32). */
export function seeded(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
  }
}
