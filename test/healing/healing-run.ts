import { setTimeout as pause } from 'node:timers/promises'
import type { Incident } from '../../src/postgres/state/incident.js'
import { seeded } from '../../testkit/oracle/writer.js'
import { until } from '../../testkit/services/index.js'
import { HealingEnv } from './healing-env.js'
import { LOSSES, type Loss } from './losses.js'
import { countDoubled, finalOutcome, type Hole, readAll, violationsOf } from './outcome.js'
import { Probe, untilHeadsAreSaved } from './probe.js'
import { RedisPair } from './redis-pair.js'
import { Straddlers } from './straddlers.js'
import { MAX_LINGER_MS, Writers } from './writers.js'

/** How long one repair may take, with kills and further losses: a slow machine that does much else took over three minutes. */
const REPAIRED_MS = 600_000

export interface HealingOptions {
  losses: number
  seed: number
  /** Which to choose from; each is chosen once before any is chosen again. Default: all. */
  kinds?: readonly Loss[]
  /** How long some transactions stay open, at most, in milliseconds: a gap is closed once they have ended. */
  linger?: number
  /** At most one fault a loss, and only the last gap is awaited until it is closed. */
  isShort?: boolean
  /** Streams are trimmed meanwhile. */
  trims?: boolean
  print(line: string): void
}

/** A moment of a repair: so many milliseconds after the relay has reported this. */
interface Moment {
  reported: 'repairing' | 'repair began' | 'repaired'
  after: number
  /** The report may never come: how long it is awaited, in milliseconds. */
  within: number
}

/** A loss, and what else happens to its repair. */
interface Plan {
  loss: Loss
  /** What happens to the relay. */
  faults: { how: 'kill' | 'freeze'; at: Moment }[]
  /** Another loss. */
  second: { loss: Loss; at: Moment } | undefined
  /** What Redis holds in mid-repair is remembered, or given to the other server, for a loss that comes later. */
  memory: { how: 'copy' | 'fork'; at: Moment } | undefined
  /** The relay does not run while the loss happens. */
  isDown: boolean
  /** The next loss does not wait until the gap is closed, but for events to flow again. */
  isHasty: boolean
  random(): number
}

/** Draws what happens. The n-th loss of a seed is the same, whatever the earlier ones have taken. */
function* draw({ losses, seed, kinds = LOSSES, isShort = false }: HealingOptions): Generator<Plan> {
  const bags = seeded(seed)
  let bag: Loss[] = []
  for (let n = 1; n <= losses; n++) {
    if (bag.length === 0) bag = shuffle([...kinds], bags)
    const loss = bag.pop() as Loss
    const random = seeded(seed * 1_000 + n)
    const moment = () => drawMoment(random, loss.isSlow ? 25_000 : 2_500)
    const count = random() < 0.5 ? 1 + Math.floor(random() * (loss.isSlow || isShort ? 1 : 3)) : 0
    const faults = Array.from({ length: count }, () => ({
      how: random() < 0.8 ? ('kill' as const) : ('freeze' as const),
      at: moment(),
    }))
    const other = kinds[Math.floor(random() * kinds.length)] as Loss
    const second = { loss: other, at: moment() }
    const memory = { how: random() < 0.5 ? ('copy' as const) : ('fork' as const), at: moment() }
    yield {
      ...{ loss, faults, random },
      second: random() < 0.25 ? second : undefined,
      memory: random() < 0.2 ? memory : undefined,
      isDown: random() < 0.15,
      isHasty: random() < 0.2 || isShort,
    }
  }
}

/** `longest`: from when the relay says that it repairs until it begins to put back. */
function drawMoment(random: () => number, longest: number): Moment {
  const draw = random()
  const within = longest + 20_000
  if (draw < 0.3) return { reported: 'repairing', after: random() * longest, within }
  if (draw < 0.8) return { reported: 'repair began', after: random() ** 2 * 1_500, within }
  return { reported: 'repaired', after: random() * 3_000, within }
}

function shuffle<T>(all: T[], random: () => number): T[] {
  return all
    .map((one) => ({ one, order: random() }))
    .sort((a, b) => a.order - b.order)
    .map(({ one }) => one)
}

/** Losses one after the other under load, each repaired before the next. Resolves with what is wrong in the end. */
export async function runHealing(options: HealingOptions): Promise<string[]> {
  const { seed, losses, print } = options
  const random = seeded(seed + 7)
  const settings = {
    persistence: random() < 0.5 ? 'aof' : 'rdb',
    tracksCommits: random() < 0.5,
    durability: random() < 0.7 ? 'auto' : 'memory',
  } as const
  print(
    `seed ${seed}, ${losses} losses, Redis with ${settings.persistence}, durability ${settings.durability}, ` +
      `track_commit_timestamp ${settings.tracksCommits ? 'on' : 'off'}`,
  )
  const { trims = false } = options
  const env = await HealingEnv.start({ ...settings, trims, redis: () => RedisPair.start(settings.persistence) })
  try {
    return await new HealingRun(env, options).run()
  } finally {
    await env.close()
  }
}

class HealingRun {
  readonly #env: HealingEnv
  readonly #options: HealingOptions
  readonly #writers: Writers
  readonly #straddlers: Straddlers
  readonly #holes: Hole[] = []
  #doubled = 0
  #kills = 0
  /** When the last loss or fault was: a moment of the repair that follows comes later. */
  #disturbedAt = 0
  readonly #frozen: (() => void)[] = []

  constructor(env: HealingEnv, options: HealingOptions) {
    this.#env = env
    this.#options = options
    this.#straddlers = new Straddlers(env)
    const { seed, losses, linger = MAX_LINGER_MS } = options
    this.#writers = new Writers(env, seed, { every: Math.min(1_500, Math.max(1_000, 20 * losses)), linger })
  }

  async run(): Promise<string[]> {
    const { print, losses } = this.#options
    try {
      await this.#writers.more(300)
      await untilHeadsAreSaved(this.#env)
      let n = 0
      for (const plan of draw(this.#options)) {
        n += 1
        try {
          print(`${String(n).padStart(String(losses).length)}/${losses} ${await this.#inflict(plan)}`)
        } catch (error) {
          const { message, cause } = error as Error
          const where = `loss ${n} (${plan.loss.what}${plan.second ? `, then ${plan.second.loss.what}` : ''})`
          return this.#wrong([`${where}: ${message}${cause ? `\n${String(cause)}` : ''}`])
        }
      }
    } finally {
      await this.#writers.stop()
      await this.#straddlers.ended()
    }
    return this.#outcomeOf()
  }

  async #inflict(plan: Plan): Promise<string> {
    const { loss, second, faults, memory, isDown } = plan
    const env = this.#env
    const context = { env, writers: this.#writers, straddlers: this.#straddlers, random: plan.random }
    const settled = (await env.incidents({ closed: true })).filter(({ closedAt }) => closedAt !== null)
    const told: string[] = []
    if (isDown) {
      await env.killRelay()
      told.push('no relay ran')
    }
    const from = Date.now()
    const detail = await loss.inflict(context)
    this.#disturbedAt = Date.now()
    let began = performance.now()
    if (isDown) await env.startRelay()
    if (memory) {
      await this.#reached(memory.at)
      if (memory.how === 'copy') await env.redis.remember()
      else await env.redis.forkOther()
      told.push(`${memory.how} at ${memory.at.reported}`)
    }
    if (second) {
      const isReached = await this.#reached(second.at)
      const more = await second.loss.inflict(context)
      this.#disturbedAt = Date.now()
      told.push(`then at ${isReached ? second.at.reported : 'rest'} ${second.loss.what}${more ? ` (${more})` : ''}`)
      began = performance.now()
    }
    for (const fault of faults) told.push(await this.#fault(fault))
    const isCertain = loss.isCertain || second?.loss.isCertain
    const known = new Set(settled.map(({ id }) => id))
    const incidents = await this.#settled(known, isCertain ?? false, plan.isHasty)
    for (const thaw of this.#frozen.splice(0)) thaw()
    const seconds = (performance.now() - began) / 1_000
    if (loss.leavesHole || second?.loss.leavesHole) this.#holes.push({ from, until: Date.now() })
    const doubled = countDoubled(await readAll(env.redis.client))
    const more = Math.max(0, doubled - this.#doubled)
    this.#doubled = doubled
    const putBack = countPutBack(incidents)
    if (incidents.some(({ closedAt }) => closedAt === null)) told.push('not closed yet')
    const found =
      incidents
        .map(({ reason, resolution }) => (resolution?.startsWith('found') ? `${reason} (${resolution})` : reason))
        .join(', ') || 'no gap'
    const what = [`${loss.what}${detail ? ` (${detail})` : ''}`, ...told].join(', ')
    return `${what}: ${found}, ${seconds.toFixed(1)} s, ${putBack} put back, ${more} doubled`
  }

  async #fault({ how, at }: Plan['faults'][number]): Promise<string> {
    const env = this.#env
    const isReached = await this.#reached(at)
    const status = await env.status()
    if (how === 'kill') {
      this.#kills += 1
      await env.killRelay()
    } else {
      // A zombie: it continues when another relay has taken its place.
      this.#frozen.push(await env.freezeRelay())
    }
    this.#disturbedAt = Date.now()
    if (!env.hasRelay) await env.startRelay()
    for (const thaw of how === 'kill' ? this.#frozen.splice(0) : []) thaw()
    const progress = /\d+ of \d+ events/.exec(status?.message ?? '')
    const when = isReached ? at.reported : (status?.state ?? 'start')
    return `${how === 'kill' ? 'killed' : 'frozen'} at ${when}${progress ? ` (${progress[0]})` : ''}`
  }

  /** Waits for the moment. False: it has not come. */
  async #reached({ reported, after, within }: Moment): Promise<boolean> {
    const env = this.#env
    const isReported = async () =>
      reported === 'repairing' ? (await env.status())?.state === 'repairing' : env.hasSaid(reported, this.#disturbedAt)
    const isReached = await until(isReported, { timeout: within }).then(
      () => true,
      () => false,
    )
    await pause(after)
    return isReached
  }

  /** Until the gap is repaired and closed and events flow in every stream; resolves with the incidents that are new. */
  async #settled(known: ReadonlySet<string>, isCertain: boolean, isHasty: boolean): Promise<Incident[]> {
    const probe = await Probe.send(this.#env)
    let fresh: Incident[] = []
    let state = ''
    await until(
      async () => {
        fresh = (await this.#env.incidents({ closed: true })).filter(({ id }) => !known.has(id)).reverse()
        const status = await this.#env.status()
        const hasArrived = await probe.hasArrived()
        state = JSON.stringify({
          status,
          hasArrived,
          incidents: fresh.map(({ reason, resolution }) => [reason, resolution]),
        })
        const isFound = fresh.length > 0 || !isCertain
        const isOver = isHasty || fresh.every(({ closedAt }) => closedAt !== null)
        return isFound && hasArrived && status?.state === 'streaming' && isOver
      },
      { timeout: REPAIRED_MS, message: () => `a repair, found ${state}` },
    )
    return fresh
  }

  async #outcomeOf(): Promise<string[]> {
    const { print } = this.#options
    const env = this.#env
    const outcome = await finalOutcome(env, this.#holes)
    const incidents = await env.incidents({ closed: true })
    const violations = [
      ...violationsOf(outcome),
      ...incidents
        .filter(({ kind, resolution }) => kind !== 'gap' || !/^(repaired: |found again$)/.test(resolution ?? ''))
        .map((incident) => `incident ${JSON.stringify(incident)}`),
    ]
    const { committed, lost, phantom, divergent, disordered, doubled, late } = outcome
    const { missing, repeated, invented } = outcome.effects
    print(
      `${committed} events committed, ${countPutBack(incidents)} put back, ${this.#kills} kills, ${incidents.length} gaps: ` +
        `lost ${lost.length}, phantom ${phantom.length}, divergent ${divergent.length}, out of order ${disordered.length}; ` +
        `effects missing ${missing.length}, repeated ${repeated.length}, invented ${invented.length}; ` +
        `allowed: ${doubled} doubled, ${late} late after a hole in the publication`,
    )
    return violations.length === 0 ? [] : this.#wrong(violations)
  }

  /** Prints what a person needs to see why; the violations alone are the answer, short enough for the end of a report. */
  async #wrong(violations: string[]): Promise<string[]> {
    this.#options.print(await this.#describe())
    return violations
  }

  async #describe(): Promise<string> {
    const { rows: repair } = await this.#env.postgres.query('select * from outrider.repair')
    const { rows: streams } = await this.#env.postgres.query(
      `select incident, stream_key, snapshot::text, g.head from outrider.gap_stream as g join outrider.incident as i on i.id = incident
       where closed_at is null`,
    )
    return [JSON.stringify({ repair, streams }), this.#env.describe()].join('\n')
  }
}

/** Gaps that are repaired together are closed together, and each bears the number of all. */
function countPutBack(incidents: readonly Incident[]): number {
  const counts = new Map<number, number>()
  for (const { closedAt, resolution } of incidents) {
    const [, count] = /^repaired: (\d+)/.exec(resolution ?? '') ?? []
    if (closedAt && count) counts.set(Math.floor(closedAt.getTime() / 100), Number(count))
  }
  return [...counts.values()].reduce((sum, count) => sum + count, 0)
}
