"""The files in examples/ run: each in its framework, through the framework's own test client."""

from __future__ import annotations

import importlib.util
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from fastapi.testclient import TestClient as FastApiClient

from storage_servers import ACCESS_KEY, SECRET_KEY, SeaweedFS
from support import pattern

pytest_plugins = ["server_fixtures"]

EXAMPLES = Path(__file__).parent.parent / "examples"
TENANT = {"X-Tenant": "tenant-7"}
OTHER = {"X-Tenant": "tenant-8"}


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files go to a temporary folder, and no settings come from outside."""
    monkeypatch.setenv("FILES", str(tmp_path))
    for name in ("BROKER_URL", "SERVICE_NAME", "SETTINGS"):
        monkeypatch.delenv(name, raising=False)


def load(name: str) -> ModuleType:
    """The example as a fresh module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_examples_are_all_here() -> None:
    """An example without a test rots; one of more than 80 lines is not read."""
    tested = {"aiohttp_app", "celery_app", "django_app", "fastapi_app", "flask_app"}
    tested |= {"lambda_handler", "s3_uploads", "sample"}
    assert tested == {path.stem for path in EXAMPLES.glob("*.py")}
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text("utf-8").splitlines()) < 80, path.name


def test_examples_fastapi(tmp_path: Path) -> None:
    """Notes and files, each tenant its own."""
    module, data = load("fastapi_app"), pattern(300_000)
    with FastApiClient(module.app, raise_server_exceptions=False) as client:
        assert 204 == client.put("/notes/a", content=b"hello", headers=TENANT).status_code
        assert "hello" == client.get("/notes/a", headers=TENANT).json()
        assert 404 == client.get("/notes/a", headers=OTHER).status_code
        assert 422 == client.get("/notes/a").status_code
        assert b"hello" not in str(module.notes).encode()
        name = client.post("/files", content=data, headers=TENANT).json()
        assert data == client.get(f"/files/{name}", headers=TENANT).content
        ranged = client.get(f"/files/{name}?start=100000&stop=100010", headers=TENANT)
        assert data[100000:100010] == ranged.content
        assert 500 == client.get(f"/files/{name}", headers=OTHER).status_code
        assert data[:32] not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_examples_s3_uploads(weed_server: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> None:
    """A browser uploads to two workers in turns, one of them new; each tenant its own."""
    settings = {
        "ANYSEAL_MASTER_KEY": "8f" * 32,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": weed_server.url,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "BUCKET": weed_server.new_bucket(),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    data, apps = pattern(1 << 16) * 384, [load("s3_uploads").app for _ in range(2)]
    with FastApiClient(apps[0], headers=TENANT) as one, FastApiClient(apps[1]) as two:
        begun = one.post(f"/uploads?size={len(data)}").json()
        token, parts = {"Upload-Token": begun["token"]}, begun["parts"]

        def send(number: int, client: FastApiClient, headers: dict[str, str]) -> Any:
            start, stop = parts[number - 1]
            url = f"/uploads/parts/{number}"
            return client.put(url, content=data[start:stop], headers=token | headers)

        assert 404 == send(1, two, OTHER).status_code
        receipts = [send(2, two, TENANT).json(), send(1, one, TENANT).json()]
        assert 409 == one.post("/uploads/complete", json=receipts, headers=token).status_code
        assert [3] == two.post("/uploads/missing", json=receipts, headers=token | TENANT).json()
        assert 409 == one.put("/uploads/parts/3", content=b"short", headers=token).status_code
        receipts.append(send(3, one, TENANT).json())
        done = two.post("/uploads/complete", json=receipts, headers=token | TENANT)
        assert len(data) == done.json()
        assert data == one.get(f"/files/{begun['name']}").content
        assert 404 == two.get(f"/files/{begun['name']}", headers=OTHER).status_code
        assert 409 == one.put("/uploads/parts/9", content=b"", headers=token).status_code
        assert 409 == one.post("/uploads?size=-1").status_code


@pytest.mark.asyncio
async def test_examples_aiohttp() -> None:
    """Notes and files, each tenant its own."""
    module, data = load("aiohttp_app"), pattern(300_000)
    async with TestClient(TestServer(module.app)) as client:
        assert 204 == (await client.put("/notes/a", data=b"hello", headers=TENANT)).status
        assert "hello" == await (await client.get("/notes/a", headers=TENANT)).text()
        assert 500 == (await client.get("/notes/a", headers=OTHER)).status
        name = await (await client.post("/files", data=data, headers=TENANT)).text()
        assert data == await (await client.get(f"/files/{name}", headers=TENANT)).read()
        ranged = await client.get(f"/files/{name}?start=100000&stop=100010", headers=TENANT)
        assert data[100000:100010] == await ranged.read()


def test_examples_flask() -> None:
    """Notes, each tenant its own."""
    client = load("flask_app").create_app().test_client()
    assert 204 == client.put("/notes/a", data=b"hello", headers=TENANT).status_code
    assert "hello" == client.get("/notes/a", headers=TENANT).text
    assert 404 == client.get("/notes/a", headers=OTHER).status_code
    assert 401 == client.get("/notes/a").status_code


DJANGO = """
import sys
sys.path.insert(0, sys.argv[1])
import django_app
from django.db import connection
from django.test import Client

with connection.schema_editor() as editor:
    editor.create_model(django_app.Note)
client = Client(headers={"X-Tenant": "tenant-7"})
assert client.put("/notes/a", b"hello").status_code == 204
assert client.get("/notes/a").content == b"hello"
assert client.get("/notes/a", headers={"X-Tenant": "tenant-8"}).status_code == 404
assert "hello" not in django_app.Note.objects.get().sealed
django_app.sessions().close()
"""


def test_examples_django(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Notes in a model. Django is configured once per process: so in one of its own."""
    monkeypatch.chdir(tmp_path)
    run("-c", DJANGO, str(EXAMPLES))


def run(*arguments: str) -> str:
    """What Python prints; a warning is an error."""
    command = [sys.executable, "-W", "error", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_examples_lambda() -> None:
    """The handler, as the runtime calls it."""
    handler: Any = load("lambda_handler").handler
    row = handler({"tenant": "t7", "action": "encrypt", "text": "secret"}, None)
    assert {"text": "secret"} == handler({"tenant": "t7", "action": "decrypt", **row}, None)
    wrong = handler({"tenant": "t8", "action": "decrypt", **row}, None)
    assert {"error": "WrongPartitionError"} == wrong


def test_examples_celery() -> None:
    """The task, eager: in this process, without a broker."""
    module = load("celery_app")
    session = module.sessions().session("t7")
    result = module.report.delay("t7", session.encrypt_text("three short words"))
    assert "3 words" == session.decrypt_text(result.get())
    module.close_sessions()


def test_examples_sample(capsys: pytest.CaptureFixture[str]) -> None:
    """Both styles, and what the hooks were told."""
    runpy.run_path(str(EXAMPLES / "sample.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert "another partition: the record belongs to another partition" in said
    assert "a range: 100 of 1000000 bytes" in said
    assert "'encrypt': 2" in said
    assert "('decrypt', 'WrongPartitionError')" in said
