import { z } from 'zod'
import type { TrimPolicy } from '../../config/trimming.js'

/** How a lineage says beside a stream what it keeps of it. */
const shared = z.object({
  retention: z.number().positive().optional(),
  maxFinished: z.number().positive().optional(),
  maxLength: z.number().positive().optional(),
  trimAtMemory: z.number().positive().optional(),
  groups: z.array(z.string()),
})

/** The dead letters are a group's, whichever lineage published the event. */
type SharedPolicy = Omit<TrimPolicy, 'deadLetterRetention'>

const KEEPS_ALL: SharedPolicy = {
  ...{ retention: undefined, maxFinished: undefined, maxLength: undefined, trimAtMemory: undefined, groups: [] },
}

export const policyText = ({ retention, maxFinished, maxLength, trimAtMemory, groups }: TrimPolicy): string =>
  JSON.stringify({ retention, maxFinished, maxLength, trimAtMemory, groups })

/** What all lineages in a stream permit: none trims what another one keeps. A text of another version keeps everything. Pure. */
export function sharedPolicy(own: SharedPolicy, others: Iterable<string>): SharedPolicy {
  let policy = own
  for (const text of others) policy = both(policy, policyOf(text))
  return policy
}

const both = (one: SharedPolicy, other: SharedPolicy): SharedPolicy => ({
  retention: more(one.retention, other.retention),
  maxFinished: more(one.maxFinished, other.maxFinished),
  maxLength: more(one.maxLength, other.maxLength),
  trimAtMemory: more(one.trimAtMemory, other.trimAtMemory),
  groups: [...new Set([...one.groups, ...other.groups])],
})

/** Undefined: without end. */
const more = (one: number | undefined, other: number | undefined): number | undefined =>
  one === undefined || other === undefined ? undefined : Math.max(one, other)

function policyOf(text: string): SharedPolicy {
  try {
    const { retention, maxFinished, maxLength, trimAtMemory, groups } = shared.parse(JSON.parse(text))
    return { retention, maxFinished, maxLength, trimAtMemory, groups }
  } catch {
    return KEEPS_ALL
  }
}
