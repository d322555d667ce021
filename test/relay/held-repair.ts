import type pg from 'pg'
import { until } from '../../testkit/services/index.js'
import { LOCK_WAITS } from '../support/lock-waits.js'

/** Moments at which a repair can be held: it waits for a lock of Postgres, and continues when that is released. */
const MOMENTS = {
  /** What is missing is known, and no head is moved yet. */
  'before heads are moved': 1,
  /** The first rows were handed on to be appended, and no other ones are read. */
  'after the first rows': 2,
} as const

type Moment = keyof typeof MOMENTS

/** Advisory locks with two keys: the relay's own lock has one. */
const LOCKS = 2_104

/** Holds the repairs of a database at moments of a test's choice. */
export class HeldRepair {
  readonly #locker: pg.Client

  private constructor(locker: pg.Client) {
    this.#locker = locker
  }

  /** `locker`: a connection of its own, of a superuser. */
  static async prepare(locker: pg.Client): Promise<HeldRepair> {
    await locker.query(`
      create function hold_repair() returns trigger language plpgsql as $$
      begin
        if new.attempts > old.attempts then
          perform pg_advisory_xact_lock_shared(${LOCKS}, ${MOMENTS['before heads are moved']});
        elsif new.attempts > 0 and new.session = old.session and new.found = old.found then
          perform pg_advisory_xact_lock_shared(${LOCKS}, ${MOMENTS['after the first rows']});
        end if;
        return new;
      end $$;
      create trigger hold_repair before update on outrider.repair for each row execute function hold_repair()`)
    return new HeldRepair(locker)
  }

  async hold(...moments: Moment[]): Promise<void> {
    for (const moment of moments) await this.#locker.query('select pg_advisory_lock($1, $2)', [LOCKS, MOMENTS[moment]])
  }

  /** Until a repair waits at this moment. */
  async reached(moment: Moment): Promise<void> {
    const waiting = `select from ${LOCK_WAITS} where locktype = 'advisory' and classid = $1 and objid = $2`
    await until(async () => (await this.#locker.query(waiting, [LOCKS, MOMENTS[moment]])).rowCount, {
      message: `a repair to be held ${moment}`,
    })
  }

  async release(moment: Moment): Promise<void> {
    await this.#locker.query('select pg_advisory_unlock($1, $2)', [LOCKS, MOMENTS[moment]])
  }
}
