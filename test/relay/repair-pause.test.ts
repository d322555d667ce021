import { expect } from 'vitest'
import { relayTest as test } from './relay-env.js'
import { REPAIR, repaired, someEvents } from './repair-env.js'

/** Nothing that a repair has put back can be saved. */
const REFUSE = `
  create function refuse() returns trigger language plpgsql as $$
  begin raise serialization_failure using message = 'refused by a test'; end $$;
  create trigger refuse before update of repaired_at on outrider.incident for each row
  when (new.repaired_at is not null) execute function refuse()`

test('a repair that fails at its end each time begins again after pauses that double', async ({ env }) => {
  const relay = await env.streamingRelay(REPAIR)
  const ids = await someEvents(env)
  await env.postgres.query(REFUSE)
  await env.redis.flushall()
  // It logs that line once for each repair.
  const lines = await relay.logged(({ msg }) => msg === 'repair began', 4)
  const times = lines.map(({ time }) => new Date(time as string).getTime())
  const pauses = times.slice(1, 4).map((at, n) => (at - (times[n] as number)) / 1_000)
  for (const [n, pause] of pauses.entries()) expect(pause, `seconds before repair ${n + 2}`).toBeGreaterThan(2 ** n)

  await env.postgres.query('drop function refuse() cascade')
  await repaired(env)
  expect(await env.ids('orders')).toEqual(ids)
})
