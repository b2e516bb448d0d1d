"""Reports hold to the contract; long ones keep their impression; nothing asks the network."""

import socket

import numpy as np
import pytest
import torch
from mmvae_report import Report, sentences_of

from mmvae.case import Asset, Card, InputError, View
from mmvae.modality import TrainingViews
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


def fitted_on(views, **settings):
    return Report(**settings).fitted(TrainingViews(Card("c", "table"), tuple(views)))


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
    fitted = fitted_on(views_of(tmp_path))
    assert bool(fitted.read(View(tmp_path, (Asset("text", "new.txt", "0"),))).mask)


def test_the_impression_after_300_words_still_counts(tmp_path):
    filler = "The uterus is of normal size and signal. " * 45
    for name, end in (
        ("a", "Impression: endometrioma."),
        ("b", "Impression: invasive carcinoma with ascites."),
    ):
        (tmp_path / f"{name}.txt").write_text(filler + end)
    fitted = fitted_on(views_of(tmp_path))
    a, b = (fitted.read(View(tmp_path, (Asset("text", f"{n}.txt", n),))).value for n in "ab")
    assert not torch.allclose(a, b, atol=1e-3)


def test_sentences_split_at_stops_lines_and_length():
    assert sentences_of("One. Two;\nthree") == ["One.", "Two;", "three"]
    assert max(len(part.split()) for part in sentences_of("word " * 500)) <= 120


def test_an_unknown_model_is_named(tmp_path):
    (tmp_path / "0.txt").write_text("Text.")
    with pytest.raises(InputError, match="'no/such-model'"):
        fitted_on([View(tmp_path, (Asset("text", "0.txt", "0"),))], model="no/such-model")


def test_training_reports_are_white_by_numpy_and_none_takes_more_than_a_quarter_as_many_directions(tmp_path):
    words = ["cyst", "solid mass", "ascites", "fat", "septa", "papillae", "haemorrhage", "nodules"]
    views = []
    for n in range(40):
        said = [f"{'There is' if n >> k & 1 else 'No'} {word}." for k, word in enumerate(words)]
        (tmp_path / f"{n}.txt").write_text(" ".join(said[n % 3 :]))
        views.append(View(tmp_path, (Asset("text", f"{n}.txt", str(n)),)))
    fitted = fitted_on(views)
    table = torch.stack([fitted.read(view).value for view in views]).double().numpy()
    assert table.shape == (40, 10)
    np.testing.assert_allclose(table.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(np.cov(table.T, bias=True), np.eye(10), atol=5e-3)
