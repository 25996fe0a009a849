"""Progress bars and the names of devices."""

import sys

import pytest
import torch

from nst_helpers.files.progress import device_name, progress_bar


def run(show, capsys):
    with progress_bar(show, total=2, unit="step", mininterval=0) as bar:
        bar.update(2)
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_it_is_written_to_standard_output_and_erased(capsys):
    written = run(True, capsys)
    assert "step/s" in written
    assert written.rpartition("\r")[0].endswith(" ")  # the line is overwritten with spaces


@pytest.mark.parametrize("show", [False, None])
def test_it_is_hidden_where_nobody_sees_it(show, capsys):
    assert run(show, capsys) == ""


def test_a_terminal_shows_it(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert "step/s" in run(None, capsys)


def test_device_names(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert device_name(torch.device("cpu")) == "the CPU (1 thread)"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert device_name(torch.device("cpu")) == "the CPU (2 threads)"
    assert device_name(torch.device("mps")) == "Apple's GPU (MPS)"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA T4")
    assert device_name(torch.device("cuda")) == "NVIDIA T4"
