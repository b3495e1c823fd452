"""Runs in the environment of another implementation: one JSON object a line, in and out.

``{"op": "setup", "config": {...}}``, ``{"op": "encrypt", "partition": "…", "data": "<base64>"}``,
``{"op": "decrypt", "partition": "…", "row": "…"}``. The answer is ``{"value": …}`` or
``{"error": "<class>: <message>"}``. Knows nothing of ours; needs the standard library only.
"""

import base64
import json
import os
import sys

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # the other implementations talk on stdout

import asherah  # noqa: E402 - not before stdout is out of its reach

older = hasattr(asherah, "Asherah")
one = asherah.Asherah() if older else None


def setup(request):
    if older:
        one.setup(asherah.AsherahConfig(**request["config"]))
    else:
        asherah.setup(request["config"])


def encrypt(request):
    data = base64.b64decode(request["data"])
    if older:
        return one.encrypt(request["partition"], data)
    return asherah.encrypt_bytes(request["partition"], data)


def decrypt(request):
    if older:
        data = one.decrypt(request["partition"], request["row"])
    else:
        data = asherah.decrypt_bytes(request["partition"], request["row"])
    return base64.b64encode(bytes(data)).decode()


operations = {"setup": setup, "encrypt": encrypt, "decrypt": decrypt}

for line in sys.stdin:
    request = json.loads(line)
    try:
        answer = {"value": operations[request["op"]](request)}
    except Exception as exc:
        answer = {"error": f"{type(exc).__name__}: {exc}"}
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
os._exit(0)  # 0.5 may wait for its own threads for ever
