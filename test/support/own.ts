import { onTestFinished } from 'vitest'

/** Removes the service when the test that started it is over; the last one started goes first. */
export function own<T extends { remove(): Promise<void> }>(service: T): T {
  onTestFinished(() => service.remove())
  return service
}
