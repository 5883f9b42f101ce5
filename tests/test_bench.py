"""A measurement that waits for a GPU works before there is one."""

import json

import pytest

from bench import __main__, gpu


def test_a_gpu_is_measured_where_there_is_none(capsys):
    options = "--device cpu --seconds 0.1 --size 32 --batch 4 --tiles 24 --ways disk --cache"
    assert gpu.main([*options.split(), "--networks", "simple_cnn"]) == 0
    out = capsys.readouterr().out.splitlines()
    figures = json.loads(out[-1])["figures"]
    assert [(one["network"], one["way"]) for one in figures] == [
        ("simple_cnn", "step"),
        ("simple_cnn", "disk"),
    ]
    assert all(one["rate"] > 0 for one in figures)
    assert [line.split()[1] for line in out if line.startswith("simple_cnn")] == ["step", "disk"]


def test_every_measurement_says_what_it_measures(capsys, monkeypatch):
    for name in __main__.NAMES:
        monkeypatch.setattr("sys.argv", ["bench", name, "--help"])
        with pytest.raises(SystemExit) as ended:
            __main__.main()
        assert ended.value.code == 0
        assert len(capsys.readouterr().out) > 300
    monkeypatch.setattr("sys.argv", ["bench", "nothing"])
    assert __main__.main() == 2
