import { offerPostgres } from '../../testkit/services/shared.js'

/** Vitest calls this once before all tests, and what it returns once after them. */
export default function setup(): Promise<() => Promise<void>> {
  return offerPostgres()
}
