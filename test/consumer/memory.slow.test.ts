import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { expect } from 'vitest'
import { unwatch, watch } from '../../testkit/services/guard.js'
import { until } from '../../testkit/services/index.js'
import { consumerTest as test } from './consumer-env.js'
import { GROUP } from './happened.js'

const program = fileURLToPath(new URL('backlog-worker.ts', import.meta.url))
const EVENTS = 200_000
const KIBIBYTES = 1024

/** What the process ever had resident, in KiB, as the kernel remembers it. */
const peakOf = (pid: number): number =>
  Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1])

test.runIf(process.platform === 'linux')(
  `a backlog of ${EVENTS} events: memory stays flat, and each has one effect`,
  async ({ env }) => {
    for (let n = 0; n < EVENTS; n += 5_000) {
      const datas = Array.from({ length: 5_000 }, (_, more) => ({ n: n + more, text: 'x'.repeat(200) }))
      await env.append('things', datas)
    }
    // The backlog, held in memory, would be three times as much.
    const limit = '--max-old-space-size=64'
    const worker = spawn(process.execPath, [limit, '--import', 'tsx', program, env.database.url, env.server.url], {
      stdio: ['ignore', 'inherit', 'inherit'],
    })
    const pid = worker.pid as number
    watch(pid, 'KILL')
    const delivered = async () => {
      const groups = (await env.redis.xinfo('GROUPS', 'things').catch(() => [])) as unknown[][]
      const info = groups.find((group) => group[group.indexOf('name') + 1] === GROUP)
      return Number(info?.[info.indexOf('entries-read') + 1] ?? 0)
    }
    const running = () => worker.exitCode === null && worker.signalCode === null
    await until(async () => !running() || (await delivered()) >= EVENTS)
    await until(async () => !running() || (await env.pending('things')) === 0)
    expect(running(), 'the worker died, of too little memory perhaps').toBe(true)
    const peak = peakOf(pid) / KIBIBYTES
    worker.kill('SIGTERM')
    await once(worker, 'exit')
    unwatch(pid)
    const { rows } = await env.pool.query(
      'select count(*)::int as effects, count(distinct event)::int as events from effect',
    )
    expect(rows).toEqual([{ effects: EVENTS, events: EVENTS }])
    expect(peak).toBeLessThan(250)
  },
)
