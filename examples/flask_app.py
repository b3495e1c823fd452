"""Flask: encrypted notes, a key per tenant, without an event loop.

Run: pip install flask && flask --app flask_app run
"""

import os
import secrets

from flask import Flask, abort, current_app, request

from anyseal.sync import Session, SessionFactory

SETTINGS = os.environ.get("SETTINGS") or {  # a settings file, or keys that end with the process
    "ServiceName": "notes",
    "ProductID": "examples",
    "Metastore": "memory",
    "KMS": "static",
    "StaticMasterKeyHex": secrets.token_hex(32),
}


def get_session() -> Session:
    tenant = request.headers.get("X-Tenant")  # a real service authenticates it
    if not tenant:
        abort(401)
    return current_app.extensions["anyseal"].session(tenant)


def create_app() -> Flask:
    app = Flask(__name__)
    factory = SessionFactory.from_config(SETTINGS)
    app.extensions["anyseal"] = factory  # one for all threads; wiped at exit
    notes: dict[tuple[str, str], str] = {}  # stands for a database

    @app.put("/notes/<name>")
    def put_note(name: str) -> tuple[str, int]:
        session = get_session()
        notes[session.partition, name] = session.encrypt(request.get_data())
        return "", 204

    @app.get("/notes/<name>")
    def get_note(name: str) -> str:
        session = get_session()
        if (row := notes.get((session.partition, name))) is None:
            abort(404)
        return session.decrypt_text(row)

    return app
