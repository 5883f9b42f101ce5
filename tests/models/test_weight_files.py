import argparse
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from satray.errors import InputError
from satray.models.weight_files import read_state
from satray.storage import Storage


class Code:
    def __reduce__(self):
        return (print, ("this ran",))


def read(path):
    return read_state(str(path), Storage())


def test_both_formats_give_the_tensors(tmp_path):
    state = {"a.weight": torch.randn(2, 3), "b": torch.arange(3)}
    save_file(state, tmp_path / "w.safetensors")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "w.pth")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("w.safetensors", "w.pth", "old.pt"):
        found = read(tmp_path / name)
        assert found.keys() == state.keys()
        assert all(torch.equal(found[key], state[key]) for key in state)


@pytest.mark.parametrize("plain", [True, False])
def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path, capfd, plain):
    path = tmp_path / "w.pth"
    if plain:
        path.write_bytes(pickle.dumps({"state_dict": {}, "hook": Code()}))
    else:
        torch.save({"a": torch.zeros(1), "hook": Code()}, path)
    with pytest.raises(InputError, match=r"w\.pth: .*(may run code|not a PyTorch file)") as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert "this ran" not in capfd.readouterr().out


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize(
    "data", [b"", b"\x80", b"PK\x03\x04 broken", b"\xff" * 64, b"{}", b"\x02\0\0\0\0\0\0\0{}"]
)
def test_what_is_no_file_of_weights_is_refused_in_one_line(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=name) as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_zip_that_is_no_checkpoint(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(InputError, match="not a PyTorch file"):
        read(tmp_path / "w.pth")


def test_formats_are_told_by_content(tmp_path):
    state = {"a.weight": torch.randn(2, 3)}
    save_file(state, tmp_path / "w.bin")
    torch.save(state, tmp_path / "w.safetensors")
    for name in ("w.bin", "w.safetensors"):
        assert torch.equal(read(tmp_path / name)["a.weight"], state["a.weight"])


@pytest.mark.parametrize("hidden", [torch.nn.Linear(1, 1), {"h": argparse.Namespace(lr=1)}])
def test_pickled_objects_are_refused_with_what_to_do(tmp_path, hidden):
    torch.save(hidden, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"w\.pth: .*torch\.save\(model\.state_dict\(\), FILE\)"):
        read(tmp_path / "w.pth")


def test_no_tensors_and_no_file(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(InputError, match="holds no tensors by name"):
        read(tmp_path / "list.pth")
    with pytest.raises(InputError):
        read(tmp_path / "absent.pth")


def test_a_truncated_checkpoint(tmp_path):
    torch.save({"a": torch.randn(1000)}, tmp_path / "whole.pth")
    data = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="not a PyTorch file"):
        read(tmp_path / "w.pth")


@pytest.mark.parametrize("wrapper", ["network", "module", "teacher", "model_ema", "params"])
def test_the_only_dict_of_tensors_is_the_state(tmp_path, wrapper):
    state = {"a.weight": torch.randn(2, 3)}
    torch.save({wrapper: state, "optimizer": {"lr": 1}, "epoch": 3}, tmp_path / "w.pth")
    assert torch.equal(read(tmp_path / "w.pth")["a.weight"], state["a.weight"])


def test_of_several_dicts_of_tensors_none_is_taken(tmp_path):
    state = {"a.weight": torch.zeros(2)}
    torch.save({"student": state, "teacher": state}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"several dicts of them \(student, teacher\)"):
        read(tmp_path / "w.pth")


@pytest.mark.parametrize(
    "data",
    [b"<!DOCTYPE html>", b"version https://git-lfs", b"\x08\x07\x12\x07pytorch", b"\x1f\x8b"],
)
def test_another_kind_of_file_is_not_called_a_pickle_with_code(tmp_path, data):
    (tmp_path / "w.pth").write_bytes(data + b"\n" * 99)
    with pytest.raises(InputError, match="not a PyTorch file: it begins b"):
        read(tmp_path / "w.pth")


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_torchscript_archive_is_refused_with_a_way(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"a TorchScript archive.*state_dict\(\)"):
        read(tmp_path / "w.pt")
