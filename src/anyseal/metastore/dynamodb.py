"""A metastore in Amazon DynamoDB (extra ``aws``: aiobotocore).

Each event loop gets a client of its own, on aiohttp under asyncio, on aiobotocore's
``HttpxSession`` elsewhere. Reads are consistent, inserts conditional.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator
from typing import Any, Self

import anyio
import anyio.lowlevel

from anyseal import early, offload
from anyseal.aws.answers import limit_answers
from anyseal.aws.credentials import (
    Credentials,
    are_refused,
    check_client,
    check_session,
    preload,
    remedy,
)
from anyseal.errors import (
    AnysealError,
    ConfigurationError,
    FormatError,
    MetastoreError,
    MissingExtraError,
)
from anyseal.hints import only_async_with
from anyseal.loops import PerLoop
from anyseal.metastore._rules import NO_TABLE, check_storable, decode, is_key_id, is_time
from anyseal.patience import Progress
from anyseal.ports import KeyRecord

try:
    from aiobotocore.config import AioConfig
    from aiobotocore.httpxsession import HttpxSession
    from aiobotocore.session import AioSession
    from botocore import exceptions
except ImportError as _exc:  # pragma: no cover - the extra is missing
    raise MissingExtraError.of("the DynamoDB metastore needs aiobotocore", "anyseal[aws]") from _exc

__all__ = ["DynamoDbMetastore"]

_TAKEN = "ConditionalCheckFailedException"
_RETRYABLE_CODES = frozenset(
    {
        "InternalServerError",
        "LimitExceededException",
        "ProvisionedThroughputExceededException",
        "ReplicatedWriteConflictException",
        "RequestLimitExceeded",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        "TransactionConflictException",
        "TransactionInProgressException",
    }
)
_RETRYABLE_ERRORS = (
    exceptions.ConnectionError,
    exceptions.CredentialRetrievalError,
    exceptions.HTTPClientError,
    exceptions.MetadataRetrievalError,
)
_CLOSE_SECONDS = 5.0
_CREATE_SECONDS = 60
_WHOLE = 1.4
"""Of the timeout: how long all attempts of one call may take."""
_EMPTY_PAGES_MAX = 100_000
"""A scan for a prefix skips 1 MB a page."""
_NOBODY = "_"
"""The id of no key."""


class _Slot:
    """One event loop's client."""

    def __init__(self) -> None:
        self.lock = anyio.Lock()
        self.client: Any = None


class DynamoDbMetastore:
    """Keeps wrapped keys in a table with the hash key ``Id`` and the range key ``Created``.

    Args:
        client: An aiobotocore DynamoDB client, used and not closed. It belongs to one event loop.
        session: An ``AioSession`` to make clients with. Default: a new one, which finds its
            credentials and region the usual ways.
        table: The table's name.
        region: Where the table is. Default: the session's.
        signing_region: If requests must be signed for another region than *region*.
        endpoint_url: Default: the region's.
        region_suffix: Whether ids are to end with the client's region, as a global table needs:
            its regions' inserts do not see each other. Only says so, in ``region_suffix``.
        timeout: Seconds for each attempt, from connecting to the end of the answer; all attempts
            of a call take 1.4 times as long at most.
        attempts: How often a request is sent at most.

    Raises:
        ConfigurationError: Settings contradict each other, or *region_suffix* without a region.

    Nothing is opened before the first call. ``aclose`` closes the client of the event loop that
    it is called in.
    """

    def __init__(
        self,
        *,
        client: Any = None,
        session: Any = None,
        table: str = "EncryptionKey",
        region: str | None = None,
        signing_region: str | None = None,
        endpoint_url: str | None = None,
        region_suffix: bool = False,
        timeout: float = 5.0,
        attempts: int = 3,
    ) -> None:
        if client is not None and any((session, region, signing_region, endpoint_url)):
            raise ConfigurationError("a client brings its own session, region and endpoint")
        if signing_region is not None and region is not None and signing_region != region:
            endpoint_url = endpoint_url or f"https://dynamodb.{region}.amazonaws.com"
        check_session(session)
        if client is not None:
            check_client(
                client, "DynamoDB", "get_item", "leave it out, or pass session= and region="
            )
        early.prepare(*early.AWS)
        self.table = table
        self._client = client
        self._session = session
        self._region = signing_region or region
        self._endpoint_url = endpoint_url
        self._options: dict[str, Any] = {
            "connect_timeout": timeout,
            "read_timeout": timeout,
            "retries": {"total_max_attempts": attempts, "mode": "standard"},
            "warm_up_loader_caches": True,
        }
        self._timeout = timeout
        self._slots = PerLoop(_Slot)
        self._closed = False
        self._suffix: str | None = None
        if region_suffix:
            self._suffix = self._find_region()
            if self._suffix is None:
                raise ConfigurationError("region_suffix needs a region")

    def __repr__(self) -> str:
        return f"DynamoDbMetastore(table={self.table!r}, region_suffix={self._suffix!r})"

    @property
    def region_suffix(self) -> str | None:
        """What ids of system and intermediate keys must end with; None if not asked for."""
        return self._suffix

    # ---- The port ------------------------------------------------------------------------

    async def load(self, key_id: str, created: int) -> KeyRecord | None:
        """The record with exactly this id and time, or None."""
        if not is_time(created) or not is_key_id(key_id):
            return None
        answer = await self._call("GetItem", Key=_key(key_id, created), ConsistentRead=True)
        return _decode(answer["Item"], key_id, created) if "Item" in answer else None

    async def load_latest(self, key_id: str) -> KeyRecord | None:
        """The record with this id and the latest time, or None."""
        if not is_key_id(key_id):
            return None
        answer = await self._call("Query", **_query(key_id), ScanIndexForward=False, Limit=1)
        items = _items("Query", answer)
        return _decode(items[0], key_id) if items else None

    async def load_latest_before(self, key_id: str, created: int) -> KeyRecord | None:
        """The record with this id and the latest time before *created*, or None."""
        if not is_time(created) or not is_key_id(key_id):
            return None
        query = _query(key_id)
        query["KeyConditionExpression"] += " AND Created < :created"
        query["ExpressionAttributeValues"][":created"] = {"N": str(created)}
        answer = await self._call("Query", **query, ScanIndexForward=False, Limit=1)
        return _decode(answer["Items"][0]) if answer["Items"] else None

    async def store(self, record: KeyRecord) -> bool:
        """Insert *record* unless its id and time are taken; whether it was inserted."""
        check_storable(record)
        item = {**_key(record.id, record.created), "KeyRecord": _encode(record)}
        answer = await self._call(
            "PutItem", Item=item, ConditionExpression="attribute_not_exists(Id)"
        )
        return _TAKEN not in answer

    def records(self, key_id_prefix: str = "") -> AsyncGenerator[KeyRecord, None]:
        """All records whose id begins with *key_id_prefix*, in no order of ids, each id's records
        by time. Scans the whole table."""
        request: dict[str, Any] = {"ConsistentRead": True}
        if key_id_prefix:
            request["FilterExpression"] = "begins_with(Id, :prefix)"
            request["ExpressionAttributeValues"] = {":prefix": {"S": key_id_prefix}}
        return self._pages("Scan", request)

    def versions(self, key_id: str) -> AsyncGenerator[KeyRecord, None]:
        """All records with exactly this id, oldest first."""
        return self._pages("Query", _query(key_id) if is_key_id(key_id) else None)

    async def revoke(self, key_id: str, created: int) -> bool:
        """Mark a record as revoked; whether it was there."""
        if not is_time(created) or not is_key_id(key_id):
            return False
        answer = await self._call(
            "UpdateItem",
            Key=_key(key_id, created),
            UpdateExpression="SET KeyRecord.Revoked = :true",
            ConditionExpression="attribute_exists(Id)",
            ExpressionAttributeValues={":true": {"BOOL": True}},
        )
        return _TAKEN not in answer

    async def replace_key(self, record: KeyRecord, key: bytes) -> bool:
        """Put *key* in the place of *record*'s, if it is still there; whether it was."""
        if not is_time(record.created) or not is_key_id(record.id):
            return False
        answer = await self._call(
            "UpdateItem",
            Key=_key(record.id, record.created),
            UpdateExpression="SET KeyRecord.#key = :new",
            ConditionExpression="KeyRecord.#key = :old",
            ExpressionAttributeNames={"#key": "Key"},
            ExpressionAttributeValues={
                ":new": {"S": base64.b64encode(key).decode()},
                ":old": {"S": base64.b64encode(record.key).decode()},
            },
        )
        return _TAKEN not in answer

    async def check_table(self) -> None:
        """Raise MetastoreError if the table is not there. Takes the right to query it, no other."""
        await self._call("Query", **_query(_NOBODY), Limit=1)

    async def delete(self, key_id: str, created: int) -> bool:
        """Delete a record; whether it was there."""
        if not is_time(created) or not is_key_id(key_id):
            return False
        answer = await self._call(
            "DeleteItem", Key=_key(key_id, created), ConditionExpression="attribute_exists(Id)"
        )
        return _TAKEN not in answer

    async def create_table(self) -> None:
        """Create the table, billed by request, if it does not exist; wait until it can be used.

        For tests and first steps: production tables want backups and deletion protection.
        """
        try:
            await self._call(
                "CreateTable",
                AttributeDefinitions=[
                    {"AttributeName": "Id", "AttributeType": "S"},
                    {"AttributeName": "Created", "AttributeType": "N"},
                ],
                KeySchema=[
                    {"AttributeName": "Id", "KeyType": "HASH"},
                    {"AttributeName": "Created", "KeyType": "RANGE"},
                ],
                BillingMode="PAY_PER_REQUEST",
            )
        except MetastoreError as exc:
            if "ResourceInUseException" not in str(exc):
                raise
        for _ in range(_CREATE_SECONDS):
            if (await self._call("DescribeTable"))["Table"]["TableStatus"] == "ACTIVE":
                return
            await anyio.sleep(1)
        raise MetastoreError("CreateTable: DynamoDB: the table is not ready in time")

    async def aclose(self) -> None:
        """Close this event loop's client, unless it was passed. Idempotent."""
        self._closed = True
        slot = self._slots.get()
        if slot.client is None:
            return
        client, slot.client = slot.client, None
        with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
            await client.close()

    # ---- Requests ------------------------------------------------------------------------

    __enter__ = only_async_with

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def _pages(
        self, operation: str, request: dict[str, Any] | None
    ) -> AsyncGenerator[KeyRecord, None]:
        pages = Progress(f"{operation}: DynamoDB", MetastoreError, empty_max=_EMPTY_PAGES_MAX)
        while request is not None:
            answer = await self._call(operation, **request)
            items = _items(operation, answer)
            following = answer.get("LastEvaluatedKey")
            pages.advance(following, found=len(items))
            for item in items:
                if is_key_id(_attribute(item, "Id", "S")):
                    yield _decode(item)
            if following is None:
                return
            request = {**request, "ExclusiveStartKey": following}

    async def _call(self, operation: str, **request: Any) -> dict[str, Any]:
        """The answer, or ``{_TAKEN: True}`` if the request's condition does not hold."""
        client = None
        try:
            client = await self._get_client()
            method = getattr(client, _METHODS[operation])
            with anyio.fail_after(_WHOLE * self._timeout):
                answer: dict[str, Any] = await method(TableName=self.table, **request)
        except TimeoutError as exc:
            raise MetastoreError(
                f"{operation}: DynamoDB: no answer in {self._timeout:g} s"
            ) from exc
        except exceptions.ClientError as exc:
            error = exc.response.get("Error", {})
            code = str(error.get("Code", "unknown"))
            if code == _TAKEN:
                return {_TAKEN: True}
            status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            text = f"{operation}: DynamoDB: {code}: {str(error.get('Message', ''))[:300]}"
            if code == "ResourceNotFoundException":
                text += NO_TABLE
            if are_refused(code):
                text += f" ({remedy(client)})"
            raise MetastoreError(
                text,
                retryable=status >= 500 or code in _RETRYABLE_CODES,
            ) from exc
        except exceptions.BotoCoreError as exc:
            raise MetastoreError(
                f"{operation}: DynamoDB: {type(exc).__name__}",
                retryable=isinstance(exc, _RETRYABLE_ERRORS),
            ) from exc
        except AnysealError:
            raise
        except Exception as exc:  # such as what botocore makes of nonsense
            raise MetastoreError(
                f"{operation}: DynamoDB: {type(exc).__name__}", retryable=isinstance(exc, OSError)
            ) from exc
        return answer

    async def _get_client(self) -> Any:
        if self._closed:
            raise MetastoreError("DynamoDB: the metastore is closed", retryable=False)
        if self._client is not None:
            limit_answers(self._client, lambda _: self._timeout)
            return self._client
        slot = self._slots.get()
        if slot.client is None:
            async with slot.lock:
                if slot.client is None:
                    slot.client = await self._open_client()
        return slot.client

    async def _open_client(self) -> Any:
        session: Any = AioSession() if self._session is None else self._session
        # Reads the configuration files, which create_client would do in the event loop.
        await offload.run_waiting(preload, session)
        try:
            asyncio.get_running_loop()
            config = AioConfig(**self._options)
        except RuntimeError:
            config = AioConfig(http_session_cls=HttpxSession, **self._options)
        client = await session.create_client(
            "dynamodb",
            region_name=self._region,
            endpoint_url=self._endpoint_url,
            config=config,
        ).__aenter__()
        limit_answers(client, lambda _: self._timeout)
        await Credentials(session, given=self._session is not None).watch(client)
        return client

    def _find_region(self) -> str | None:
        found: str | None
        if self._client is not None:
            found = self._client.meta.region_name
        elif self._region is not None:
            found = self._region
        else:
            session = AioSession() if self._session is None else self._session
            found = session.get_config_variable("region")
        return found


_METHODS = {
    "CreateTable": "create_table",
    "DeleteItem": "delete_item",
    "DescribeTable": "describe_table",
    "GetItem": "get_item",
    "PutItem": "put_item",
    "Query": "query",
    "Scan": "scan",
    "UpdateItem": "update_item",
}


def _key(key_id: str, created: int) -> dict[str, Any]:
    return {"Id": {"S": key_id}, "Created": {"N": str(created)}}


def _query(key_id: str) -> dict[str, Any]:
    return {
        "KeyConditionExpression": "Id = :id",
        "ExpressionAttributeValues": {":id": {"S": key_id}},
        "ConsistentRead": True,
    }


def _encode(record: KeyRecord) -> dict[str, Any]:
    fields: dict[str, Any] = {"Revoked": {"BOOL": True}} if record.revoked else {}
    fields["Created"] = {"N": str(record.created)}
    fields["Key"] = {"S": base64.b64encode(record.key).decode()}
    if record.parent_id is not None:
        parent = {"KeyId": {"S": record.parent_id}, "Created": {"N": str(record.parent_created)}}
        fields["ParentKeyMeta"] = {"M": parent}
    return {"M": fields}


def _attribute(attributes: Any, name: str, kind: str) -> Any:
    value = attributes.get(name) if isinstance(attributes, dict) else None
    return value.get(kind) if isinstance(value, dict) else None


def _integer(value: Any) -> Any:
    try:
        return int(value)
    except (TypeError, ValueError):
        return value


def _plain(attributes: dict[str, Any]) -> dict[str, Any]:
    """The attributes as JSON has them; what is of an unknown kind is None."""
    plain: dict[str, Any] = {}
    for name, value in attributes.items():
        kind, content = next(iter(value.items()))
        if kind == "M":
            plain[name] = _plain(content)
        elif kind == "N":
            plain[name] = _integer(content)
        else:
            plain[name] = content if kind in ("S", "BOOL") else None
    return plain


def _items(operation: str, answer: dict[str, Any]) -> list[Any]:
    """The items of a page.

    Raises:
        MetastoreError: It has none, not even an empty list.
    """
    items = answer.get("Items")
    if not isinstance(items, list):
        raise MetastoreError(f"{operation}: DynamoDB: an answer without Items")
    return items


def _decode(item: Any, asked_id: str | None = None, asked_time: int | None = None) -> KeyRecord:
    """The record in *item*, if it is of the key that was asked for.

    Raises:
        FormatError: It is none.
        MetastoreError: It is of another key.
    """
    key_id, created = _attribute(item, "Id", "S"), _integer(_attribute(item, "Created", "N"))
    fields = _attribute(item, "KeyRecord", "M")
    if not isinstance(created, int) or not isinstance(fields, dict) or not is_key_id(key_id):
        raise FormatError(f"key record {key_id!r} of {created}: not a map")
    if asked_id not in (None, key_id) or asked_time not in (None, created):
        raise MetastoreError("DynamoDB: the record of another key", retryable=False)
    try:
        plain = _plain(fields)
    except (AttributeError, TypeError, StopIteration, RecursionError):
        raise FormatError(f"key record {key_id!r} of {created}: not a map") from None
    return decode(key_id, created, plain)
