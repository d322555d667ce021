import type { RowQuery } from '../database.js'

/**
 * What a handler gets of its transaction. After `close` every use is refused: the connection may serve the transaction of another
 * event by then, and a statement would be committed with that one.
 */
export class TransactionHandle {
  /** Behaves as the transaction of the library does. */
  readonly tx: unknown
  readonly query: RowQuery
  #closed = false

  constructor(tx: unknown, query: RowQuery) {
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
