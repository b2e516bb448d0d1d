"""Reports hold to the contract; long ones keep their impression; nothing asks the network."""

import socket

import pytest
import torch
from mmvae_report import Report, sentences_of

from mmvae.case import Asset, InputError, View
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
