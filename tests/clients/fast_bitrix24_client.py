"""What users of fast_bitrix24 do, unmodified: one argument, the scenario. The
webhook's address is in $WEBHOOK. Prints one line of JSON for the test.

What surprises in this client (1.8.14):
- It lower-cases methods of single calls, and sends the commands of a batch as
  they are written.
- `call()` makes a batch of a single call too, so that None arrives as the text
  "None"; with `raw=True` it is a call of its own with JSON, and null is null.
  A single call that answers a record comes back as {"order0000000000": record}.
- `get_all()` reads the first page by itself and all others by batches.
- A 4xx is raised as aiohttp's ClientResponseError without the body: the user
  sees the status and not the error code.
- 5xx and a lost connection are repeated up to ten times, add methods too.
"""

import asyncio
import json
import logging
import os
import sys
import time
import warnings

import aiohttp
from fast_bitrix24 import BitrixAsync

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)


def client():
    return BitrixAsync(os.environ["WEBHOOK"], verbose=False)


async def status_of(call):
    try:
        return {"result": await call}
    except aiohttp.ClientResponseError as error:
        return {"status": error.status}


async def single():
    b = client()
    added = await b.call("crm.deal.add", {"fields": {"TITLE": "Стол «Дуб» №1 & Co"}})
    return {
        "added": added,
        "got": await b.call("crm.deal.get", {"ID": added}),
        "profile": await b.call("profile", raw=True),
        "null": await b.call("sim.echo", {"a": None, "b": [1, {"c": "й"}], "d": True}, raw=True),
        "text_of_null": await b.call("sim.echo", {"a": None, "b": 1}),
    }


async def lists():
    b = client()
    deals = await b.get_all("crm.deal.list", {"select": ["ID", "TITLE"], "filter": {">ID": 0}})
    return {"ids": sorted(int(deal["ID"]) for deal in deals), "title": deals[0]["TITLE"][:6]}


async def whole_list():
    b = client()
    started = time.monotonic()
    rows = await b.get_all(os.environ["METHOD"], json.loads(os.environ["PARAMS"]))
    ids = {int(row["ID"] if "ID" in row else row["id"]) for row in rows}
    return {"seconds": time.monotonic() - started, "rows": len(ids)}


async def batches():
    b = client()
    added = await b.call("crm.deal.add", [{"fields": {"TITLE": f"Сделка {i}"}} for i in range(120)])
    got = await b.get_by_ID("crm.deal.get", list(range(1, 121)))
    named = await b.call_batch({"halt": 0, "cmd": {"p": "profile", "d": "crm.deal.get?id=7"}})
    return {
        "added": len(added),
        "titles": sorted({deal["TITLE"] for deal in got.values()}, key=lambda t: int(t.split()[1])),
        "named": named,
    }


async def unknown_method():
    return await status_of(client().call("no.such.method", {"a": 1}, raw=True))


async def wrong_token():
    return await status_of(client().call("profile", raw=True))


async def add_once():
    return await status_of(client().call("crm.deal.add", {"fields": {"TITLE": "once"}}, raw=True))


async def ten_calls():
    b = client()
    answers = [await b.call("sim.echo", {"i": i}, raw=True) for i in range(10)]
    return [int(answer["result"]["i"]) for answer in answers]


print(json.dumps(asyncio.run(globals()[sys.argv[1]]()), ensure_ascii=False))
