import type pg from 'pg'
import { readSilentStandbySlots, type SilentStandbySlot } from '../../postgres/replication/standby-slots.js'
import { readWalsender, type WalsenderActivity } from '../../postgres/replication/walsender.js'

/**
 * working                 decodes, reads from disk or waits for a lock: it answers nothing meanwhile, and rightly so
 * idle                    waits for WAL or for the client's messages: asked for an answer, it would have given one
 * waiting_for_client      the connection takes no more bytes
 * standby_not_confirming  holds back what it decoded until the slots in `synchronized_standby_slots` confirm
 * gone                    there is no such process
 */
export type WalsenderState = 'working' | 'idle' | 'waiting_for_client' | 'standby_not_confirming' | 'gone'

/** Pure. By the kind of wait: the names of single events differ between versions. */
export function classifyWalsender(
  activity: Pick<WalsenderActivity, 'waitEventType' | 'waitEvent'> | undefined,
): WalsenderState {
  if (activity === undefined) return 'gone'
  const { waitEventType, waitEvent } = activity
  if (waitEvent === 'WaitForStandbyConfirmation') return 'standby_not_confirming'
  if (waitEvent === 'WalSenderWriteData' || waitEvent === 'ClientWrite') return 'waiting_for_client'
  return waitEventType === 'Activity' || waitEventType === 'Client' ? 'idle' : 'working'
}

export interface WalsenderObservation {
  activity: WalsenderActivity | undefined
  /** Read only while the walsender waits for standbys. */
  silentStandbys: SilentStandbySlot[]
}

export async function observeWalsender(
  client: pg.ClientBase,
  walsender: { pid: number; slot: string },
): Promise<WalsenderObservation> {
  const activity = await readWalsender(client, walsender)
  const waits = classifyWalsender(activity) === 'standby_not_confirming'
  return { activity, silentStandbys: waits ? await readSilentStandbySlots(client) : [] }
}

export interface WalsenderMonitorOptions {
  limits: WalsenderLimits
  /** Milliseconds, only rising, the same that the stream counts in. */
  clock(): number
  /** Over another connection than the one that streams. */
  ask(): Promise<WalsenderObservation>
  stream: ObservedStream
  /** Asks the walsender for a keepalive. */
  requestReply(): void
  observe: {
    /** The walsender decodes and has sent nothing for so long, in milliseconds; 0: it sends, or has nothing to send. */
    decoding(milliseconds: number, spilledBytes: number): void
    /** At intervals while it decodes. `spilled`: bytes written to disk since it fell silent. */
    stillDecoding(milliseconds: number, spilled: number): void
    /** Why Postgres holds back what it decoded; undefined: it does not. */
    held(message: string | undefined): void
  }
  /** The stream cannot be expected to continue. */
  failed(error: unknown): void
}

/** What is known of the stream on this side. */
export interface ObservedStream {
  /** Nothing is read from it for now, so that its silence says nothing. */
  readonly paused: boolean
  /** When bytes last came. */
  readonly heardAt: number
  /** Rises with every message and with every keepalive that tells of more WAL. */
  readonly progress: number
}

/** In milliseconds. */
export interface WalsenderLimits {
  /** After so long without a byte, though answers were asked for, the walsender must be found at work. */
  silence: number
  /** The other connection's time to answer, once the stream is silent. */
  answer: number
  /** A silent walsender that waits for the client so long has lost it. */
  waitingForClient: number
  /** A healthy standby confirms within moments: only a stream that stands still for so long is held. */
  standby: number
  /** Between two reports of one long silence. */
  report: number
}

export const WALSENDER_LIMITS = { answer: 10_000, waitingForClient: 40_000, standby: 5_000, report: 10_000 }

/**
 * Tells a walsender that is rightly silent from one that is lost. Decoding a large transaction takes minutes in which it
 * answers nothing, so silence alone ends no session: the walsender's wait event, read over the other connection, decides.
 */
export class WalsenderMonitor {
  readonly #options: WalsenderMonitorOptions
  #askedAt: number | undefined
  /** The state that a silent walsender was last found in, and since when. */
  #silent: { state: WalsenderState; since: number } | undefined
  #held: { progress: number; since: number } | undefined
  #reportedAt = Number.NEGATIVE_INFINITY
  /** What had been spilled when bytes last came. */
  #spilled = { heardAt: Number.NaN, bytes: 0 }

  constructor(options: WalsenderMonitorOptions) {
    this.#options = options
  }

  /** Asks, unless an answer is still awaited; called every few seconds. */
  poll(): void {
    const now = this.#options.clock()
    if (this.#askedAt === undefined) {
      this.#askedAt = now
      this.#ask().finally(() => {
        this.#askedAt = undefined
      })
    } else if (now - this.#askedAt >= this.#options.limits.answer && this.#isSilent(now)) {
      this.#fail(now, 'and it does not answer on the other connection either')
    }
  }

  async #ask(): Promise<void> {
    const { ask, clock, failed } = this.#options
    try {
      const { activity, silentStandbys } = await ask()
      this.#judge(clock(), activity, silentStandbys)
    } catch (error) {
      failed(error)
    }
  }

  #judge(now: number, activity: WalsenderActivity | undefined, silentStandbys: SilentStandbySlot[]): void {
    const { observe, stream } = this.#options
    const state = classifyWalsender(activity)
    const spilledBytes = activity?.spilledBytes ?? 0
    if (stream.heardAt !== this.#spilled.heardAt) this.#spilled = { heardAt: stream.heardAt, bytes: spilledBytes }
    // While nothing is read the end of the stream is not seen, and the lock has gone with it.
    if (stream.paused && state === 'gone') this.#fail(now, 'its process has ended')
    else if (this.#isSilent(now)) this.#assessSilence(now, state, spilledBytes)
    else {
      this.#silent = undefined
      observe.decoding(0, spilledBytes)
    }
    this.#assessHeld(now, state, silentStandbys)
  }

  #assessSilence(now: number, state: WalsenderState, spilledBytes: number): void {
    const { limits, observe, stream } = this.#options
    const again = this.#silent?.state === state
    if (!again) this.#silent = { state, since: now }
    const lost = lostBecause(state, again, now - (this.#silent?.since ?? now), limits)
    if (lost !== undefined) this.#fail(now, lost)
    else if (state === 'working') {
      const silence = now - stream.heardAt
      observe.decoding(silence, spilledBytes)
      if (now - this.#reportedAt < limits.report) return
      this.#reportedAt = now
      observe.stillDecoding(silence, Math.max(0, spilledBytes - this.#spilled.bytes))
    }
  }

  #assessHeld(now: number, state: WalsenderState, silentStandbys: SilentStandbySlot[]): void {
    const { limits, observe, requestReply, stream } = this.#options
    const waits = state === 'standby_not_confirming' && !stream.paused
    if (!waits || this.#held?.progress !== stream.progress) {
      this.#held = waits ? { progress: stream.progress, since: now } : undefined
      observe.held(undefined)
    } else if (now - this.#held.since >= limits.standby) observe.held(describeHeld(silentStandbys))
    // The keepalive in reply says whether it moves: where the outbox is idle, nothing else comes.
    if (waits) requestReply()
  }

  #isSilent(now: number): boolean {
    const { limits, stream } = this.#options
    return !stream.paused && now - stream.heardAt >= limits.silence
  }

  #fail(now: number, how: string): void {
    const { failed, stream } = this.#options
    failed(new Error(`Postgres has sent nothing for ${Math.round((now - stream.heardAt) / 1000)} s, ${how}.`))
  }
}

/** Why a silent walsender in this state is given up; undefined: not yet. Pure. */
function lostBecause(
  state: WalsenderState,
  again: boolean,
  milliseconds: number,
  limits: WalsenderLimits,
): string | undefined {
  if (state === 'gone') return 'its process has ended'
  // Bytes may be on their way: only a second look that finds no more of them says so.
  if (state === 'idle' && again) return 'though it is idle and was asked to answer'
  if (state === 'waiting_for_client' && milliseconds >= limits.waitingForClient) return 'and waits for this connection'
  return undefined
}

const describeHeld = (silentStandbys: SilentStandbySlot[]): string => {
  const slots = silentStandbys.map(({ name, problem }) => `${name} is ${problem}`).join(', ')
  return (
    'Postgres sends nothing until the standbys named in synchronized_standby_slots have confirmed' +
    `${slots ? ` (${slots})` : ''}. Bring the standby back, or remove its slot from the setting and reload.`
  )
}

export const describeDecoding = (silentMs: number, spilledBytes: number): string =>
  `Postgres has been decoding without sending anything since ${new Date(Date.now() - silentMs).toISOString()}, ` +
  `${Math.round(spilledBytes / 1_048_576)} MiB spilled to disk`
