import type { Redis as Client } from 'ioredis'
import { expect } from 'vitest'
import { headKey } from '../../src/event/names.js'
import { type Position, ZERO_POSITION } from '../../src/event/position.js'
import type { AppendReply } from '../../src/redis/streams/append.js'
import { call } from '../support/events.js'
import { Actor, eventsOf, type Sent } from './publish-actor.js'
import { eventId, isBefore, KEY, LINEAGES, type Lineage, type PublishedState, positionAt } from './published-state.js'

export const KINDS = [
  ...Array<'post'>(10).fill('post'),
  ...Array<'deliver'>(12).fill('deliver'),
  ...Array<'receive'>(10).fill('receive'),
  ...(['cut', 'cut', 'claim', 'claim', 'save', 'save', 'snapshot', 'snapshot'] as const),
  ...(['rollback', 'rollback', 'delete head', 'delete stream', 'stream back', 'forbid', 'permit', 'exhaust'] as const),
] as const

/** One thing that happens. `a` and `b` say more, as each kind takes it. */
export interface Step {
  kind: (typeof KINDS)[number]
  lineage: Lineage
  a: number
  b: number
}

/**
 * Lets things happen to two lineages on one stream, and holds each answer of append.lua to these, whatever came before:
 *
 * - of each lineage the stream holds the events from its first on, each once, in order, with none missing between;
 * - after an OK, up to the last event of the batch: what Redis lost was told before anything newer went in;
 * - a refusal comes exactly when it is due, and changes nothing;
 * - the head covers exactly what is in the stream, also when an error cut the batch short.
 */
export class Schedule {
  readonly #actors: Record<Lineage, Actor[]>
  /** The last event that each database knows to be safe. */
  readonly #saved: Record<Lineage, number> = { north: -1, south: -1 }
  #forbidden = false

  constructor(
    readonly state: PublishedState,
    readonly client: Client,
  ) {
    this.#actors = { north: [new Actor('north', -1, 0)], south: [new Actor('south', -1, 0)] }
  }

  async take({ kind, lineage, a, b }: Step): Promise<void> {
    const { state } = this
    const actor = this.#actor(lineage, a)
    if (kind === 'post') {
      if (actor.ended && actor === this.#leader(lineage)) await this.#claim(lineage, b)
      else actor.post(1 + (b % 4))
    } else if (kind === 'deliver') await this.#deliver(actor, 1 + (b % 3))
    else if (kind === 'receive') for (let i = 0; i <= b % 3; i++) actor.receive()
    else if (kind === 'cut') await this.#cut(actor, b % 3)
    else if (kind === 'claim') await this.#claim(lineage, b)
    else if (kind === 'save') this.#saved[lineage] = Math.max(this.#saved[lineage], this.#leader(lineage).chain)
    else if (kind === 'snapshot') await this.#snapshot()
    else if (kind === 'rollback') await state.rollback(b, 'everything')
    else if (kind === 'delete head') await this.#deleteHead(lineage)
    else if (kind === 'delete stream') await this.#loseStream(() => this.#deleteStream(b % 2 === 0))
    else if (kind === 'stream back') await this.#loseStream(() => state.rollback(b, 'stream'))
    else if (kind === 'forbid') await this.#permit(false)
    else if (kind === 'permit') await this.#permit(true)
    else await this.#exhaust(b % 4)
    for (const each of LINEAGES) this.#holdsPrefix(each)
  }

  /** When everything is well again, everything arrives. */
  async settle(): Promise<void> {
    await this.#permit(true)
    if (this.#isExhausted) await this.#loseStream(() => this.#deleteStream(true))
    for (const lineage of LINEAGES) {
      await this.#claim(lineage, 0)
      const leader = this.#leader(lineage)
      const goal = this.state.view.seen[lineage].events.length + 8
      while (leader.chain < goal) {
        leader.post(4)
        await this.#deliver(leader, 1)
        leader.receive()
        expect(leader.ended).toBe(false)
      }
      expect(this.state.view.seen[lineage].events.length).toBeGreaterThan(goal)
    }
  }

  #leader(lineage: Lineage): Actor {
    return this.#actors[lineage].at(-1) as Actor
  }

  /** The leader, or now and then one of an older session. */
  #actor(lineage: Lineage, n: number): Actor {
    const actors = this.#actors[lineage]
    return n % 3 > 0 ? this.#leader(lineage) : (actors[n % actors.length] as Actor)
  }

  async #deliver(actor: Actor, count: number): Promise<void> {
    for (const sent of actor.wire.splice(0, count)) {
      const reply = await this.#call(actor, sent)
      actor.replies.push({ sent, reply })
    }
  }

  /** The connection breaks when the first of what was sent has arrived; the next one probes first. */
  async #cut(actor: Actor, arrived: number): Promise<void> {
    if (actor.ended) return
    await this.#deliver(actor, arrived)
    actor.cut()
    const { status } = await this.#call(actor, undefined, actor.chain)
    if (status !== 'OK') actor.end()
  }

  /** A new session takes the head over, and replays from wherever the slot stands. */
  async #claim(lineage: Lineage, from: number): Promise<void> {
    const saved = this.#saved[lineage]
    const actor = new Actor(lineage, saved, from % (saved + 2))
    let reply = await this.#call(actor, undefined, saved)
    if (reply.status === 'OTHER') reply = await this.#call(actor, undefined, saved, reply.session)
    this.#leader(lineage).end()
    if (reply.status === 'OK') this.#actors[lineage].push(actor)
    else {
      expect(reply.status).toBe('BEHIND')
      await this.#repair(lineage)
    }
  }

  /** The loss is known: a new chain begins behind what is left. */
  async #repair(lineage: Lineage): Promise<void> {
    const { events, lastEntry } = this.state.view.seen[lineage]
    const last = events.length - 1
    const actor = new Actor(lineage, last, last + 1)
    const key = headKey(KEY, lineage)
    const head = { position: positionAt(last), event: eventId(lineage, last), entry: lastEntry, session: actor.session }
    // How many entries this stream has seen is not what the lost one had: not known, until the next append says it.
    const unknown = { added: '' }
    await this.state.change((admin) => (last < 0 ? admin.del(key) : admin.hset(key, { ...head, ...unknown })))
    this.#leader(lineage).end()
    this.#actors[lineage].push(actor)
    this.#saved[lineage] = last
  }

  /** Not of a stream whose last id was set by hand: brought back, it would pass for a newer one. */
  async #snapshot(): Promise<void> {
    if (!this.#isExhausted && LINEAGES.every((lineage) => this.state.isWhole(lineage))) await this.state.snapshot()
  }

  /** Whoever builds on nothing cannot know that something was there: the slot's replay would come again. */
  async #deleteHead(lineage: Lineage): Promise<void> {
    if (this.#saved[lineage] < 0 || !this.#leader(lineage).isChained) return
    this.#actors[lineage] = this.#actors[lineage].filter((actor) => actor.isChained)
    await this.state.change((admin) => admin.del(headKey(KEY, lineage)))
  }

  async #deleteStream(recreate: boolean): Promise<void> {
    await this.state.change(async (admin) => {
      await admin.del(KEY)
      if (recreate) await admin.xgroup('CREATE', KEY, 'billing', '0', 'MKSTREAM')
    })
  }

  /**
   * The stream alone loses entries. The next probe of each lineage that had some of them must tell; here it comes before
   * another lineage writes, for after that the stream's last id says nothing any more.
   */
  async #loseStream(lose: () => Promise<unknown>): Promise<void> {
    for (const lineage of LINEAGES) if (!this.state.isWhole(lineage)) await this.#repair(lineage)
    const had = LINEAGES.map((lineage) => this.state.view.seen[lineage].events.length)
    await lose()
    for (const [i, lineage] of LINEAGES.entries()) {
      const { events, head } = this.state.view.seen[lineage]
      if (events.length < had[i]!) {
        const probe = await call(this.client, { key: KEY, lineage, session: head!.session, previous: ZERO_POSITION })
        expect(probe.status).toBe('BEHIND')
      }
      if (events.length !== had[i]) await this.#repair(lineage)
    }
  }

  /** May the relay's user XADD? */
  async #permit(may: boolean): Promise<void> {
    this.#forbidden = !may
    await this.state.admin.call('ACL', 'SETUSER', 'relay', may ? '+xadd' : '-xadd')
  }

  /** The stream takes a few entries more, and then none. */
  async #exhaust(left: number): Promise<void> {
    if (this.state.view.generated === undefined || this.#isExhausted) return
    const last = `${2n ** 64n - 1n}-${2n ** 64n - 1n - BigInt(left)}`
    await this.state.change((admin) => admin.call('XSETID', KEY, last))
  }

  get #isExhausted(): boolean {
    return this.state.view.generated?.startsWith(`${2n ** 64n - 1n}-`) ?? false
  }

  /** Makes one call, and judges its answer by what was there before and what is there after it. */
  async #call(actor: Actor, sent: Sent | undefined, chain = -1, expected = ''): Promise<AppendReply> {
    const { lineage, session } = actor
    const previous = positionAt(sent?.previous ?? chain)
    const before = this.state.view
    const events = sent ? eventsOf(lineage, sent) : []
    const made = { key: KEY, lineage, session, expected, previous, events }
    const reply = await this.state.change(() => call(this.client, made))
    const after = this.state.view
    const [was, is] = [before.seen[lineage], after.seen[lineage]]

    const due = refusal(was.head, before.generated, [session, expected], previous)
    if (due) {
      expect(reply).toMatchObject({ status: due, appended: 0, skipped: 0 })
      expect(after).toEqual(before)
      return reply
    }
    expect(is.events.length - was.events.length).toBe(reply.appended)
    this.#holdsPrefix(lineage)
    if (reply.appended > 0) {
      const last = is.events.length - 1
      const head = { position: positionAt(last), event: eventId(lineage, last), entry: is.lastEntry }
      expect(reply.head).toEqual(head)
      expect(is.head).toMatchObject({ ...head, session })
    }
    if (reply.status === 'ERROR') {
      expect(sent && (this.#forbidden || this.#isExhausted)).toBe(true)
    } else {
      expect(reply.status).toBe('OK')
      if (sent) expect(is.events.length).toBeGreaterThan(sent.to)
    }
    return reply
  }

  #holdsPrefix(lineage: Lineage): void {
    const { events } = this.state.view.seen[lineage]
    expect(events).toEqual(Array.from(events, (_, k) => k))
  }
}

/** What a call must be refused with, said independently of the script. */
function refusal(
  head: { position: Position; entry: string; session: string } | undefined,
  generated: string | undefined,
  sessions: string[],
  previous: Position,
): 'OTHER' | 'BEHIND' | undefined {
  if (head && !sessions.includes(head.session)) return 'OTHER'
  // Bytewise, which is what the positions are made for.
  if ((head?.position ?? ZERO_POSITION) < previous) return 'BEHIND'
  const entry = head?.entry ?? '0-0'
  if (entry !== '0-0' && (generated === undefined || isBefore(generated, entry))) return 'BEHIND'
  return undefined
}
