import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import pg from 'pg'
import { expect, it } from 'vitest'
import { needsProcess, redisClient, until } from '../../testkit/services/index.js'
import { demo } from './demo-env.js'

it('leaves everything running with --keep, as it says, until it is interrupted', async (context) => {
  needsProcess(context)
  const child = demo('--events', '100', '--kills', '0', '--worker-kills', '0', '--keep')
  let output = ''
  child.stdout.on('data', (chunk) => {
    output += chunk
  })
  const find = (pattern: RegExp) =>
    until(() => pattern.exec(output)?.[1], { message: () => `${pattern} in\n${output}` })
  await find(/(left running until Ctrl-C)/)
  const [url, ready] = [await find(/Redis +(redis:\S+)/), await find(/(http:\S+\/readyz).* active/)]
  await find(/(dead-letters)\n/)
  const worker = Number(await find(/billing: processes (\d+)/))
  const client = redisClient(url)
  expect(await client.ping()).toBe('PONG')
  expect(await (await fetch(ready)).json()).toMatchObject({ role: 'active', state: 'streaming' })

  const statements = [...output.matchAll(/-c "(.+)"/g)].map(([, sql]) => sql as string)
  const [commit, see, refused] = statements as [string, string, string]
  const owner = new pg.Client(await find(/Postgres +(postgres:\S+)/))
  await owner.connect()
  await owner.query(commit)
  const groups = async () => (await owner.query(see)).rows.map(({ consumer_group }) => consumer_group).sort()
  await until(async () => (await groups()).length === 2, { message: 'an effect of each group' })
  expect(await groups()).toEqual(['billing', 'search'])
  await owner.query(refused)
  for (const group of ['billing', 'search']) {
    const dead = `outrider:{github.code}:dead:${group}`
    await until(async () => (await client.xlen(dead)) === 1, { message: `a dead letter of ${group}` })
  }
  await owner.end()
  client.disconnect()

  const ended = once(child, 'exit')
  child.kill('SIGINT')
  expect(await ended).toEqual([0, null])
  // Where the end takes too long, the guard process ends what still runs.
  const isRefused = (connecting: Promise<unknown>) =>
    connecting.then(
      () => false,
      () => true,
    )
  await until(() => isRefused(fetch(ready)), { message: 'the relay to be gone' })
  await until(() => isGone(worker), { message: 'the worker to be gone' })
  const late = redisClient(url)
  await until(() => isRefused(late.ping()), { message: 'Redis to be gone' })
  late.disconnect()
})

function isGone(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return false
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ESRCH'
  }
}

it('carries real payloads to effects through kills of the relay and of workers, and finds nothing wrong', async (context) => {
  needsProcess(context)
  const child = demo('--events', '500', '--kills', '1', '--worker-kills', '2')
  const [output, [code]] = await Promise.all([text(child.stdout), once(child, 'exit')])
  expect(code, output).toBe(0)
  expect(output).toMatch(/^ +committed +500 /m)
  expect(output).toMatch(/^ +rolled back +[1-9]\d* /m)
  expect(output).toMatch(/^ +published +500 /m)
  for (const check of ['lost', 'duplicated', 'out of order', 'phantom', 'altered']) {
    expect(output).toMatch(new RegExp(`✔ ${check} +0 `))
  }
  for (const group of ['billing', 'search']) {
    expect(output).toMatch(new RegExp(`✔ ${group} +500 +effects of 500 events: lost 0, doubled 0\n +duplicates +\\d+ `))
  }
  const workerKills = [...output.matchAll(/worker kills +(\d+) /g)].map(([, count]) => Number(count))
  expect(workerKills.reduce((sum, count) => sum + count, 0)).toBe(2)
  expect(output).toMatch(/latency p50 +[\d,]+ ms/)
  expect(output).toMatch(/latency p99 +[\d,]+ ms/)
  expect(output).toMatch(/throughput +[\d,]+\/s/)
  expect(output).toMatch(/relay kills +1 /)
  expect(output).not.toContain('\x1b')
})
