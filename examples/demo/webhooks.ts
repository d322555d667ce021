import { createRequire } from 'node:module'
import { defineEvent } from 'outrider'
import { z } from 'zod'
import { shaOf } from '../../testkit/oracle/truth.js'

/** What GitHub sends to webhooks, as real applications of GitHub pass it on: nested, up to 27 KB. */
const Payload = z.looseObject({
  action: z.string().optional(),
  sender: z.looseObject({ login: z.string() }).optional(),
})

/** Which kinds of webhooks go to which stream; whatever is not named goes to the last. */
const FAMILIES: [stream: string, names: RegExp][] = [
  ['github.code', /^(push|create|delete|fork|gollum|release|pull_request|commit_comment|merge_group|branch_)/],
  ['github.issues', /^(issue|label|milestone|discussion|project)/],
  ['github.builds', /^(check|status|workflow|deployment|page_build|code_scanning|dependabot|package)/],
  ['github.teams', /^/],
]

export const STREAMS = FAMILIES.map(([stream]) => stream)

const defineWebhook = (stream: string, name: string) =>
  defineEvent({ stream, type: `com.github.${name}`, version: 1, data: Payload })

/** One payload with the event that it is published as. */
export interface Webhook {
  event: ReturnType<typeof defineWebhook>
  data: z.input<typeof Payload>
  /** Of the JSON text that the stream must hold, byte for byte. */
  sha: string
  bytes: number
}

interface Example {
  name: string
  examples: Webhook['data'][]
}

/** Those of @octokit/webhooks-examples, each with the stream and the event of its kind. */
function readExamples(): { stream: string; event: Webhook['event']; payloads: Webhook['data'][] }[] {
  const examples: Example[] = createRequire(import.meta.url)('@octokit/webhooks-examples')
  return examples.map(({ name, examples: payloads }) => {
    const stream = FAMILIES.find(([, names]) => names.test(name))?.[0] as string
    return { stream, event: defineWebhook(stream, name), payloads }
  })
}

/** The event of each kind of webhook. */
export const webhookEvents = (): Webhook['event'][] => readExamples().map(({ event }) => event)

/** All payloads, by stream. */
export function loadWebhooks(): Map<string, Webhook[]> {
  const webhooks = new Map<string, Webhook[]>(STREAMS.map((stream) => [stream, []]))
  for (const { stream, event, payloads } of readExamples()) {
    for (const data of payloads) {
      const text = JSON.stringify(data)
      webhooks.get(stream)?.push({ event, data, sha: shaOf(text), bytes: Buffer.byteLength(text) })
    }
  }
  return webhooks
}
