"""What identifies somebody is found in a header, leaves a text, and can be had back from the vault alone."""

import datetime
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from mmvae.errors import InputError
from mmvae.identity.headers import identifiers_of
from mmvae.identity.text import (
    clean_text,
    shifted_dates,
    spellings,
    without_identifiers,
    without_naming_lines,
)
from mmvae.identity.vault import Vault, pseudonym


def test_the_room_imports_no_torch():
    code = "import sys, mmvae.identity.vault, mmvae.identity.text, mmvae.identity.headers; print('torch' in sys.modules)"
    for planted, wanted in (("", "False"), ("import torch; ", "True")):
        done = subprocess.run(
            [sys.executable, "-c", planted + code], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == wanted


def test_identifiers_are_found_at_any_depth_and_what_describes_the_picture_is_not_one():
    data, inner = Dataset(), Dataset()
    data.PatientName, data.PatientID, data.SeriesDescription = "Doe^Jane", "P-1234", "Ax T2 TSE for MRN77421"
    data.Manufacturer, data.Rows = "SIEMENS", 256
    inner.RequestingPhysician = "Roe^Richard"
    data.RequestAttributesSequence = Items([inner])
    data.private_block(0x0011, "HOSPITAL", create=True).add_new(1, "UN", b"WARD-17B")
    found = identifiers_of(data)
    assert {"Doe^Jane", "P-1234", "Roe^Richard", "WARD-17B", "MRN77421"} <= found
    assert not {"SIEMENS", "Ax T2 TSE for MRN77421", "T2", "TSE"} & found


def test_a_name_s_parts_leave_in_either_order():
    assert set(spellings("Doe^Jane")) >= {"Doe^Jane", "Doe", "Jane", "Jane Doe"}
    clean = clean_text("Jane Doe, born DOE: a cyst.", spellings("Doe^Jane"), 0)
    assert clean == "[removed], born [removed]: a cyst."


def test_naming_lines_leave_in_english_and_french_and_findings_stay():
    text = "Patient: X\nMédecin : Y\nThe patient has a cyst.\nSigned by: Z\n"
    assert without_naming_lines(text) == "[removed]\n[removed]\nThe patient has a cyst.\n[removed]\n"


def test_dates_keep_their_form_and_their_distances():
    days = Vault(Path("v"), b"k" * 32).shift_days("someone")
    text = shifted_dates("Seen 2020-02-28 and 01.03.2020; 20200301; 31/12/1999.", days)
    found = re.findall(r"\d{4}-\d\d-\d\d|\d\d\.\d\d\.\d{4}|\b\d{8}\b|\d\d/\d\d/\d{4}", text)
    first, second, third, last = (
        datetime.datetime.strptime(t, f)
        for t, f in zip(found, ("%Y-%m-%d", "%d.%m.%Y", "%Y%m%d", "%d/%m/%Y"))
    )
    assert first != datetime.datetime(2020, 2, 28)
    assert (second - first).days == 2
    assert second == third
    assert (first - last).days == (datetime.datetime(2020, 2, 28) - datetime.datetime(1999, 12, 31)).days
    assert shifted_dates("T2 45.12 mm, 12.5 cm, b 1000", days) == "T2 45.12 mm, 12.5 cm, b 1000"


def test_identifiers_leave_a_text_whatever_their_case():
    assert without_identifiers("Doe, Jane: JANE has", ["jane", "Do"]) == "Doe, [removed]: [removed] has"


def test_a_pseudonym_is_the_key_s_and_the_vault_leads_back(tmp_path):
    vault = Vault(tmp_path / "v", b"k" * 32)
    name = vault.file("studies/doe.dcm")
    assert (
        name
        == pseudonym(b"k" * 32, "files", "f", "studies/doe.dcm")
        != Vault(tmp_path, b"l" * 32).file("studies/doe.dcm")
    )
    vault.save()
    assert stat.S_IMODE((tmp_path / "v").stat().st_mode) == 0o700
    again = Vault.open(tmp_path / "v")
    assert again.whereis(name) == "studies/doe.dcm"
    with pytest.raises(InputError, match="knows no file 'f0'"):
        again.whereis("f0")
    with pytest.raises(InputError, match="no vault beside this cohort"):
        Vault.open(tmp_path / "nowhere")
