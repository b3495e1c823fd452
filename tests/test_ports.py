"""What is taken for a port."""

from __future__ import annotations

from typing import Any

import pytest

from anyseal import MemorySink, MemorySource, StaticKeyring, ports
from anyseal.cache import Cache, MemoryBackend, codecs
from anyseal.cache.backends.memory import BlockingMemoryBackend
from anyseal.kms import StaticKms
from anyseal.metastore import MemoryMetastore
from support import pattern

KMS, KEYRING = StaticKms("07" * 32), StaticKeyring(pattern(32))


class Passed:
    """A wrapper that passes everything on, as those of tracing libraries do."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


PORTS = [
    (ports.Backend, MemoryBackend()),
    (ports.LeasingBackend, MemoryBackend()),
    (ports.RangedBackend, MemoryBackend()),
    (ports.BlockingBackend, BlockingMemoryBackend()),
    (ports.BlockingSource, MemorySource(b"")),
    (ports.BlockingSink, MemorySink()),
    (ports.Kms, KMS),
    (ports.Metastore, MemoryMetastore()),
    (ports.MetastoreAdmin, MemoryMetastore()),
    (ports.Keyring, KEYRING),
    (ports.LocalKeyring, KEYRING),
    (ports.NamingKeyring, KEYRING),
    (codecs.Codec, codecs.MessagePackCodec()),
]


@pytest.mark.parametrize(("port", "thing"), PORTS, ids=[port.__name__ for port, _ in PORTS])
def test_port_is_what_passes_its_calls_on(port: Any, thing: Any) -> None:
    """Python 3.12 and newer do not ask ``__getattr__``; a wrapper that 3.11 takes was refused."""
    assert isinstance(thing, port)
    assert isinstance(Passed(thing), port)
    assert not isinstance(Passed(object()), port)


def test_port_without_a_method_is_refused() -> None:
    """A method that is set to None is how a class says that it has none."""
    wrapper = Passed(MemoryBackend())
    wrapper.set = None
    assert not isinstance(wrapper, ports.Backend)
    with pytest.raises(TypeError, match="Passed is not an async backend"):
        Cache(wrapper, KEYRING)  # type: ignore[arg-type]
