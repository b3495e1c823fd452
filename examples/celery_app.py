"""Celery: arguments and results travel through the broker encrypted; workers decrypt them.

Run: pip install celery && celery -A celery_app worker
"""

import functools
import os
import secrets

from celery import Celery
from celery.signals import worker_process_shutdown

from anyseal import AnysealError
from anyseal.sync import SessionFactory

SETTINGS = os.environ.get("SETTINGS") or {  # a settings file, or keys that end with the process
    "ServiceName": "reports",
    "ProductID": "examples",
    "Metastore": "memory",
    "KMS": "static",
    "StaticMasterKeyHex": secrets.token_hex(32),
}
app = Celery("reports", broker=os.environ.get("BROKER_URL"))
app.conf.task_always_eager = "BROKER_URL" not in os.environ


@functools.cache
def sessions() -> SessionFactory:
    """One for the process, made on first use: so each worker has its own."""
    return SessionFactory.from_config(SETTINGS)


@worker_process_shutdown.connect
def close_sessions(**kwargs: object) -> None:
    if sessions.cache_info().currsize:
        sessions().close()


@app.task(bind=True, max_retries=5)
def report(self, tenant: str, row: str) -> str:
    """Make a report of *row*'s text, for *tenant*; both ways encrypted."""
    session = sessions().session(tenant)
    try:
        text = session.decrypt_text(row)
        return session.encrypt_text(f"{len(text.split())} words")
    except AnysealError as error:
        if error.retryable:  # metastore or KMS did not answer
            raise self.retry(exc=error, countdown=2**self.request.retries) from error
        raise


if __name__ == "__main__":
    session = sessions().session("t7")
    result = report.delay("t7", session.encrypt_text("a text of six words, encrypted"))
    print(session.decrypt_text(result.get()))
