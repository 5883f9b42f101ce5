"""AID in one file, and decoded in memory: tiles without Ray and rasterio."""

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np

RGB = ("red", "green", "blue")


class Held:
    """The tiles, decoded, on the device; and their index, as `prepare` would write it."""

    def __init__(self, pixels_NCHW: Any, table: dict[str, Any], device: Any) -> None:
        import torch

        self.pixels_NCHW = torch.from_numpy(np.array(pixels_NCHW)).to(device)
        self.classes = [str(name) for name in table["classes"]]
        self.labels_NK, self.ids = table["labels"], [str(each) for each in table["ids"]]
        self.split = np.array([str(each) for each in table["splits"]])

    def index(self, seed: int, tiles: int, ship: bool) -> tuple[Any, dict[str, Any]]:
        """The index of so many tiles, and where the tiles of its splits are held.

        A draw of fewer train tiles is the first so many of a permutation that the seed gives, all
        classes that the draw misses counted as they come.
        """
        import pyarrow as pa

        from satray.data.index import BandStatistics, IndexMeta, TileIndex, table_with

        rng = np.random.default_rng(seed)
        train = np.flatnonzero(self.split == "train")
        if tiles < len(train):
            train = np.sort(rng.permutation(train)[:tiles])
        val = np.flatnonzero(self.split == "val")
        place = self.classes.index("ship")
        labels = self.labels_NK[:, place : place + 1] if ship else self.labels_NK
        classes = ("ship",) if ship else tuple(self.classes)
        side = self.pixels_NCHW.shape[2]
        rows = [
            {"tile_id": self.ids[i], "uri": self.ids[i], "split": split,
             "labels": labels[i].tolist(), "height": side, "width": side, "bands": list(RGB),
             "dtype": "uint8", "crs": None, "transform": None, "nodata": None, "bytes": 0,
             "etag": None}
            for split, part in (("train", train), ("val", val)) for i in part
        ]  # fmt: skip
        statistics = tuple(
            BandStatistics(band, *self._mean_and_std(train, c), 0.0, 255.0, {}, 1)
            for c, band in enumerate(RGB)
        )
        task = "binary" if ship else "multilabel"
        meta = IndexMeta(task, classes, RGB, "uint8", (side, side), statistics, {})
        return TileIndex(table_with(meta, pa.Table.from_pylist(rows)), meta), {
            "train": train, "val": val,
        }  # fmt: skip

    def _mean_and_std(self, rows: Any, band: int) -> tuple[float, float]:
        import torch

        x_NHW = self.pixels_NCHW[:, band][torch.from_numpy(rows).to(self.pixels_NCHW.device)]
        counts = torch.bincount(x_NHW.flatten(), minlength=256).double().cpu().numpy()
        mean = float(np.average(np.arange(256), weights=counts))
        return mean, float(np.average((np.arange(256) - mean) ** 2, weights=counts) ** 0.5)


def pack(options: argparse.Namespace) -> int:
    """Put an archive's files and its table into one file."""
    import pandas as pd

    source = Path(options.source)
    table = pd.read_csv(source / "labels.csv")
    classes = list(table.columns[3:])
    files = [(source / "images" / name).read_bytes() for name in table["image"]]
    np.savez(
        options.target, data=np.frombuffer(b"".join(files), np.uint8),
        sizes=np.array([len(each) for each in files]), ids=np.array(table["image"], dtype=str),
        splits=np.array(table["split"], dtype=str), classes=np.array(classes),
        labels=table[classes].to_numpy(np.uint8),
    )  # fmt: skip
    return 0


def decoded(packed: str) -> Any:
    """Pixels (N, 3, H, W) uint8 of a packed archive."""
    from concurrent.futures import ThreadPoolExecutor

    from PIL import Image

    with np.load(packed, allow_pickle=False) as found:
        data, ends = found["data"], np.cumsum(found["sizes"])

    def one(part: tuple[int, int]) -> Any:
        image = Image.open(io.BytesIO(data[part[0] : part[1]].tobytes())).convert("RGB")
        return np.asarray(image).transpose(2, 0, 1)

    with ThreadPoolExecutor(8) as pool:
        return np.stack(list(pool.map(one, zip([0, *ends[:-1]], ends, strict=True))))
