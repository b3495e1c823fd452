"""Runs in an environment with duckframework: a list of requests in JSON, their answers in JSON.

``{"op": "seal", "key": "k"}`` stores a value in its encrypted file cache and returns what lies in
the file; ``{"op": "open", "key": "k", "stored": "<hex>"}`` puts bytes there and reads them. Knows
nothing of ours.
"""

import json
import os
import sys

from duck.utils.caching import PersistentFileCache
from duck.utils.caching.encrypted import EncryptedCache
from duck_values import VALUES

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
secret, folder = sys.argv[1:]
files = PersistentFileCache(folder)
cache = EncryptedCache(files, secret)


def answer(request):
    key = request["key"]
    if request["op"] == "seal":
        cache.set(key, VALUES[key], 60)
        return files.get(key).hex()
    files.set(key, bytes.fromhex(request["stored"]), 60)
    return cache.get(key, "default") == VALUES[key]


json.dump([answer(each) for each in json.load(sys.stdin)], answers)
answers.flush()
os._exit(0)
