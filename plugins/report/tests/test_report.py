"""Reports hold to the contract; long ones keep their impression; nothing asks the network."""

import contextlib
import json
import os
import pickle
import shutil
import socket
import sys

import numpy as np
import pytest
import torch
from mmvae_report import Report, sentences_of, text_model
from mmvae_report.text_model import PACKAGED, _folder_of, load
from scipy import stats

from mmvae.case import Asset, Card, View
from mmvae.errors import InputError
from mmvae.modality import Modality, TrainingViews
from mmvae.plain import from_plain
from mmvae.testing import CHECKS, Subject

TEXTS = [
    "There is a cyst. No solid tissue.",
    "Solid mass of the left adnexa; ascites is present.",
    "No ascites.\nImpression: fibroma is favoured.",
    "Multilocular lesion with thin septa. Fat is present.",
]


def views_of(folder):
    folder = folder / "DOE^JANE"
    folder.mkdir(exist_ok=True)
    made = []
    for number, text in enumerate(TEXTS):
        (folder / f"{number}.txt").write_text(text)
        made.append(View(folder, (Asset("text", f"{number}.txt", str(number), "report"),)))
    return made


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conforms(check, tmp_path):
    views = views_of(tmp_path)
    check(Subject(Report(), views[:3], views[3:], identifiers=("DOE^JANE", "JANE")))


def test_embeds_with_every_socket_blocked(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(AssertionError, match="network was asked"):
        socket.create_connection(("127.0.0.1", 9))
    (tmp_path / "new.txt").write_text("A sentence that no other test embeds, about sockets.")
    assert bool(Report().read(View(tmp_path, (Asset("text", "new.txt", "0"),))).mask)


def test_the_impression_after_300_words_still_counts(tmp_path):
    filler = "The uterus is of normal size and signal. " * 45
    for name, end in (
        ("a", "Impression: endometrioma."),
        ("b", "Impression: invasive carcinoma with ascites."),
    ):
        (tmp_path / f"{name}.txt").write_text(filler + end)
    a, b = (Report().read(View(tmp_path, (Asset("text", f"{n}.txt", n),))).value for n in "ab")
    assert not torch.allclose(a, b, atol=1e-3)


def test_sentences_split_at_stops_lines_and_length():
    assert sentences_of("One. Two;\nthree") == ["One.", "Two;", "three"]
    assert max(len(part.split()) for part in sentences_of("word " * 500)) <= 120


def test_an_unknown_model_is_named(tmp_path):
    (tmp_path / "0.txt").write_text("Text.")
    with pytest.raises(InputError, match="'no/such-model'"):
        Report(model="no/such-model").read(View(tmp_path, (Asset("text", "0.txt", "0"),)))


def test_the_decoder_scores_by_the_training_reports_mean_and_deviation(tmp_path):
    views = views_of(tmp_path)
    fitted = Report().fitted(TrainingViews(Card("c", "texts"), views[:3]))
    texts = np.stack([Report().read(view).value.numpy() for view in views[:3]])
    assert np.allclose(fitted.mean, texts.mean(0), atol=1e-6)
    assert fitted.std == pytest.approx((texts - texts.mean(0)).std(), rel=1e-5)
    decoder = fitted.decoder(5)
    z = torch.zeros(1, 5)  # the bias begins at 0: nothing is known, the mean is expected
    value = Report().read(views[3]).value
    oracle = stats.norm.logpdf(value.numpy(), texts.mean(0), 0.6 * fitted.std).sum()
    assert float(decoder(z).log_prob(value[None])[0].detach()) == pytest.approx(float(oracle), rel=1e-5)


def test_a_recipe_of_release_0_1_loads_by_the_old_names_of_fields():
    plain = {
        "class_path": "mmvae_report.Report",
        "init_args": {"dim": 2, "usual": [0.5, 1.0], "deviation": 2.0},
    }
    assert from_plain(plain, Modality) == Report(dim=2, mean=(0.5, 1.0), std=2.0)


def test_one_text_throughout_deviates_from_nothing_and_still_has_a_decoder(tmp_path):
    views = views_of(tmp_path)
    for training in ([], views[:1] * 3):
        fitted = Report().fitted(TrainingViews(Card("c", "texts"), training))
        assert torch.isfinite(
            fitted.decoder(5)(torch.zeros(1, 5)).log_prob(Report().read(views[1]).value)
        ).all()


# ---- a folder that a stranger sends -------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A copy of the packaged model."""
    return shutil.copytree(_folder_of(PACKAGED), tmp_path / "model")


def change(path, edit):
    plain = json.loads(path.read_text()) if path.exists() else {}
    edit(plain)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(plain))


def test_the_folder_itself_loads(folder):
    assert len(load(str(folder)).encode(["Cyst."])[0]) == 384


def test_a_class_of_the_sender_s_is_not_imported(folder, tmp_path, monkeypatch):
    """The planted class would be imported: the same name, asked for by hand, leaves its mark."""
    (tmp_path / "sender_module.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'marker')!r}).touch()\nclass Layer: pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    __import__("sender_module")
    assert (tmp_path / "marker").exists()
    (tmp_path / "marker").unlink()
    del sys.modules["sender_module"]
    change(folder / "modules.json", lambda modules: modules[2].update(type="sender_module.Layer"))
    with pytest.raises(InputError, match=r"modules.json names 'sender_module.Layer'"):
        load(str(folder))
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("file", "edit", "message"),
    [
        ("modules.json", lambda m: m[2].update(type="sentence_transformers.models.Router"), "models.Router"),
        ("modules.json", lambda m: m[1].update(path="../elsewhere"), "outside the folder"),
        ("config.json", lambda c: c.update(auto_map={"AutoModel": "sender.Model"}), "auto_map"),
        (
            "sentence_bert_config.json",
            lambda c: c.update(model_args={"trust_remote_code": True}),
            "trust_remote_code",
        ),
        ("adapter_config.json", lambda c: c.update(base_model_name_or_path="x"), "an adapter"),
    ],
)
def test_a_folder_that_asks_for_code_is_refused(folder, file, edit, message):
    change(folder / file, edit)
    with pytest.raises(InputError, match=message):
        load(str(folder))


def test_an_activation_is_torch_s_own(folder):
    change(folder / "2_Dense/config.json", lambda c: c.update(activation_function="os.system"))
    change(
        folder / "modules.json",
        lambda m: m.append({"idx": 3, "path": "2_Dense", "type": "sentence_transformers.models.Dense"}),
    )
    with pytest.raises(InputError, match=r"activation 'os\.system'"):
        load(str(folder))


def test_pickled_weights_are_refused(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    with pytest.raises(InputError, match=r"pytorch_model.bin is a pickle"):
        load(str(folder))


class Touch:
    """Pickled, it touches a file when it is read."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def shards(folder, tmp_path):
    """A folder whose list of weight files names a pickle, which leaves a mark when it is read."""
    (folder / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(1), "b": Touch(tmp_path / "marker")}, folder / "weights.dat")
    change(
        folder / "model.safetensors.index.json",
        lambda c: c.update(metadata={}, weight_map={"a": "weights.dat"}),
    )
    return folder


def ask_for_pickles(folder):
    change(folder / "sentence_bert_config.json", lambda c: c.update(model_args={"weights_only": False}))


def test_a_configuration_cannot_ask_for_pickles(folder, shards, tmp_path):
    """Without the refusal the library does what the configuration says."""
    from sentence_transformers import SentenceTransformer

    ask_for_pickles(folder)
    with contextlib.suppress(Exception):
        SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    assert (tmp_path / "marker").exists()
    (tmp_path / "marker").unlink()
    with pytest.raises(InputError, match="model_args"):
        load(str(folder))
    assert not (tmp_path / "marker").exists()


def test_a_list_of_weights_names_safetensors_only(shards, tmp_path):
    with pytest.raises(InputError, match=r"names 'weights\.dat' as weights"):
        load(str(shards))
    assert not (tmp_path / "marker").exists()


def test_what_is_handed_on_is_not_all_that_keeps_pickles_out(folder, shards, tmp_path, monkeypatch):
    ask_for_pickles(folder)
    monkeypatch.setattr(text_model, "refuse_code", lambda folder: None)
    with pytest.raises(InputError, match="cannot be read"):
        load(str(folder))
    assert not (tmp_path / "marker").exists()
