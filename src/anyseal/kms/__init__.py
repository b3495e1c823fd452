"""Key management services: what wraps the system keys of a key hierarchy.

``FileKms`` and ``StaticKms`` are here at once; the others need an extra (``aws``, ``vault``) and
are loaded on first use. Any object with the two methods of :class:`anyseal.ports.Kms` can stand in
their place.
"""

import typing as _typing
from importlib import import_module as _import_module

from anyseal.kms.file import FileKms
from anyseal.kms.static import StaticKms

if _typing.TYPE_CHECKING:
    from anyseal.kms.aws import AwsKms
    from anyseal.kms.secretsmanager import SecretsManagerKms
    from anyseal.kms.vault import (
        AppRoleAuth,
        CertAuth,
        KubernetesAuth,
        TokenAuth,
        VaultTransitKms,
    )

__all__ = [
    "AppRoleAuth",
    "AwsKms",
    "CertAuth",
    "FileKms",
    "KubernetesAuth",
    "SecretsManagerKms",
    "StaticKms",
    "TokenAuth",
    "VaultTransitKms",
]

_HOMES = {
    "AppRoleAuth": "vault",
    "AwsKms": "aws",
    "CertAuth": "vault",
    "KubernetesAuth": "vault",
    "SecretsManagerKms": "secretsmanager",
    "TokenAuth": "vault",
    "VaultTransitKms": "vault",
}

if not _typing.TYPE_CHECKING:  # `import *` must need no extra
    __all__ = [name for name in __all__ if name not in _HOMES]


if not _typing.TYPE_CHECKING:  # for it, a name that is not there is an error

    def __getattr__(name: str) -> _typing.Any:
        """What needs an extra is loaded on first use."""
        if name in _HOMES:
            return getattr(_import_module(f"anyseal.kms.{_HOMES[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
