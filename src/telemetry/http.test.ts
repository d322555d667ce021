import { once } from 'node:events'
import { connect } from 'node:net'
import { text } from 'node:stream/consumers'
import { pino } from 'pino'
import { describe, expect, it, onTestFinished } from 'vitest'
import { freePort } from '../../testkit/services/index.js'
import { type HealthStatus, type HttpOptions, startHttp } from './http.js'
import { createRelayMetrics } from './metrics.js'

const status: HealthStatus = { role: 'active', state: 'streaming', ready: true }

async function serve(more: Partial<HttpOptions> = {}) {
  const options = {
    port: await freePort(),
    host: '127.0.0.1',
    metrics: createRelayMetrics(),
    status: () => status,
    log: pino({ level: 'silent' }),
  }
  const server = await startHttp({ ...options, ...more })
  onTestFinished(() => server.close())
  return { ...server, get: (path: string, init?: RequestInit) => fetch(`http://127.0.0.1:${server.port}${path}`, init) }
}

describe('the HTTP server', () => {
  it('says that the process lives, without asking anybody', async () => {
    const { get } = await serve({
      status() {
        throw new Error('must not be asked')
      },
    })
    const reply = await get('/livez')
    expect([reply.status, await reply.text()]).toEqual([200, 'ok\n'])
    expect((await get('/readyz')).status).toBe(500)
    expect((await get('/livez?x=1')).status).toBe(200)
  })

  it('says whether it is ready, and why not', async () => {
    let now: HealthStatus = status
    const { get } = await serve({ status: () => now })
    expect((await get('/readyz')).status).toBe(200)
    now = { role: 'halted', state: 'halted', reason: 'foreign', message: 'Another database …', ready: false }
    const reply = await get('/readyz')
    expect(reply.status).toBe(503)
    expect(reply.headers.get('content-type')).toBe('application/json')
    expect(await reply.json()).toEqual(now)
  })

  it('shows the metrics', async () => {
    const { get } = await serve()
    const reply = await get('/metrics')
    expect(reply.headers.get('content-type')).toContain('text/plain')
    expect(await reply.text()).toMatch(/^outrider_build_info\{version="\d+\.\d+\.\d+",node="v\d+/m)
  })

  it('answers HEAD without a body, and refuses everything else', async () => {
    const { get } = await serve()
    const head = await get('/metrics', { method: 'HEAD' })
    expect([head.status, await head.text()]).toEqual([200, ''])
    expect((await get('/readyz', { method: 'POST', body: 'x' })).status).toBe(405)
    expect((await get('/other')).status).toBe(404)
  })

  it('does not wait without end for a client that sends half a request', async () => {
    const { port } = await serve()
    const socket = connect(port, '127.0.0.1', () => socket.write('GET /livez HTTP/1.1\r\n'))
    expect(await text(socket)).toContain('408')
  }, 60_000)

  it('ends while a client still holds a connection', async () => {
    const server = await serve()
    const socket = connect(server.port, '127.0.0.1')
    socket.on('error', () => {})
    await once(socket, 'connect')
    const closed = once(socket, 'close')
    socket.resume()
    await server.close()
    await closed
  })

  it('is turned off by port 0', async () => {
    expect(
      (
        await startHttp({
          port: 0,
          host: '127.0.0.1',
          metrics: createRelayMetrics(),
          status: () => status,
          log: pino(),
        })
      ).port,
    ).toBe(0)
  })

  it('says which setting to change when its port is taken', async () => {
    const { port } = await serve()
    await expect(serve({ port })).rejects.toMatchObject({
      name: 'OutriderError',
      exitCode: 1,
      message: `Expected a free port for health and metrics, found that 127.0.0.1:${port} is taken by another process. Choose another with OUTRIDER_HTTP_PORT (http.port); 0 turns it off.`,
    })
    await expect(serve({ host: '203.0.113.1' })).rejects.toThrow('OUTRIDER_HTTP_HOST')
  })
})
