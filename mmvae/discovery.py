"""Entry points to names: nothing is imported to list the installed modalities."""

from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from mmvae.case import InputError
from mmvae.modality import Modality

GROUP = "mmvae.modalities"


@dataclass(frozen=True)
class Installed:
    """One registered modality: its name (the kind), class, distribution and version."""

    name: str
    path: str
    distribution: str
    version: str
    entry_point: EntryPoint

    def load(self) -> type[Modality]:
        """The class; imports the plugin."""
        cls = self.entry_point.load()
        if not (isinstance(cls, type) and issubclass(cls, Modality)):
            raise InputError(
                f"{self.distribution} registers {self.name!r} as {self.path}, which is no subclass of mmvae.modality.Modality"
            )
        return cls


@cache
def installed() -> dict[str, Installed]:
    """Every registered modality by name.

    Raises:
        InputError: if two distributions claim one name.
    """
    found: dict[str, Installed] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda p: (p.name, p.dist.name)):
        one = Installed(point.name, point.value, point.dist.name, point.dist.version, point)
        other = found.setdefault(point.name, one)
        if (other.distribution, other.path) != (one.distribution, one.path):
            raise InputError(
                f"two installed distributions register the modality {point.name!r}: {other.distribution} ({other.path}) "
                f"and {one.distribution} ({one.path}). Uninstall one of the two."
            )
    return found


def load_all() -> dict[str, type[Modality]]:
    """Every registered class by kind, imported."""
    return {name: one.load() for name, one in installed().items()}


def _registered(recipe: Modality) -> Installed | None:
    path = f"{type(recipe).__module__}:{type(recipe).__qualname__}"
    return next((one for one in installed().values() if one.path == path), None)


def kind_of(recipe: Modality, role: str) -> str:
    """The kind whose assets a role sees: its class's entry-point name, or the role's name for a class without one."""
    registered = _registered(recipe)
    return registered.name if registered else role


def origin_of(recipe: Modality) -> dict[str, str]:
    """Distribution and version of a recipe's class, for checkpoints and indexes; empty where it is not registered."""
    registered = _registered(recipe)
    return {"distribution": registered.distribution, "version": registered.version} if registered else {}
