"""What a missing extra says: at each place that needs one, the same class and the command."""

from __future__ import annotations

import ast
import pickle
from pathlib import Path
from typing import Any

import pytest

import anyseal
from anyseal import errors
from support import run_python, said

ROOT = Path(anyseal.__file__).parent

# What is not installed, and what a user then does.
PLACES = {
    "http": ("httpx", "import anyseal; anyseal.HttpSource"),
    "http-sync": ("httpx", "import anyseal.sync; anyseal.sync.HttpSource"),
    "http-from": ("httpx", "from anyseal import HttpSource"),
    "http-backend": (
        "httpx",
        "from anyseal.cache import backend_from_url; backend_from_url('http://localhost/')",
    ),
    "cache": ("msgspec", "import anyseal.cache"),
    "cache-sync": ("msgspec", "from anyseal.sync import Cache"),
    "breaker": (
        "pybreaker",
        "import anyseal; from anyseal.cache import Cache, MemoryBackend;"
        "Cache(MemoryBackend(), anyseal.StaticKeyring('8f' * 32), namespace='n')",
    ),
    "redis": ("redis", "from anyseal.cache import RedisBackend"),
    "redis-sync": ("redis", "from anyseal.sync import RedisBackend"),
    "redis-url": (
        "redis",
        "from anyseal.cache import backend_from_url; backend_from_url('redis://localhost/')",
    ),
    "memcached": ("pymemcache", "from anyseal.cache import MemcachedBackend"),
    "arrow": ("pyarrow", "from anyseal.cache.codecs import codec_named; codec_named('arrow')"),
    "s3": ("aiobotocore", "from anyseal import s3; s3.connect"),
    "s3-sync": ("aiobotocore", "from anyseal.sync import SealedBucket"),
    "aws-kms": ("aiobotocore", "from anyseal.kms import AwsKms"),
    "secrets-manager": ("aiobotocore", "from anyseal.kms import SecretsManagerKms"),
    "vault": ("httpx", "from anyseal.kms import VaultTransitKms"),
    "retries": ("stamina", "from anyseal.kms import VaultTransitKms"),
    "sql": ("sqlalchemy", "from anyseal.metastore import SqlMetastore"),
    "sql-driver": (
        "psycopg",
        "from anyseal.metastore import SqlMetastore; SqlMetastore('postgresql://localhost/x')",
    ),
    "dynamodb": ("aiobotocore", "from anyseal.metastore import DynamoDbMetastore"),
    "prometheus": (
        "prometheus_client",
        "from anyseal.telemetry import PrometheusMetrics; PrometheusMetrics()",
    ),
    "opentelemetry": (
        "opentelemetry",
        "from anyseal.telemetry import OpenTelemetryMetrics; OpenTelemetryMetrics()",
    ),
    "lenzeye": ("sqlalchemy", "from anyseal.compat.lenzeye.sql import SqlUserKeyTable"),
    "cachekit": (
        "blake3",
        "from anyseal.compat.cachekit import extras; extras.extra('blake3')",
    ),
    "asherah": (
        "sqlalchemy",
        "from anyseal.compat import asherah; asherah.setup(asherah.AsherahConfig("
        "service_name='s', product_id='p', kms='static', metastore='rdbms',"
        "connection_string='sqlite:///x.db'))",
    ),
}  # fmt: skip


def test_missing_extra_is_both_errors_and_says_the_command() -> None:
    """``except ImportError`` is how programs ask whether an optional part is there; the settings
    of a service are checked by ``except ConfigurationError``. Either must catch it, in every place
    that needs an extra. One child per place would take long: they are forked."""
    code = f"""
        import os, sys, warnings
        import anyseal; anyseal.Key  # once for all
        warnings.simplefilter("ignore")
        for name, (package, use) in {PLACES!r}.items():
            sys.stdout.flush()
            if os.fork():  # all at once
                continue
            sys.modules[package] = None
            try:
                exec(use)
            except ImportError as error:
                from anyseal import errors
                kinds = isinstance(error, errors.ConfigurationError), hasattr(error, "name")
                told = "pip install" in str(error) and "\\n" not in str(error)
                line = f"{{name}} {{kinds[0]}} {{kinds[1]}} {{told or error}}"
            except BaseException as error:
                line = f"{{name}} {{type(error).__name__}} {{error}}"
            else:
                line = f"{{name}} nothing was raised"
            os.write(1, (line + "\\n").encode())  # at once: lines of several must not mix
            os._exit(0)
        for _ in {PLACES!r}:
            os.wait()
    """
    found = {line.split()[0]: line.split(" ", 1)[1].strip() for line in said(run_python(code))}
    assert dict.fromkeys(PLACES, "True True True") == found


def _handlers() -> Any:
    """Every ``except ImportError`` of the package that raises something."""
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ExceptHandler) and node.type is not None:
                caught = ast.unparse(node.type)
                if "ImportError" in caught or "ModuleNotFoundError" in caught:
                    for inner in ast.walk(node):
                        if isinstance(inner, ast.Raise) and inner.exc is not None:
                            yield f"{path.relative_to(ROOT)}:{inner.lineno}", ast.unparse(inner.exc)


def test_missing_extra_has_one_way_to_be_told() -> None:
    """A new optional package is told of as the others are."""
    found = dict(_handlers())
    assert len(found) >= 20
    assert {} == {at: how for at, how in found.items() if "MissingExtraError.of(" not in how}
    told = [
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        if "pip install 'anyseal" in path.read_text("utf-8") and path.name != "__main__.py"
    ]
    assert [] == told


def test_missing_extra_survives_a_pickle() -> None:
    """Process pools send errors back to their parent."""
    error = errors.MissingExtraError.of("S3 needs aiobotocore", "anyseal[aws]")
    back = pickle.loads(pickle.dumps(error))
    assert "S3 needs aiobotocore: pip install 'anyseal[aws]'" == str(error) == str(back)
    assert type(error) is type(back)
    assert not error.retryable
    with pytest.raises(ImportError):
        raise back
