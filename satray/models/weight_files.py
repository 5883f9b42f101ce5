"""Read a file of weights: `.safetensors`, or what `torch.save` wrote, without running its code."""

import io
import pickle
import warnings
import zipfile

import torch
from torch import Tensor

from satray.errors import InputError
from satray.storage import Storage

_BEGINNINGS = (b"PK", b"\x80")  # of a zip archive, and of a pickle

# What training scripts wrap a state dict in, outermost first.
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "ema", "net", "weights")


def read_state(uri: str, storage: Storage) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU.

    Args:
        uri: a `.safetensors` file; any other name is read as PyTorch's (`.pth`, `.pt`, ...).
        storage: how to reach it.

    Raises:
        InputError: no such file, broken, holding code, or without tensors.
    """
    return parse_state(storage.read(uri), uri)


def parse_state(data: bytes, name: str) -> dict[str, Tensor]:
    """Like `read_state`, from the file's bytes; `name` is for messages."""
    # Told by content, since files are renamed: a header's length, then JSON.
    safe = name.endswith(".safetensors") and not data.startswith((b"PK", b"\x80"))
    state = _safetensors(data, name) if safe or data[8:10] == b'{"' else _torch(data, name)
    tensors = unwrap(state)
    if not tensors:
        top = state if isinstance(state, dict) else {}
        inside = [key for key, value in top.items() if _holds_tensors(value)]
        found = f", but several dicts of them ({', '.join(map(str, inside))})" if inside else ""
        raise InputError(f"{name}: holds no tensors by name{found}; accepted: a state dict")
    return tensors


def unwrap(state: object) -> dict[str, Tensor]:
    """The tensors of a state dict, which may be wrapped: by a usual name, or in the only dict."""
    for _ in range(3):
        if not isinstance(state, dict):
            return {}
        inner = next((state[key] for key in _WRAPPERS if isinstance(state.get(key), dict)), None)
        if inner is None:
            dicts = [value for value in state.values() if _holds_tensors(value)]
            if len(dicts) != 1 or _holds_tensors(state):
                break
            inner = dicts[0]
        state = inner
    if not isinstance(state, dict):
        return {}
    return {
        name: value.detach() if value.layout is torch.strided else value.detach().to_dense()
        for name, value in state.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }


def _holds_tensors(value: object) -> bool:
    """Whether a value is a dict that has tensors by name."""
    return isinstance(value, dict) and any(
        isinstance(name, str) and isinstance(inside, Tensor) for name, inside in value.items()
    )


def _safetensors(data: bytes, name: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        state: dict[str, Tensor] = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{name}: not a safetensors file: {error}") from error
    return state


def _torch(data: bytes, name: str) -> object:
    if not data.startswith(_BEGINNINGS):
        begins = f"it begins {data[:24]!r}" if data else "it is empty"
        raise InputError(f"{name}: not a PyTorch file: {begins}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on pickle protocols; what fails is told below
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error).lower() or "unsupported" in str(error).lower():
            raise InputError(
                f"{name}: a pickle with more than tensors in it, which may run code and is not "
                "loaded; accepted: tensors alone, as torch.save(model.state_dict(), FILE) writes "
                "them, or .safetensors"
            ) from error
        raise InputError(f"{name}: not a PyTorch file: {_first_line(error)}") from error
    except (
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        AttributeError,
        IndexError,
        TypeError,
        zipfile.BadZipFile,
    ) as error:
        if "TorchScript" in str(error):
            raise InputError(
                f"{name}: a TorchScript archive, which holds code and is not loaded; accepted: "
                "torch.save(torch.jit.load(FILE).state_dict(), OTHER)"
            ) from error
        raise InputError(f"{name}: not a PyTorch file: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]
