#!/usr/bin/env bash
# The CloudEvents SDK for Python changes JSON data that is no object, and adds a time, when it forwards an event in binary mode.
#
# Version    PyPI cloudevents 2.2.0, python-dateutil 2.9.0.post0.
# Guess      An event that is read in structured mode and written in binary mode keeps its attributes and its JSON data.
# Behaviour  Only a JSON object is written as JSON. An array and a boolean are written as Python prints them, with
#            `application/json` as content type: no JSON parser reads them, and the SDK itself reads them as text without an error.
#            A string is written without its quotes, so "12" comes back as a number. A boolean extension becomes `True`. An event
#            without `time` gets the time of the reading, a new one at each retry. Structured mode writes the same data right.
# Way out    Forward in structured mode, or take the bytes of the body and write the headers yourself. Send an object as data, and
#            always a time.
#
# Output seen:
#   {"sku": "A"} -> {"sku": "A"}
#   [{"sku": "A"}] -> [{'sku': 'A'}]
#   [true, null] -> [True, None]
#   true -> True
#   "12" -> 12
#   extension true -> True
#   no time -> time
#
# Needs bash, python3 with pip. Exits 1 if the behaviour has changed, 2 if the script cannot run.
set -Eeuo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 2' ERR
python3 -m pip --disable-pip-version-check install -q --no-deps --root-user-action ignore --target "$folder/sdk" \
  cloudevents==2.2.0 python-dateutil==2.9.0.post0 six==1.17.0
cat >"$folder/forward.py" <<'PYTHON'
import json
from cloudevents.core.bindings.http import HTTPMessage, from_structured_event, to_binary_event, to_structured_event

def forwarded(data, **extensions):
    event = {'specversion': '1.0', 'id': '1', 'source': '/s', 'type': 't', 'datacontenttype': 'application/json', **extensions}
    body = json.dumps({**event, 'data': data}).encode()
    read = from_structured_event(HTTPMessage({'content-type': 'application/cloudevents+json'}, body))
    assert json.loads(to_structured_event(read).body)['data'] == data
    return to_binary_event(read)

for data in ({'sku': 'A'}, [{'sku': 'A'}], [True, None], True, '12'):
    print(json.dumps(data), '->', forwarded(data).body.decode())
print('extension true ->', forwarded({}, flag=True).headers['ce-flag'])
print('no time ->', 'time' if 'ce-time' in forwarded({}).headers else 'no time')
PYTHON
PYTHONPATH=$folder/sdk python3 "$folder/forward.py" | tee "$folder/out"
cat >"$folder/expected" <<'EXPECTED'
{"sku": "A"} -> {"sku": "A"}
[{"sku": "A"}] -> [{'sku': 'A'}]
[true, null] -> [True, None]
true -> True
"12" -> 12
extension true -> True
no time -> time
EXPECTED
if ! diff -q "$folder/out" "$folder/expected" >/dev/null; then exit 1; fi
