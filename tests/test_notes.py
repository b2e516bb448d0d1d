import json

import pytest

from mmvae.ingest.notes import Note, write_notes


def test_a_note_has_a_code_of_the_closed_list():
    with pytest.raises(ValueError, match="'guess' is none of disagreement, assumed"):
        Note(None, None, "guess", "a sentence")


def test_notes_are_written_once_and_sorted_by_case_and_file(tmp_path):
    late, early = Note("f2", "c2", "assumed", "a unit"), Note("f1", "c1", "disagreement", "two b-values")
    write_notes(tmp_path, [late, early, late])
    lines = [json.loads(line) for line in (tmp_path / "notes.jsonl").read_text().splitlines()]
    assert lines == [
        {"file": "f1", "case": "c1", "code": "disagreement", "reason": "two b-values"},
        {"file": "f2", "case": "c2", "code": "assumed", "reason": "a unit"},
    ]
