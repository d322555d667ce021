import type { Item } from '../item.js'
import type { ConsumerLogger } from '../options.js'
import type { Route, Routes } from '../routes.js'
import { CircuitBreaker } from './circuit-breaker.js'

export interface BreakersParts {
  routes: Routes
  log: ConsumerLogger
  /** Nothing of this handler is to begin but a probe; or all of it again. */
  onChange(route: Route, open: boolean): void
  /** A probe may begin. */
  onProbe(): void
}

/** The circuit breakers of all handlers. */
export class Breakers {
  readonly #breakers = new Map<Route, CircuitBreaker<Item>>()

  constructor({ routes, log, onChange, onProbe }: BreakersParts) {
    for (const route of routes.all) {
      const handler = { types: route.types }
      const breaker = new CircuitBreaker<Item>({
        onOpen: (cause) => {
          log.warn(
            { ...handler, err: cause },
            'circuit breaker opened: the handler fails, one event at a time is tried',
          )
          onChange(route, true)
        },
        onClose: (openMs) => {
          log.info({ ...handler, openMs: Math.round(openMs) }, 'circuit breaker closed')
          onChange(route, false)
        },
        onProbe,
      })
      this.#breakers.set(route, breaker)
    }
  }

  /** Undefined for what no handler takes. */
  of(route: Route): CircuitBreaker<Item> | undefined {
    return this.#breakers.get(route)
  }

  isOpen(route: Route): boolean {
    return this.of(route)?.isOpen === true
  }

  /** Handlers of which one event may be tried. */
  toProbe(): Route[] {
    return [...this.#breakers].flatMap(([route, breaker]) => (breaker.mayProbe ? [route] : []))
  }

  stop(): void {
    for (const breaker of this.#breakers.values()) breaker.stop()
  }
}
