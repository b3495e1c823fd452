"""FastAPI: uploads from a browser in parts, by any number of workers that share nothing.

Run: ANYSEAL_MASTER_KEY=$(openssl rand -hex 32) BUCKET=files uvicorn --workers 4 s3_uploads:app
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any
from uuid import UUID, uuid4

from fastapi import Depends, FastAPI, Header, Request
from fastapi.responses import JSONResponse, StreamingResponse

from anyseal import AnysealError, StaticKeyring, UploadError, s3


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with s3.connect() as client:
        app.state.bucket = s3.SealedBucket(client, os.environ["BUCKET"], StaticKeyring.from_env())
        yield


def get_bucket(request: Request) -> s3.SealedBucket:
    return request.app.state.bucket


app = FastAPI(lifespan=lifespan)
Tenant = Annotated[str, Header(alias="X-Tenant", min_length=1)]  # a real service authenticates it
Token = Annotated[str, Header()]
Bucket = Annotated[s3.SealedBucket, Depends(get_bucket)]


@app.exception_handler(ValueError)
@app.exception_handler(AnysealError)
async def failed(request: Request, error: AnysealError | ValueError) -> JSONResponse:
    status = 503 if getattr(error, "retryable", False) else 404
    return JSONResponse({}, 409 if isinstance(error, UploadError | ValueError) else status)


@app.post("/uploads", status_code=201)
async def begin(size: int, bucket: Bucket, tenant: Tenant) -> dict[str, Any]:
    name = uuid4()
    where = {"partition": tenant, "context": name.bytes}
    token = await bucket.create_upload(f"{tenant}/{name}", size=size, **where)
    plan = await bucket.part_plan(token, partition=tenant)
    return {"name": name, "token": token, "parts": [(part.start, part.stop) for part in plan]}


@app.put("/uploads/parts/{number}")
async def part(
    number: int, request: Request, upload_token: Token, bucket: Bucket, tenant: Tenant
) -> str:
    return await bucket.upload_part(upload_token, number, request.stream(), partition=tenant)


@app.post("/uploads/missing")
async def missing(
    receipts: list[str], upload_token: Token, bucket: Bucket, tenant: Tenant
) -> list[int]:
    return await bucket.resume(upload_token, receipts, partition=tenant)


@app.post("/uploads/complete")
async def complete(receipts: list[str], upload_token: Token, bucket: Bucket, tenant: Tenant) -> int:
    return (await bucket.complete_upload(upload_token, receipts, partition=tenant)).size


@app.get("/files/{name}")
async def read(name: UUID, bucket: Bucket, tenant: Tenant) -> StreamingResponse:
    reader = await bucket.open(f"{tenant}/{name}", partition=tenant, context=name.bytes)

    async def pieces() -> AsyncIterator[bytes]:
        async with reader:
            async for piece in reader.stream():
                yield piece

    return StreamingResponse(pieces())
