"""The Amazon S3 Encryption Client in its own environment: puts and gets when told to on stdin.

Run by ``bench.s3`` as ``s3_rival.py URL BUCKET SIZE``; each line on stdin is ``put`` or ``get``,
each line on stdout the seconds that it took. Data keys come from this process: no request to a KMS
is in its times. It puts by one request or in parts, whichever was faster at the start.
"""

import io
import os
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

import boto3
from botocore.config import Config
from s3_encryption import S3EncryptionClient, S3EncryptionClientConfig
from s3_encryption.materials.kms_keyring import KmsKeyring

MIB = 1 << 20


class LocalKms:
    """What the rival asks of a KMS client, without a service."""

    def __init__(self, other: Any) -> None:
        self._keys: dict[bytes, bytes] = {}
        self.meta = other.meta  # where the rival hangs its name for the user agent

    def generate_data_key(self, **_: Any) -> dict[str, bytes]:
        key, blob = os.urandom(32), os.urandom(48)
        self._keys[blob] = key
        return {"Plaintext": key, "CiphertextBlob": blob}

    def decrypt(self, **parameters: Any) -> dict[str, bytes]:
        return {"Plaintext": self._keys[parameters["CiphertextBlob"]]}


def timed(call: Callable[[], object]) -> float:
    started = perf_counter()
    call()
    return perf_counter() - started


def main() -> None:
    """Answer until stdin ends."""
    url, bucket, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
    plain = boto3.client(
        "s3", region_name="us-east-1", endpoint_url=url,
        aws_access_key_id="testkey", aws_secret_access_key="testsecret",
        config=Config(
            s3={"addressing_style": "path", "payload_signing_enabled": False},
            request_checksum_calculation="when_required", max_pool_connections=16,
        ),
    )  # fmt: skip
    kms = boto3.client(
        "kms", region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s"
    )
    client = S3EncryptionClient(
        plain, S3EncryptionClientConfig(KmsKeyring(LocalKms(kms), "arn:aws:kms:us-east-1:0:key/k"))
    )
    data = os.urandom(16 * MIB) * (size // (16 * MIB))

    def put_object() -> None:
        client.put_object(Bucket=bucket, Key="theirs", Body=data)

    def upload() -> None:
        client.upload_fileobj(io.BytesIO(data), bucket, "theirs")

    def get() -> None:
        found = client.get_object(Bucket=bucket, Key="theirs")["Body"].read()
        assert len(found) == len(data)

    put = min((put_object, upload), key=timed)
    verbs = {"put": put, "get": get}
    print(put.__name__, flush=True)
    for line in sys.stdin:
        print(timed(verbs[line.strip()]), flush=True)


if __name__ == "__main__":
    main()
