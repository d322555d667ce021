import type { PgPool } from './database-adapter.js'

type Listener = (error: Error) => void

/** The consumers of one pool, and their one listener: an emitter reports eleven of its own as a leak. */
interface IdleLoss {
  listeners: Set<Listener>
  onError: Listener
}

const idleLossOf = new WeakMap<PgPool, IdleLoss>()

/** Calls the listener for each connection that the pool loses while it is not in use, until the returned function is called. */
export function listenToIdleLoss(pool: PgPool, listener: Listener): () => void {
  const loss = idleLossOf.get(pool) ?? listenTo(pool)
  // One for each call, also where two consumers have the same function.
  const own: Listener = (error) => listener(error)
  loss.listeners.add(own)
  return () => {
    if (!loss.listeners.delete(own) || loss.listeners.size > 0) return
    pool.removeListener('error', loss.onError)
    idleLossOf.delete(pool)
  }
}

function listenTo(pool: PgPool): IdleLoss {
  const listeners = new Set<Listener>()
  const onError: Listener = (error) => {
    for (const listener of listeners) listener(error)
  }
  pool.on('error', onError)
  const loss = { listeners, onError }
  idleLossOf.set(pool, loss)
  return loss
}
