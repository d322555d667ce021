import type { RowQuery } from './database.js'

/**
 * What a handler gets of its transaction. After `close` every use is refused: the connection may serve the transaction of another
 * event by then, and a statement would be committed with that one. A statement that was built before is refused by Kysely, Knex and
 * TypeORM themselves, and for Drizzle by its client.
 */
export class TransactionHandle {
  /** Behaves as the transaction of the library does. */
  readonly tx: unknown
  readonly query: RowQuery
  #closed = false

  constructor(tx: unknown, query: RowQuery) {
    if (isObject(tx)) guardClient(tx)
    this.tx = isObject(tx) ? new Proxy(tx, this.#traps()) : tx
    this.query = async (text, values) => {
      this.#check()
      return query(text, values)
    }
  }

  close(): void {
    this.#closed = true
  }

  #check(): void {
    if (this.#closed) throw new Error(CLOSED)
  }

  /** It may need private fields, which a proxy has not, and have properties of its own, as `fn` of Kysely. */
  #method(target: Callable, method: Callable): Callable {
    return new Proxy(method, {
      apply: (_, __, values) => {
        this.#check()
        return Reflect.apply(method, target, values)
      },
    })
  }

  #traps(): ProxyHandler<Callable> {
    return {
      get: (target, name) => {
        // Symbols are asked for by those who print it.
        if (typeof name === 'string') this.#check()
        const value: unknown = Reflect.get(target, name, target)
        if (!isCallable(value) || name === 'constructor' || isFixed(target, name)) return value
        return this.#method(target, value)
      },
      set: (target, name, value) => Reflect.set(target, name, value, target),
      apply: (target, self, values) => {
        this.#check()
        return Reflect.apply(target, self, values)
      },
    }
  }
}

/**
 * A transaction of Drizzle has a session of its own, on whose client a statement that was built earlier runs when it is awaited: after
 * the client was released, that is another transaction.
 * https://github.com/drizzle-team/drizzle-orm/blob/main/drizzle-orm/src/node-postgres/session.ts
 */
function guardClient(tx: object): void {
  const { session } = tx as { session?: { client?: unknown } | null }
  const client = session?.client
  if (!session || !isObject(client) || !('release' in client) || guarded.has(client)) return
  let isReleased = false
  const proxy = new Proxy(client, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name, target)
      if (!isCallable(value)) return value
      return (...values: unknown[]) => {
        if (name === 'query' && isReleased) throw new Error(CLOSED)
        if (name === 'release') isReleased = true
        return Reflect.apply(value, target, values)
      }
    },
  })
  guarded.add(proxy)
  session.client = proxy
}

/** Over one client, all transactions share its session. */
const guarded = new WeakSet<object>()

/** The transactions of some libraries, such as Knex, are functions. */
type Callable = (...values: unknown[]) => unknown

const isCallable = (value: unknown): value is Callable => typeof value === 'function'
const isObject = (tx: unknown): tx is Callable => (typeof tx === 'object' && tx !== null) || isCallable(tx)

/** A proxy must show such a property as it is. */
function isFixed(target: object, name: string | symbol): boolean {
  const own = Object.getOwnPropertyDescriptor(target, name)
  return own !== undefined && own.configurable === false && own.writable === false
}

const CLOSED =
  'Expected tx and publish to be used before the handler returns, found a use after that: the transaction has ended, and its ' +
  'connection may serve another event. Await every statement: forEach(async …) awaits none, so use for … of or ' +
  'await Promise.all(….map(async …)).'
