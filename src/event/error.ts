import type { StandardSchemaV1 } from '@standard-schema/spec'

/** One thing that is wrong with an event: the message says what was expected and what was found, the path where. */
export type EventIssue = StandardSchemaV1.Issue

/**
 * An event, or the definition of one, that must not be stored as it is. Thrown before anything is sent to Postgres,
 * so the transaction it was meant for is untouched and may go on.
 */
export class EventError extends Error {
  override name = 'EventError'
  /** Everything that was found wrong: by the schema, and by the limits of the outbox. Never empty. */
  readonly issues: readonly EventIssue[]

  constructor(subject: string, issues: readonly EventIssue[], advice: string) {
    super(`${subject}: ${describeIssues(issues)}. ${advice}`)
    this.issues = issues
  }
}

/** All of them in one line. */
export const describeIssues = (issues: readonly EventIssue[]): string => issues.map(describe).join('; ')

function describe(issue: EventIssue): string {
  const path = (issue.path ?? []).map((step) => String(typeof step === 'object' ? step.key : step)).join('.')
  const message = issue.message.replace(/\.$/, '')
  return path === '' ? message : `${path}: ${message}`
}
