import { setTimeout as pause } from 'node:timers/promises'
import type pg from 'pg'

const LOOK_EVERY = 5

/** Reads the catalogue in a loop, and counts how often a product had a lower version than before or was missing. */
export async function watch(reader: pg.Client, over: AbortSignal): Promise<{ looks: number; back: number }> {
  let seen = new Map<string, number>()
  let [looks, back] = [0, 0]
  while (!over.aborted) {
    const { rows } = await reader.query('select product_id, version from catalogue')
    const found = new Map<string, number>(rows.map(({ product_id, version }) => [product_id, version]))
    for (const [id, version] of seen) if ((found.get(id) ?? 0) < version) back += 1
    seen = found
    looks += 1
    await pause(LOOK_EVERY)
  }
  return { looks, back }
}
