"""Label format `folders`: the class of a tile is the folder that holds it."""

from collections.abc import Sequence

import numpy as np

from satray.data.annotations import Annotations
from satray.data.parts import PARTS_BY_WORD
from satray.errors import InputError


def read_folders(keys: Sequence[str], name: str, split_column: str) -> Annotations:
    """One class a top folder, sorted; or a folder a part (train, val, test), and classes in those.

    Args:
        keys: paths of the images below `name`, `/` between folders.
        name: the archive, for messages.
        split_column: title under which the parts are kept, where top folders are parts.

    Raises:
        InputError: an image outside folders; fewer than two folders.
    """
    paths = [key.split("/") for key in keys]
    parted = bool(paths) and all(
        len(path) > 2 and path[0].lower() in PARTS_BY_WORD for path in paths
    )
    depth = 1 if parted else 0
    for key, path in zip(keys, paths, strict=True):
        if len(path) < depth + 2:
            raise InputError(
                f"label_format=folders: {key} lies in no folder of {name}; one folder a class is "
                "accepted, or labels=TABLE"
            )
    names = [path[depth] for path in paths]
    classes = tuple(sorted(set(names)))
    if len(classes) < 2:
        found = f"only {classes[0]}" if classes else "no folder with images"
        raise InputError(
            f"label_format=folders: {name} has {found}; two folders or more are accepted, one a "
            "class, or labels=TABLE"
        )
    position = {cls: k for k, cls in enumerate(classes)}
    labels_NK = np.zeros((len(names), len(classes)), np.uint8)
    labels_NK[np.arange(len(names)), [position[cls] for cls in names]] = 1
    columns: dict[str, tuple[str | None, ...]] = {}
    if parted:
        columns[split_column] = tuple(path[0] for path in paths)
    return Annotations(name, tuple(keys), classes, labels_NK, columns, single=True)
