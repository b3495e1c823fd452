"""Keyrings: where the keys of a partition come from."""

from anyseal.keyring.hierarchy import KeyHierarchy
from anyseal.keyring.lifecycle import KeyAdmin, KeyStatus, RewrapReport, ShredReport
from anyseal.keyring.passphrase import PassphraseKeyring
from anyseal.keyring.static import StaticKeyring

__all__ = [
    "KeyAdmin",
    "KeyHierarchy",
    "KeyStatus",
    "PassphraseKeyring",
    "RewrapReport",
    "ShredReport",
    "StaticKeyring",
]
