import { expect } from 'vitest'
import { backlog } from './backlog.js'
import type { ConsumerEnv } from './consumer-env.js'
import { GROUP } from './happened.js'

export interface Appended {
  id: string
  subject: string
  n: number
  /** How many attempts fail before it is done. */
  fails: number
  dead: boolean
  /** The last one of its subject before it that is not dead. */
  previous: number | null
}

/** Events of many subjects in a partitioned stream, each with its number within its subject, and what must become of them. */
export class Subjects {
  readonly appended: Appended[] = []
  readonly keys: string[]
  readonly #env: ConsumerEnv
  readonly #random: () => number
  readonly #subjects: { next: number; last: number | null }[]

  private constructor(env: ConsumerEnv, name: string, partitions: number, subjects: number, random: () => number) {
    this.#env = env
    this.#random = random
    this.keys = Array.from({ length: partitions }, (_, n) => `${name}:${n}`)
    this.#subjects = Array.from({ length: subjects }, () => ({ next: 0, last: null }))
  }

  static async create(
    env: ConsumerEnv,
    { name, partitions, subjects, random }: { name: string; partitions: number; subjects: number; random(): number },
  ): Promise<Subjects> {
    await env.redis.set(`outrider:{${name}}:partitions`, partitions)
    return new Subjects(env, name, partitions, subjects, random)
  }

  /** Some of them fail at first, and a few must be dead-lettered. */
  async append(count: number): Promise<void> {
    const appends: Promise<unknown>[] = []
    for (let made = 0; made < count; made++) {
      const place = Math.floor(this.#random() * this.#subjects.length)
      const state = this.#subjects[place] as { next: number; last: number | null }
      const [subject, n, draw] = [`subject-${place}`, state.next, this.#random()]
      const dead = draw < 0.005
      const fails = dead ? 0 : draw < 0.03 ? 2 : draw < 0.08 ? 1 : 0
      const event = { id: `${subject}.${n}`, subject, n, fails, dead, previous: state.last }
      this.appended.push(event)
      state.next += 1
      if (!dead) state.last = n
      const key = this.keys[place % this.keys.length] as string
      // One connection: Redis gets them in this order.
      appends.push(this.#env.append(key, [{ n, fails, dead }], { id: event.id, subject }))
    }
    await Promise.all(appends)
  }

  /** Entries that have failed and are not done. */
  async failed(keys: readonly string[] = this.keys): Promise<number> {
    const hashes = await Promise.all(keys.map((key) => this.#env.redis.hkeys(`outrider:{${key}}:retries:${GROUP}`)))
    // The other fields are no entries: see move.lua and find-unread.lua.
    return hashes.flat().filter((field) => /^\d+-\d+$/.test(field)).length
  }

  /** Each once, each behind the commit of the one before it, each at the attempt that it was made to be done at. */
  async judge(): Promise<void> {
    const { rows } = await this.#env.pool.query<{ event: string; attempt: number; previous: number | null }>(
      'select event, attempt, previous from effect order by seq',
    )
    const effects = new Map<string, (typeof rows)[number]>()
    const doubled = rows.filter((row) => {
      const again = effects.has(row.event)
      effects.set(row.event, effects.get(row.event) ?? row)
      return again
    })
    const alive = this.appended.filter(({ dead }) => !dead)
    const dead = (await Promise.all(this.keys.map((key) => this.#env.dead(key)))).flat()
    const found = alive.map((event) => ({ event, effect: effects.get(event.id) }))
    expect({
      lost: found.filter(({ effect }) => !effect),
      doubled,
      disordered: found.filter(({ event, effect }) => effect && effect.previous !== event.previous),
      charged: found.filter(({ event, effect }) => effect && effect.attempt !== event.fails + 1),
      dead: dead.map(({ id }) => id).sort(),
      left: await backlog(this.#env, this.keys),
      failed: await this.failed(),
    }).toEqual({
      ...{ lost: [], doubled: [], disordered: [], charged: [], left: { left: 0, pending: 0 }, failed: 0 },
      dead: this.appended.flatMap((event) => (event.dead ? [event.id] : [])).sort(),
    })
    expect(rows).toHaveLength(alive.length)
  }
}
