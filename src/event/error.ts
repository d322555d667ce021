import type { StandardSchemaV1 } from '@standard-schema/spec'

/** One problem of an event. `message` says what was expected and what was found; `path` says where. */
export type EventIssue = StandardSchemaV1.Issue

/**
 * Thrown for an event that does not fit its schema or a limit, and for a wrong definition. Nothing was sent to Postgres
 * then, so the transaction can continue.
 */
export class EventError extends Error {
  override name = 'EventError'
  /** All problems that the schema and the limits of the outbox report. Never empty. */
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
