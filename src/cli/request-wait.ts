import { setTimeout as pause } from 'node:timers/promises'
import type pg from 'pg'
import { ExitCode, OutriderError } from '../base/failure.js'
import type { Lineage } from '../postgres/state/lineage.js'
import { type Request, readRequest, readRequestDelay } from '../postgres/state/requests.js'
import { count, plural } from '../status/format.js'
import type { Context } from './command.js'
import { atMostEvery, progress } from './output.js'

const ASK_EVERY_MS = 500
/** A relay looks every two seconds, and begins once it has confirmed what was committed before; at level `memory` five seconds later. */
const EXPLAIN_AFTER_MS = 15_000

/** Until the request has ended. Throws where it was refused or cancelled. */
export async function awaitRequest(
  { log }: Context,
  postgres: pg.ClientBase,
  { lineage }: Lineage,
  id: string,
): Promise<Request> {
  const line = progress()
  const sayNow = atMostEvery()
  const began = performance.now()
  let said = ''
  try {
    for (;;) {
      const request = await readRequest(postgres, lineage, id)
      if (request === undefined) throw new OutriderError(`Request ${id} is gone: its row was deleted.`)
      if (request.endedAt !== null) return settled(request)
      line.show(() => describeRequest(request))
      if (sayNow()) log.info({ request: id, found: request.found, appended: request.appended }, 'request progress')
      if (request.found === null && performance.now() - began > EXPLAIN_AFTER_MS) {
        const why = await readRequestDelay(postgres, lineage, id)
        if (why !== said) {
          line.clear()
          log.warn({ request: id }, why)
          said = why
        }
      }
      await pause(ASK_EVERY_MS)
    }
  } finally {
    line.clear()
  }
}

function settled(request: Request): Request {
  const { id, state, message, appended } = request
  if (state === 'done') return request
  const soFar = appended > 0 ? ` ${plural(appended, 'event was', 'events were')} appended by then.` : ''
  throw new OutriderError(`Request ${id} ${state === 'refused' ? 'was refused' : 'has ended'}: ${message}${soFar}`)
}

const describeRequest = ({ id, found, appended }: Request): string =>
  found === null
    ? `request ${id} waits for the relay`
    : `request ${id}: ${count(appended)} of ${count(found)} events are appended`

/** A request that is complete, for a person. */
export function describeDone({ id, appended, gone, rejected }: Request): string {
  return [
    `Request ${id} is complete: ${plural(appended, 'event was', 'events were')} appended.`,
    ...(rejected > 0
      ? [`${plural(rejected, 'row')} could not be published, each with an incident: \`outrider incidents\`.`]
      : []),
    ...(gone > 0 ? [`${plural(gone, 'row')} left the outbox before their turn.`] : []),
  ].join('\n')
}

/** The exit code of a request that is complete. */
export const codeOf = ({ gone, rejected }: Request): ExitCode =>
  gone + rejected > 0 ? ExitCode.findings : ExitCode.done
