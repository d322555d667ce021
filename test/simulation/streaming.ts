import type { Head } from '../../src/event/head.js'
import { positionPrefix, ZERO_POSITION } from '../../src/event/position.js'
import { formatLsn, type Lsn } from '../../src/postgres/client/lsn.js'
import type { Checkpoint } from '../../src/postgres/state/checkpoints.js'
import { TransactionTracker } from '../../src/relay/confirm/transaction-tracker.js'
import type { Ended } from '../../src/relay/repair/settlement.js'
import type { HeadLook } from '../../src/relay/sink/head-ownership.js'
import type { Transaction } from './postgres.js'
import { Broken, Publisher, SessionEnd, type Steps } from './publisher.js'
import { type Session, TIMELINE } from './session.js'
import type { Repair } from './state.js'
import type { World } from './world.js'

/** What a session that streams knows of the repair whose transactions are awaited. */
interface Settling {
  repair: Repair
  streams: ReadonlySet<string> | undefined
  /** Ids of rows of awaited transactions, and transactions, that came from WAL. */
  arrived: Set<string>
  begun: Set<string>
  open: Set<string>
  ended: Ended[]
  isClosed: boolean
}

/** A session that streams, in the steps of src/relay/pipeline.ts: what runs at the same time there takes turns here. */
export class Streaming {
  /** The heads are taken over. */
  isReleased = false
  #probed = 0
  #monitored = 0
  readonly #world: World
  readonly #session: Session
  readonly #tracker = new TransactionTracker()
  readonly #publisher: Publisher
  #confirmed: Lsn
  #taken: Lsn
  #read: Lsn = 0n
  #settling: Settling | undefined
  #checkpoint: Checkpoint | undefined

  constructor(world: World, session: Session) {
    this.#world = world
    this.#session = session
    this.#publisher = new Publisher(world, session, this.#tracker)
    this.#confirmed = session.server.confirmed
    this.#taken = session.server.confirmed
  }

  /** Rounds in which every stream was looked at, and slot and publication. */
  get rounds(): number {
    return Math.min(this.#probed, this.#monitored)
  }

  get isIdle(): boolean {
    return this.isReleased && this.#publisher.isIdle
  }

  /** Is the loss of the head of this stream noticed? */
  expects(key: string): boolean {
    return this.#publisher.expected(key) !== ZERO_POSITION
  }

  *run(): Steps {
    const { state, postgres, random } = this.#world
    const repair = state.loadSettling()
    if (repair) {
      const streams = new Set(
        state.gaps.filter(({ isRepaired }) => isRepaired).flatMap((gap) => [...gap.streams.keys()]),
      )
      this.#settling = {
        ...{ repair, streams: repair.everyStream ? undefined : streams, open: new Set(repair.unsettled) },
        ...{ arrived: new Set(), begun: new Set(), ended: [], isClosed: false },
      }
    }
    yield
    const { slot } = postgres
    if (!slot || slot.isLost) throw new SessionEnd('the slot cannot be read')
    const { confirmed } = this.#session.server
    const isReadFrom = ({ commitLsn }: Transaction) => commitLsn >= confirmed && commitLsn >= slot.confirmed
    const reader = this.#receive(postgres.wal.findIndex(isReadFrom))
    reader.next()
    for (let n = random.int(4); n > 0; n--) {
      reader.next()
      yield
    }
    // Which slot is read is not known where the connection is gone.
    while (this.#session.isCutOff) yield
    this.#session.verifySlot()
    const tasks = [reader, reader, this.#publish(), this.#confirm(), this.#monitor()]
    tasks.push(tasks[2]!, tasks[2]!, tasks[3]!)
    if (this.#settling) tasks.push(this.#settle(this.#settling))
    for (;;) {
      tasks[random.int(tasks.length)]!.next()
      yield
    }
  }

  /** src/relay/source/receiver.ts, and what confirms WAL without rows. */
  *#receive(first: number): Steps {
    const { postgres, decisions, random } = this.#world
    const publisher = this.#publisher
    for (let next = first < 0 ? postgres.wal.length : first; ; ) {
      yield
      if (this.#session.isCutOff) continue
      const transaction = postgres.wal[next]
      if (!transaction) {
        const settling = this.#settling
        const awaited =
          settling && !settling.isClosed ? decisions.awaitedLsn({ ...settling, until: settling.repair.until }) : 0n
        const isAwaited = this.#taken < awaited && awaited <= postgres.lsn
        if (this.#tracker.idle && (isAwaited || random.chance(0.1))) this.#tracker.reached(postgres.lsn)
        continue
      }
      next += 1
      const side = this.#begin(transaction.xid, transaction.commitLsn)
      const number = this.#tracker.begin()
      const prefix = positionPrefix(TIMELINE, transaction.commitLsn)
      let index = 0
      for (const row of transaction.rows) {
        if (row.hidden === 'dropped' && !postgres.decodesHoles) {
          throw this.#session.gap('slot_lost', {
            confirmed: formatLsn(this.#world.state.confirmed),
            message: 'no publication',
          })
        }
        if (row.hidden) continue
        const position = decisions.positionOf(prefix, index++)
        this.#tracker.row()
        publisher.metHeads.meet({ position, eventId: row.id })
        if (side === 'awaited') this.#settling?.arrived.add(row.id)
        if (side === 'table' && decisions.isConcerned(row.key, this.#settling?.streams)) this.#tracker.done(number, 1)
        else publisher.add(row.key, { position, row }, number)
      }
      this.#tracker.commit(transaction.endLsn)
      this.#read = transaction.endLsn
    }
  }

  #begin(xid: bigint, lsn: Lsn): 'table' | 'awaited' | 'wal' {
    const settling = this.#settling
    if (!settling) return 'wal'
    settling.begun.add(String(xid))
    const { until, snapshot, unsettled } = settling.repair
    const { snapshot: seen } = this.#world.postgres.snapshotOf(snapshot)
    return this.#world.decisions.sideOf(xid, lsn, { until, snapshot: seen, unsettled })
  }

  /** src/relay/publishing.ts, then the publisher's own work. */
  *#publish(): Steps {
    const { random } = this.#world
    const publisher = this.#publisher
    yield* publisher.reconnect()
    yield* this.#takeOver()
    publisher.metHeads.release()
    this.isReleased = true
    let probes: string[] = []
    for (;;) {
      yield
      try {
        if (random.chance(0.8) && (yield* publisher.next())) continue
        if (probes.length === 0) {
          this.#probed += 1
          probes = publisher.keys
        }
        const key = probes.pop()
        if (key) yield* publisher.probe(key)
      } catch (error) {
        if (!(error instanceof Broken)) throw error
        yield* publisher.reconnect()
      }
    }
  }

  /** src/relay/sink/head-takeover.ts, run. */
  *#takeOver(): Steps {
    const { decisions, redis } = this.#world
    const publisher = this.#publisher
    let suspected: HeadLook[] = []
    for (;;) {
      try {
        const { known, lost } = yield* this.#session.survey(publisher)
        if (lost.length === 0) {
          for (const { key, saved, reply } of known) {
            const taken = yield* publisher.request(() => redis.append(key, this.#session.id, reply.session, saved))
            if (taken.status !== 'OK') throw new Broken('A head has changed since it was looked at.')
            publisher.tookOver(key, taken.head, saved)
          }
          return
        }
        if (decisions.areUnmoved(suspected, lost)) {
          yield* this.#session.recordLosses(publisher, lost)
          throw new SessionEnd('stream_behind')
        }
        suspected = lost
        publisher.disconnect()
      } catch (error) {
        if (!(error instanceof Broken)) throw error
      }
      yield* publisher.reconnect()
    }
  }

  /** src/relay/confirm: durable in Redis, saved in Postgres, told to the slot; then a checkpoint, now and then. */
  *#confirm(): Steps {
    const { postgres, state, redis, decisions, random } = this.#world
    const waiting: { lsn: Lsn; heads: Map<string, Head> }[] = []
    for (;;) {
      yield
      const lsn = decisions.confirmable(this.#tracker, this.#read)
      if (lsn > this.#taken) {
        this.#taken = lsn
        const heads = new Map<string, Head>()
        for (const queue of this.#publisher.queues.values()) {
          if (queue.hasMoved) heads.set(queue.key, queue.head)
          queue.hasMoved = false
        }
        waiting.push({ lsn, heads })
      }
      const next = waiting[0]
      if (next) {
        let isDurable = true
        for (const [key, { position }] of next.heads) {
          yield
          isDurable &&= redis.barrier(key, this.#session.id, position)
        }
        if (!isDurable) {
          this.#publisher.disconnect()
          continue
        }
        waiting.shift()
        yield
        state.saveProgress(this.#session.id, next.lsn, next.heads)
        this.#confirmed = next.lsn
        yield
        const { slot } = postgres
        if (slot && !this.#session.isCutOff && next.lsn > slot.confirmed) {
          if (random.chance(0.3)) postgres.savedSlot = slot.confirmed
          slot.confirmed = next.lsn
        }
      }
      if (!this.isReleased) continue
      const taken = this.#checkpoint
      if (taken && this.#confirmed >= taken.lsn) {
        yield
        state.saveCheckpoint(this.#session.id, taken)
        this.#checkpoint = undefined
      } else if (!taken && random.chance(0.3)) {
        const snapshot = postgres.takeSnapshot('checkpoint')
        yield
        this.#checkpoint = { snapshot, lsn: postgres.lsn }
      }
    }
  }

  /** src/relay/source/slot-monitor.ts */
  *#monitor(): Steps {
    const { postgres, state, random } = this.#world
    for (;;) {
      yield
      const isAsKnown = postgres.publicationState === state.publicationState && !postgres.slot?.isLost
      // It looks less often than the others.
      if (random.chance(0.9)) continue
      this.#monitored += 1
      if (isAsKnown && state.openGaps.length === 0) continue
      if (!this.#session.holdsLock) throw new SessionEnd('not leading')
      this.#session.verifyPublication()
      throw state.openGaps.length > 0 ? new SessionEnd('a gap is open') : this.#session.gap('slot_lost')
    }
  }

  /** src/relay/repair/settling.ts */
  *#settle(settling: Settling): Steps {
    const { postgres, state, redis, decisions, random } = this.#world
    const { repair, open, streams } = settling
    const awaited = () => ({ until: repair.until, open, ended: settling.ended })
    const settled = (xids: Iterable<string>) => {
      if (state.repair?.session === repair.session) for (const xid of xids) state.repair.unsettled.delete(xid)
    }
    for (;;) {
      yield
      if (settling.isClosed) continue
      const statuses = [...open].map((xid) => ({ xid, status: postgres.statusOf(BigInt(xid)) }))
      const ended = statuses.filter(({ status }) => status !== 'in progress')
      yield
      const { lsn } = postgres
      for (const { xid, status } of ended) {
        open.delete(xid)
        if (status === 'committed') settling.ended.push({ xid, lsn })
      }
      settled(ended.filter(({ status }) => status === 'aborted').map(({ xid }) => xid))
      yield
      const due = decisions.dueOf(awaited(), this.#confirmed)
      const isLast = open.size === 0 && due.length === settling.ended.length
      if (due.length > 0 && (isLast || random.chance(0.2))) {
        const xids = new Set(due.map(({ xid }) => xid))
        for (const row of state.rowsOf(xids)) {
          if (settling.arrived.has(row.id) || (streams && !streams.has(row.key))) continue
          const isInStream = redis.entriesFrom(row.key, null).some((entry) => entry.row === row)
          const [isSaved, hasBegun] = [state.heads.has(row.key), settling.begun.has(String(row.xid))]
          if (!decisions.isAbsent({ isInStream, isSaved, hasBegun })) continue
          yield
          state.reopenRepaired(this.#session.holdsLock)
          throw new SessionEnd('rows of an awaited transaction are missing')
        }
        yield
        settled(xids)
        settling.ended = settling.ended.filter((each) => !due.includes(each))
      }
      if (!decisions.isSettled(awaited(), this.#confirmed)) continue
      yield
      state.closeRepaired(repair.session)
      settling.isClosed = true
    }
  }
}
