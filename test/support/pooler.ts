import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'

/** Stands before Postgres and lets everything through but replication, which it refuses in the words of PgBouncer 1.22. */
export async function startPooler(port: number): Promise<{ port: number; close(): void }> {
  const sockets = new Set<Socket>()
  const server = createServer((client) => {
    sockets.add(client.on('error', () => {}))
    client.once('data', (startup) => {
      if (startup.includes('replication\0')) {
        client.end(refusal('unsupported startup parameter: replication'))
        return
      }
      const upstream = connect(port, '127.0.0.1').on('error', () => client.destroy())
      sockets.add(upstream)
      upstream.write(startup)
      client.pipe(upstream).pipe(client)
    })
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  return {
    port: (server.address() as AddressInfo).port,
    close() {
      server.close()
      for (const socket of sockets) socket.destroy()
    },
  }
}

/** An ErrorResponse. https://www.postgresql.org/docs/current/protocol-message-formats.html */
function refusal(message: string): Buffer {
  const fields = Buffer.from(`SFATAL\0C08P01\0M${message}\0\0`)
  const head = Buffer.from('E\0\0\0\0')
  head.writeInt32BE(fields.length + 4, 1)
  return Buffer.concat([head, fields])
}
