import { once } from 'node:events'
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
  await expect(fetch(ready)).rejects.toThrow()
  expect(() => process.kill(worker, 0)).toThrow('ESRCH')
  const late = redisClient(url)
  await expect(late.ping()).rejects.toThrow()
  late.disconnect()
})
