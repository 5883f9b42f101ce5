"""The pass over an archive's images on Ray Data: read and decode fused, explicit tiles a block."""

import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray.data

from satray.cluster import Readers
from satray.data.probe import Probed, probe
from satray.data.raster import PagesKey
from satray.storage import Storage


def probe_all(
    uris: Sequence[str],
    counted: Sequence[bool],
    masked: Sequence[bool],
    storage: Storage,
    *,
    bands: tuple[str, ...] | None,
    pages: PagesKey,
    tiles_per_task: int,
    readers: Readers,
    worlds: Sequence[str | None] = (),
) -> Iterator[Probed]:
    """Probe all tiles; yields what each task found, as tasks end.

    Args:
        uris: where the tiles are; their positions are the rows.
        counted: whether each tile's pixels go into the statistics.
        masked: whether a `.msk` lies beside each.
        storage: reads them.
        bands: the recipe's band names, or None.
        pages: which pages of a TIFF are bands.
        tiles_per_task: most tiles of a task; fewer where there would be idle tasks.
        readers: tasks at once (`cluster.readers`).
        worlds: where the world file beside each tile is; empty: nowhere.
    """
    # blocks are given, not guessed: Ray makes one block of a small table whatever it is asked
    size = max(1, min(tiles_per_task, -(-len(uris) // (4 * readers.expected))))
    beside = worlds or [None] * len(uris)
    blocks = [
        pa.table(
            {
                "row": pa.array(range(start, min(start + size, len(uris))), pa.int64()),
                "uri": pa.array(uris[start : start + size], pa.string()),
                "counted": pa.array(counted[start : start + size], pa.bool_()),
                "masked": pa.array(masked[start : start + size], pa.bool_()),
                "world": pa.array(beside[start : start + size], pa.string()),
            }
        )
        for start in range(0, len(uris), size)
    ]

    def probe_block(batch: Any) -> Any:
        columns = ("row", "uri", "counted", "masked", "world")
        rows, names, flags, masks, near = (batch.column(c).to_pylist() for c in columns)
        probed = probe(rows, names, flags, storage, bands, masks, near, pages)
        return pa.table({"probed": pa.array([pickle.dumps(probed)], pa.large_binary())})

    found = ray.data.from_arrow(blocks).map_batches(
        probe_block,
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=readers.cpus,
        compute=ray.data.TaskPoolStrategy(size=readers.at_once),
    )
    batch: Any
    for batch in found.iter_batches(batch_size=None, batch_format="pyarrow"):
        for cell in batch.column("probed"):
            yield pickle.loads(cell.as_py())
