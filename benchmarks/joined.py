"""tcga_lgg with glioma_radiomics' four tables for the patients that both have, joined on the TCGA barcode."""

import csv
from pathlib import Path

import yaml

SEQUENCES = ("T1", "T1Gd", "T2", "FLAIR")


def write_source(data: Path, map_of_images: Path, out: Path) -> int:
    """Writes `table.csv` and `map.yaml` to `out` and gives the number of patients that have both; images stay where they are.

    The map is that of the images, with every radiomic feature of a sequence as a further field of the record.
    """
    barcode = lambda text: text.replace("-", "_")  # noqa: E731
    with (data / "glioma_radiomics" / "radiomics.csv").open(newline="", encoding="utf-8") as stream:
        features = {barcode(row["ID"]): row for row in csv.DictReader(stream)}
    with (data / "tcga_lgg_mri" / "clinical.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    columns = [c for c in next(iter(features.values())) if set(c.split("_")) & set(SEQUENCES)]
    out.mkdir(parents=True)
    with (out / "table.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, [*rows[0], *columns], extrasaction="ignore", restval="")
        table.writeheader()
        table.writerows({**features.get(row["patient"], {}), **row} for row in rows)
    mapping = yaml.safe_load(map_of_images.read_text())
    mapping["name"] = "glioma_joined"
    mapping["record"] |= {column: column for column in columns}
    (out / "map.yaml").write_text(yaml.safe_dump(mapping, sort_keys=False))
    return len({row["patient"] for row in rows} & set(features))
