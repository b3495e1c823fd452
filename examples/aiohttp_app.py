"""aiohttp: encrypted notes, sealed files, a key per tenant. Run: python aiohttp_app.py"""

import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID, uuid4

from aiohttp import web

import anyseal

SETTINGS = os.environ.get("SETTINGS") or {  # a settings file, or keys that end with the process
    "ServiceName": "notes",
    "ProductID": "examples",
    "Metastore": "memory",
    "KMS": "static",
    "StaticMasterKeyHex": secrets.token_hex(32),
}
FILES = Path(os.environ.get("FILES", "."))
SESSIONS = web.AppKey("sessions", anyseal.SessionFactory)
notes: dict[tuple[str, str], str] = {}  # stands for a database
routes = web.RouteTableDef()


async def sessions(app: web.Application) -> AsyncIterator[None]:
    async with anyseal.SessionFactory.from_config(SETTINGS) as app[SESSIONS]:
        yield


def tenant_of(request: web.Request) -> str:
    return request.headers["X-Tenant"]  # a real service authenticates it


@routes.put("/notes/{name}")
async def put_note(request: web.Request) -> web.Response:
    session = request.app[SESSIONS].session(tenant_of(request))
    row = await session.encrypt(await request.read())
    notes[session.partition, request.match_info["name"]] = row
    return web.Response(status=204)


@routes.get("/notes/{name}")
async def get_note(request: web.Request) -> web.Response:
    session = request.app[SESSIONS].session(tenant_of(request))
    row = notes[session.partition, request.match_info["name"]]
    return web.Response(text=await session.decrypt_text(row))


@routes.post("/files")
async def post_file(request: web.Request) -> web.Response:
    name, keys, tenant = uuid4(), request.app[SESSIONS].hierarchy, tenant_of(request)
    sink = await anyseal.FileSink.aopen(FILES / name.hex)
    async with anyseal.ObjectWriter(sink, keys, partition=tenant, context=name.bytes) as writer:
        async for piece in request.content.iter_any():  # never the whole file in memory
            await writer.write(piece)
    return web.Response(status=201, text=str(name))


@routes.get("/files/{name:[0-9a-f-]{36}}")
async def get_file(request: web.Request) -> web.StreamResponse:
    name, keys = UUID(request.match_info["name"]), request.app[SESSIONS].hierarchy
    source, tenant = await anyseal.FileSource.aopen(FILES / name.hex), tenant_of(request)
    reader = await anyseal.ObjectReader.open(source, keys, partition=tenant, context=name.bytes)
    async with reader:
        query, response = request.query, web.StreamResponse()
        await response.prepare(request)
        start, stop = int(query.get("start", 0)), int(query.get("stop", reader.size))
        async for piece in reader.stream(start, stop):
            await response.write(piece)
    return response


app = web.Application()
app.cleanup_ctx.append(sessions)
app.add_routes(routes)

if __name__ == "__main__":
    web.run_app(app)
