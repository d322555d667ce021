import type { Decisions } from './decisions.js'
import { FAULTS, type Fault } from './faults.js'
import { Oracle } from './oracle.js'
import { Postgres } from './postgres.js'
import { SessionEnd, type Steps } from './publisher.js'
import type { Random } from './random.js'
import { Redis } from './redis.js'
import { Session } from './session.js'
import { CLOCK_SKEW, State } from './state.js'
import type { Streaming } from './streaming.js'

interface Relay {
  session: Session
  steps: Steps
  /** For one that is cut off: how many steps it still takes. */
  left: number
}

/** Ticks with faults, at least and at most. */
const FAULTY_TICKS = [40, 120] as const
/** Ticks after which everything must have arrived. */
const CALM_TICKS = 1_500
/** Kinds of faults in one run: what is found only where the same kinds meet is found sooner. */
const KINDS = 3
/** In which step of a repair a fault happens is rarely hit by chance: so often one happens while a gap is open. */
const HUNTING = 0.15

/**
 * A small world in ticks: writers, a relay that is killed or frozen at any step, Redis and Postgres, and faults of all of them. After a time
 * of faults comes a calm time, in which everything must settle.
 *
 * Not modelled: timelines and a second database, the guards, `onGap: halt` and what a person does, durability levels, rejected rows, consumers.
 */
export class World {
  readonly random: Random
  readonly decisions: Decisions
  readonly postgres: Postgres
  readonly redis: Redis
  readonly state: State
  time = 100
  isCalm = false
  leader: Session | undefined
  readonly violations: string[] = []
  /** Data of Redis to which it may go back, and those of a primary that may come back. */
  readonly copies: Redis['data'][] = []
  failback: { at: number; data: Redis['data'] } | undefined
  holeUntil = 0
  readonly #trace: ((line: string) => void) | undefined
  #relay: Relay | undefined
  readonly #frozen: Relay[] = []
  readonly #faults: Fault[]
  #sessions = 0

  constructor(random: Random, decisions: Decisions, trace?: (line: string) => void) {
    this.random = random
    this.decisions = decisions
    this.#trace = trace
    this.#faults = Array.from({ length: KINDS }, () => FAULTS[random.int(FAULTS.length)]!)
    const offset = random.int(2 * CLOCK_SKEW) - CLOCK_SKEW
    this.postgres = new Postgres(random)
    this.redis = new Redis(() => this.time + offset, decisions.preparedEnd)
    this.state = new State(
      this.postgres,
      decisions,
      () => this.time,
      (what) => this.violated(what),
    )
  }

  violated(what: string): void {
    this.say(`VIOLATION ${what}`)
    this.violations.push(what)
  }

  say(line: string): void {
    this.#trace?.(`${this.time} ${line}`)
  }

  run(): void {
    const { random } = this
    const [least, most] = FAULTY_TICKS
    const ticks = least + random.int(most - least)
    let faults = 2 + random.int(5)
    for (let left = ticks; left > 0; left--) {
      const isRepairing = this.state.gaps.some(({ isRepaired }) => !isRepaired)
      const isHunted = isRepairing && random.chance(HUNTING)
      if (isHunted || (faults > 0 && random.chance(faults / left))) {
        if (!isHunted) faults -= 1
        if (isHunted && random.chance(0.3)) this.endRelay()
        else this.#fault()
      }
      if (random.chance(isRepairing ? 0.6 : 0.04)) this.copies.push(this.redis.copy())
      this.#tick()
    }
    this.isCalm = true
    const rounds = new Map<Streaming, number>()
    for (let left = CALM_TICKS; left > 0; left--) {
      this.#tick()
      const streaming = this.leader?.streaming
      if (streaming && !rounds.has(streaming)) rounds.set(streaming, streaming.rounds)
      if (streaming && streaming.rounds >= rounds.get(streaming)! + 3 && this.#isSettled(streaming)) break
      if (left === 1) this.violated('the relay never settles')
    }
    for (const violation of new Oracle(this).violations()) this.violated(violation)
  }

  /** The relay is killed, or ends. */
  endRelay(): void {
    this.#relay = undefined
    this.leader = undefined
  }

  /** The relay is frozen, and another one takes its place; it continues for a while later. */
  freezeRelay(): void {
    if (!this.#relay) return
    this.#relay.session.isCutOff = true
    this.#relay.left = 1 + this.random.int(40)
    this.#frozen.push(this.#relay)
    this.say(`frozen ${this.#relay.session.id}`)
    this.endRelay()
  }

  #isSettled(streaming: Streaming): boolean {
    const { postgres, state } = this
    const last = postgres.wal.at(-1)?.endLsn ?? 0n
    const isWritten = postgres.active.length === 0 && this.#frozen.length === 0
    return isWritten && state.gaps.length === 0 && streaming.isIdle && state.confirmed >= last
  }

  #fault(): void {
    const { name, inflict } = this.#faults[this.random.int(KINDS)]!
    this.say(`FAULT ${name}`)
    inflict(this)
  }

  #tick(): void {
    const { random, postgres } = this
    this.time += 1
    if (postgres.hole && (this.isCalm || this.time >= this.holeUntil)) postgres.alterPublication(undefined)
    if (this.failback && (this.isCalm || this.time >= this.failback.at)) {
      this.say('failback')
      this.redis.replace(this.failback.data)
      this.failback = undefined
    }
    if (random.chance(0.7)) postgres.act(this.isCalm)
    if (!this.#relay && (this.isCalm || random.chance(0.5))) this.#start()
    for (let steps = 1 + random.int(8); steps > 0 && this.#relay; steps--) this.#step(this.#relay)
    const frozen = this.#frozen[random.int(this.#frozen.length)]
    if (frozen && (this.isCalm || random.chance(0.3))) this.#step(frozen)
  }

  #start(): void {
    const session = new Session(this, `session ${++this.#sessions}`)
    this.leader = session
    this.#relay = { session, steps: session.run(), left: 0 }
  }

  #step(relay: Relay): void {
    const isFrozen = relay !== this.#relay
    try {
      relay.steps.next()
      relay.left -= 1
      if (isFrozen && relay.left <= 0) this.#remove(relay)
    } catch (error) {
      if (!(error instanceof SessionEnd)) throw error
      this.say(`${relay.session.id} ends: ${error.message}`)
      if (isFrozen) this.#remove(relay)
      else this.endRelay()
    }
  }

  #remove(relay: Relay): void {
    this.#frozen.splice(this.#frozen.indexOf(relay), 1)
  }
}
