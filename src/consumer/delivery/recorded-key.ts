import { inboxKeyOf } from '../inbox/execute.js'
import type { InboxKey } from '../inbox/inbox.js'
import type { Delivery } from './delivery.js'
import { parsePayload, validateData } from './payload-validation.js'

/**
 * The row in the inbox that a delivery has once it was processed. Its payload must be loaded. Undefined: the payload is not valid any more,
 * or the `key` of its handler throws.
 */
export async function recordedKeyOf(delivery: Delivery): Promise<InboxKey | undefined> {
  const { event, route } = delivery
  try {
    if (!route.key) return inboxKeyOf(route, event)
    const valid = await validateData(delivery, parsePayload(delivery))
    return 'invalid' in valid ? undefined : inboxKeyOf(route, { ...event, data: valid.value })
  } catch {
    return undefined
  }
}
