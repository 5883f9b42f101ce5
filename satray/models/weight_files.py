"""Read a file of weights: `.safetensors`, or what `torch.save` wrote, without running its code."""

import io
import pickle
import warnings
import zipfile

import torch
from torch import Tensor

from satray.errors import InputError
from satray.storage import Storage

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
        raise InputError(f"{name}: holds no tensors by name; accepted: a state dict")
    return tensors


def unwrap(state: object) -> dict[str, Tensor]:
    """The tensors of a state dict, which may be wrapped (`state_dict`, `model`, ...)."""
    for _ in range(3):
        if not isinstance(state, dict):
            return {}
        inner = next((state[key] for key in _WRAPPERS if isinstance(state.get(key), dict)), None)
        if inner is None:
            break
        state = inner
    if not isinstance(state, dict):
        return {}
    return {
        name: value.detach()
        for name, value in state.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }


def _safetensors(data: bytes, name: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        state: dict[str, Tensor] = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{name}: not a safetensors file: {error}") from error
    return state


def _torch(data: bytes, name: str) -> object:
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
        raise InputError(f"{name}: not a PyTorch file: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]
