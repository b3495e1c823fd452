"""AWS Lambda: encrypt and decrypt, with keys that stay warm between invocations.

Handler: lambda_handler.handler. The function's environment configures it: see docs/aws.md.
"""

import os
import secrets
from typing import Any

from anyseal import AnysealError
from anyseal.sync import SessionFactory

IN_MEMORY = {  # for trying out: these keys end with the process
    "ServiceName": "notes",
    "ProductID": "examples",
    "Metastore": "memory",
    "KMS": "static",
    "StaticMasterKeyHex": secrets.token_hex(32),
}

# Made once for each instance of the function, outside the handler. It connects on first use;
# later invocations find their keys warm, and ask neither KMS nor DynamoDB. The sync face keeps
# its one event loop in a thread, which a loop per invocation (asyncio.run) would not do.
if "SERVICE_NAME" in os.environ:
    sessions = SessionFactory.from_env()
else:
    sessions = SessionFactory.from_config(IN_MEMORY)


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    session = sessions.session(event["tenant"])
    try:
        if event["action"] == "encrypt":
            return {"row": session.encrypt_text(event["text"])}
        return {"text": session.decrypt_text(event["row"])}
    except AnysealError as error:
        if error.retryable:
            raise  # let Lambda, or the queue before it, try again
        return {"error": type(error).__name__}


if __name__ == "__main__":
    answer = handler({"tenant": "t7", "action": "encrypt", "text": "secret"}, None)
    print(handler({"tenant": "t7", "action": "decrypt", **answer}, None))
