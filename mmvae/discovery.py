"""Finds the installed modality plugins by entry point; listing them imports none of them."""

from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from mmvae.errors import InputError
from mmvae.plain import PLUGINS

if TYPE_CHECKING:  # the contract imports torch, which listing names does not need
    from mmvae.modality import Modality


@dataclass(frozen=True)
class Plugin:
    """One registered modality: its name (the kind), class path, distribution and version."""

    name: str
    path: str
    distribution: str
    version: str
    entry_point: EntryPoint

    def load(self) -> "type[Modality]":
        """The class; imports the plugin."""
        from mmvae.modality import Modality

        cls = self.entry_point.load()
        if not (isinstance(cls, type) and issubclass(cls, Modality)):
            raise InputError(
                f"{self.distribution} registers {self.name!r} as {self.path}, which is not a subclass of mmvae.modality.Modality"
            )
        return cls


@cache
def installed() -> dict[str, Plugin]:
    """Every registered modality by name.

    Raises:
        InputError: if two distributions claim one name.

    >>> all(plugin.name == name for name, plugin in installed().items())
    True
    """
    plugins: dict[str, Plugin] = {}
    found = [(point, point.dist) for point in entry_points(group=PLUGINS)]
    for point, dist in sorted(found, key=lambda p: (p[0].name, p[1].name if p[1] else "")):
        plugin = Plugin(
            point.name, point.value, dist.name if dist else "", dist.version if dist else "", point
        )
        other = plugins.setdefault(point.name, plugin)
        if (other.distribution, other.path) != (plugin.distribution, plugin.path):
            raise InputError(
                f"two installed distributions register the modality {point.name!r}: {other.distribution} ({other.path}) "
                f"and {plugin.distribution} ({plugin.path}). Uninstall one of the two."
            )
    return plugins


def load_all() -> "dict[str, type[Modality]]":
    """Every registered class by kind, imported."""
    return {name: plugin.load() for name, plugin in installed().items()}


def _plugin_of(recipe: "Modality") -> Plugin | None:
    path = f"{type(recipe).__module__}:{type(recipe).__qualname__}"
    return next((plugin for plugin in installed().values() if plugin.path == path), None)


def kind_of(recipe: "Modality", role: str) -> str:
    """The kind whose assets a role sees: its class's entry-point name, or the role's name for a class without one."""
    plugin = _plugin_of(recipe)
    return plugin.name if plugin else role


def origin_of(recipe: "Modality") -> dict[str, str]:
    """Distribution and version of a recipe's class, for checkpoints and indexes; empty if it is not registered."""
    plugin = _plugin_of(recipe)
    return {"distribution": plugin.distribution, "version": plugin.version} if plugin else {}
