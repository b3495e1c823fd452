"""The ids of a hierarchy's keys: what they are made of, and whose key an id names."""

from __future__ import annotations

from collections.abc import Sequence

from anyseal.errors import ConfigurationError
from anyseal.keyring.static import partition_bytes

__all__ = ["KeyIds"]


def _check_name(name: str, value: str, allow_ambiguous_ids: bool) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{name} must be a non-empty str")
    if "_" in value and not allow_ambiguous_ids:
        raise ConfigurationError(
            f"{name} {value!r} holds an underscore: two services could then share a key id "
            "(allow_ambiguous_ids=True if existing data needs it)"
        )
    return value


class KeyIds:
    """The key ids of one service and product: ``_SK_service_product`` and
    ``_IK_partition_service_product``, each with a region's suffix where there is one.

    Args:
        service: Without ``_``, see *allow_ambiguous_ids*.
        product: Likewise.
        region_suffix: Ends the ids of new keys.
        recovery_region_suffixes: Other regions whose keys may open this one's records.
        allow_ambiguous_ids: Accept names with ``_``.

    Raises:
        ConfigurationError: A name is empty or ambiguous.
    """

    __slots__ = ("_core", "_suffix", "_suffixes", "system")

    def __init__(
        self,
        service: str,
        product: str,
        *,
        region_suffix: str | None,
        recovery_region_suffixes: Sequence[str],
        allow_ambiguous_ids: bool,
    ) -> None:
        service = _check_name("service", service, allow_ambiguous_ids)
        product = _check_name("product", product, allow_ambiguous_ids)
        self._core = f"_{service}_{product}"
        self._suffix = f"_{region_suffix}" if region_suffix else ""
        others = (f"_{suffix}" for suffix in recovery_region_suffixes)
        self._suffixes = tuple(dict.fromkeys(("", self._suffix, *others)))
        for suffix in filter(None, self._suffixes):
            _check_name("region suffix", suffix[1:], allow_ambiguous_ids)
            if (self._core + suffix).endswith(self._core) and not allow_ambiguous_ids:
                raise ConfigurationError(
                    f"region suffix {suffix[1:]!r} repeats service and product: two partitions "
                    "could then share a key id"
                )
        self.system = f"_SK{self._core}{self._suffix}"
        """The id of new system keys."""

    def intermediate(self, partition: str) -> str:
        """The id of a partition's new intermediate keys."""
        partition_bytes(partition)
        return f"_IK_{partition}{self._core}{self._suffix}"

    def possible(self, partition: str) -> list[str]:
        """The ids that a partition's intermediate keys may have, that of new ones included."""
        partition_bytes(partition)
        core = f"_IK_{partition}{self._core}"
        return [core + suffix for suffix in self._suffixes]

    def owner(self, key_id: str) -> tuple[bool, str | None]:
        """Whether *key_id* is one of these ids, and of which partition (None: a system key)."""
        for suffix in self._suffixes:
            end = self._core + suffix
            if key_id == f"_SK{end}":
                return True, None
            if key_id.startswith("_IK_") and key_id.endswith(end) and len(key_id) > 4 + len(end):
                return True, key_id[4 : -len(end)]
        return False, None
