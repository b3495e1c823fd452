"""FastAPI: encrypted notes, sealed files, a key per tenant. Run: uvicorn fastapi_app:app"""

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated
from uuid import UUID, uuid4

from fastapi import Depends, FastAPI, Header, HTTPException, Request
from fastapi.responses import StreamingResponse

import anyseal

SETTINGS = os.environ.get("SETTINGS") or {  # a settings file, or keys that end with the process
    "ServiceName": "notes",
    "ProductID": "examples",
    "Metastore": "memory",
    "KMS": "static",
    "StaticMasterKeyHex": secrets.token_hex(32),
}
FILES = Path(os.environ.get("FILES", "."))
notes: dict[tuple[str, str], str] = {}  # stands for a database


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with anyseal.SessionFactory.from_config(SETTINGS) as app.state.sessions:
        yield


app = FastAPI(lifespan=lifespan)
Tenant = Annotated[str, Header(alias="X-Tenant", min_length=1)]  # a real service authenticates it


def get_session(request: Request, tenant: Tenant) -> anyseal.Session:
    return request.app.state.sessions.session(tenant)


Session = Annotated[anyseal.Session, Depends(get_session)]


@app.put("/notes/{name}", status_code=204)
async def put_note(name: str, request: Request, session: Session) -> None:
    notes[session.partition, name] = await session.encrypt(await request.body())


@app.get("/notes/{name}")
async def get_note(name: str, session: Session) -> str:
    if (session.partition, name) not in notes:
        raise HTTPException(404)
    return await session.decrypt_text(notes[session.partition, name])


@app.post("/files", status_code=201)
async def post_file(request: Request, tenant: Tenant) -> UUID:
    name, keys = uuid4(), request.app.state.sessions.hierarchy
    sink = await anyseal.FileSink.aopen(FILES / name.hex)
    async with anyseal.ObjectWriter(sink, keys, partition=tenant, context=name.bytes) as writer:
        async for piece in request.stream():  # never the whole file in memory
            await writer.write(piece)
    return name


@app.get("/files/{name}")
async def get_file(
    name: UUID, request: Request, tenant: Tenant, start: int = 0, stop: int | None = None
) -> StreamingResponse:
    source = await anyseal.FileSource.aopen(FILES / name.hex)
    keys = request.app.state.sessions.hierarchy
    reader = await anyseal.ObjectReader.open(source, keys, partition=tenant, context=name.bytes)

    async def pieces() -> AsyncIterator[bytes]:
        async with reader:
            async for piece in reader.stream(start, stop):
                yield piece

    return StreamingResponse(pieces())
