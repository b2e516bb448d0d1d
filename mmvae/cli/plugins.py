"""`mmvae modalities|new-modality|doctor`: lists plugins, creates one, and checks the installation."""

from argparse import Namespace
from pathlib import Path

from mmvae.cli.commands import Commands


def add_to(commands: Commands) -> None:
    """Adds the commands of this file."""
    p = commands.add("doctor", _doctor, "what this machine lacks, each with its remedy")
    p.add_argument("--index", type=Path, help="an index whose file system is checked")

    commands.add("modalities", _modalities, "installed modalities; imports none of them")
    p = commands.add("new-modality", _new_modality, "a new plugin that already passes the conformance checks")
    p.add_argument("name", help="lower-case letters, digits and _")
    p.add_argument("--out", type=Path, required=True, help="folder that does not exist yet")


def _modalities(a: Namespace) -> int:
    from mmvae.discovery import installed

    for plugin in installed().values():
        print(f"{plugin.name:<12} {plugin.path:<32} {plugin.distribution:<18} {plugin.version}")
    return 0


def _new_modality(a: Namespace) -> int:
    from mmvae.testing.scaffold import write_plugin

    print(
        f"wrote {write_plugin(a.name, a.out)}; install it with `pip install -e` and run its test with pytest"
    )
    return 0


def _doctor(a: Namespace) -> int:
    from mmvae.cli.doctor import examine

    for finding in examine(a.index):
        print(
            f"{'ok   ' if finding.well else 'LACKS'}  {finding.what}: {finding.found}"
            + (f" → {finding.remedy}" if finding.remedy else "")
        )
    return 0
