"""Keyrings: where the keys of a partition come from."""

from anyseal.keyring.passphrase import PassphraseKeyring
from anyseal.keyring.static import StaticKeyring

__all__ = ["PassphraseKeyring", "StaticKeyring"]
