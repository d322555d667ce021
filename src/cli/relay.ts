import { once } from 'node:events'
import { ExitCode } from '../base/failure.js'
import { Relay } from '../relay/relay.js'
import { startHttp } from '../telemetry/http.js'
import { createRelayMetrics } from '../telemetry/metrics.js'
import type { Command } from './command.js'

export const relay: Command = {
  summary: 'run the relay until SIGTERM',
  usage: 'outrider relay',
  examples: [['OUTRIDER_HTTP_PORT=9474 outrider relay', 'and look at http://localhost:9474/readyz']],
  docs: 'docs/operations.md, docs/alerts.md',
  options: {},
  service: true,
  async run({ config, log }) {
    const metrics = createRelayMetrics()
    const running = new Relay(config, log, metrics)
    const http = await startHttp({ ...config.http, metrics, status: () => running.status, log })
    const signals = new AbortController()
    const stop = Promise.race(['SIGTERM', 'SIGINT'].map((name) => once(process, name, { signal: signals.signal })))
    try {
      await Promise.race([running.run(), stop.then(() => running.stop())])
    } finally {
      signals.abort()
      await http.close()
    }
    return ExitCode.done
  },
}
