"""Runs in an environment with cachekit: a list of calls in JSON on stdin, their outcomes on stdout.

A call is ``{"form": "secure", "settings": {...}, "name": "load", "args": [...], "value": "map"}``:
a function of that name is decorated and called. Its outcome says whether the function ran, and
whether what came back is the value. Knows nothing of ours.
"""

import asyncio
import json
import os
import sys

from cachekit import cache
from cachekit.backends.redis import RedisBackend
from cachekit_values import TAGGED, TYPED, VALUES, make_function

VALUES = {**VALUES, **TAGGED}

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


def decorated(call, ran):
    settings = dict(call["settings"])
    if settings.pop("explicit", False):
        settings["backend"] = RedisBackend(os.environ["CACHEKIT_REDIS_URL"])
    if settings.pop("keyed", False):
        settings["key"] = lambda *args, **kwargs: f"k{args[0]}"
    function = make_function(call["name"], VALUES[call["value"]], ran, is_async=call["async"])
    form = cache if call["form"] == "cache" else getattr(cache, call["form"])
    return form(l1_enabled=False, **settings)(function)


def outcome(call):
    ran = []
    function = decorated(call, ran)
    if call.get("invalidate"):
        function.invalidate_cache()
        return {"ran": False, "same": True}
    args = TYPED[call["args"]] if isinstance(call["args"], str) else call["args"]
    found = function(*args, **call["kwargs"])
    if call["async"]:
        found = asyncio.run(found)
    return {"ran": bool(ran), "same": found == VALUES[call["value"]]}


outcomes = []
for each in json.load(sys.stdin):
    try:
        outcomes.append(outcome(each))
    except Exception as exc:
        outcomes.append({"error": f"{type(exc).__name__}: {exc}"})
json.dump(outcomes, answers)
answers.flush()
