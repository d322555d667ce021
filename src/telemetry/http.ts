import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { ExitCode, OutriderError } from '../base/failure.js'
import type { Logger } from './log.js'
import type { Metrics, Role } from './metrics.js'

/** The body of /readyz. */
export interface HealthStatus {
  role: Role
  /** What it is doing: `streaming`, `blocked` … */
  state: string
  /** Why nothing flows, where nothing does: short and stable. */
  reason?: string
  /** The same for a person. */
  message?: string
  /** Whether this process does its part: active and not halted, or standing by. */
  ready: boolean
}

export interface HttpOptions {
  /** 0 turns it off. */
  port: number
  host: string
  metrics: Metrics
  status: () => HealthStatus
  log: Logger
}

interface HttpServer {
  /** Where it listens; 0 when it is turned off. */
  port: number
  close(): Promise<void>
}

/** A probe or a scrape sends a few hundred bytes at once; a client that needs longer is none of them. */
const REQUEST_TIMEOUT_MS = 5_000
/** How soon Node notices that a time-out is over; by default it looks every 30 s. */
const CHECK_INTERVAL_MS = 1_000
const MAX_CONNECTIONS = 100

/** Serves /livez, /readyz and /metrics. None of them touches Postgres or Redis. */
export async function startHttp(options: HttpOptions): Promise<HttpServer> {
  if (options.port === 0) return { port: 0, close: async () => {} }
  const server = createServer(
    {
      headersTimeout: REQUEST_TIMEOUT_MS,
      requestTimeout: REQUEST_TIMEOUT_MS,
      keepAliveTimeout: REQUEST_TIMEOUT_MS,
      connectionsCheckingInterval: CHECK_INTERVAL_MS,
      maxHeaderSize: 8_192,
    },
    (request, response) => void answer(request, response, options),
  )
  server.maxConnections = MAX_CONNECTIONS
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => reject(listenFailure(error, options)))
    server.listen(options.port, options.host, resolve)
  })
  server.on('error', (error) => options.log.warn({ err: error }, 'http server'))
  // What a scraper holds open must not keep the process alive.
  server.unref()
  return {
    port: (server.address() as AddressInfo).port,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}

async function answer(request: IncomingMessage, response: ServerResponse, options: HttpOptions): Promise<void> {
  // Nothing here has a body; one that is sent anyway is not waited for.
  request.resume()
  const send = (status: number, type: string, body: string) => {
    response.writeHead(status, {
      'content-type': type,
      'content-length': Buffer.byteLength(body),
      'cache-control': 'no-store',
      ...(status === 405 ? { allow: 'GET, HEAD' } : {}),
    })
    response.end(request.method === 'HEAD' ? undefined : body)
  }
  try {
    if (request.method !== 'GET' && request.method !== 'HEAD') return send(405, 'text/plain', 'Expected GET or HEAD.\n')
    switch (request.url?.split('?', 1)[0]) {
      case '/livez':
        return send(200, 'text/plain', 'ok\n')
      case '/readyz': {
        const status = options.status()
        return send(status.ready ? 200 : 503, 'application/json', `${JSON.stringify(status)}\n`)
      }
      case '/metrics': {
        const { registry } = options.metrics
        return send(200, registry.contentType, await registry.metrics())
      }
      default:
        return send(404, 'text/plain', 'Here are /livez, /readyz and /metrics.\n')
    }
  } catch (error) {
    options.log.error({ err: error }, 'http request failed')
    if (!response.headersSent) send(500, 'text/plain', 'The request failed; the log says why.\n')
  }
}

function listenFailure(error: NodeJS.ErrnoException, { host, port }: HttpOptions): OutriderError {
  const setting = 'OUTRIDER_HTTP_PORT (http.port)'
  const text =
    error.code === 'EADDRINUSE'
      ? `is taken by another process. Choose another with ${setting}; 0 turns it off`
      : error.code === 'EACCES'
        ? `may not be used by this user. Choose one above 1023 with ${setting}`
        : `cannot be listened on (${error.code ?? error.message}). Check OUTRIDER_HTTP_HOST (http.host) and ${setting}`
  return new OutriderError(`Expected a free port for health and metrics, found that ${host}:${port} ${text}.`, {
    exitCode: ExitCode.failed,
    cause: error,
  })
}
