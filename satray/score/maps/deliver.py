"""Bring a scene's products to where they are read; of a schedule, while the claim stands."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from satray.errors import SatrayError
from satray.runs.run import Product
from satray.score.ledger import Claim, Ledger
from satray.score.maps.assemble import Assembly, MadeFile
from satray.score.maps.jobs import SceneResult
from satray.score.products import names
from satray.score.products.stac import ItemProduct, item_of, to_bytes
from satray.score.scenes.find import SceneRef, etag_of, uris_of
from satray.storage import Storage, join

if TYPE_CHECKING:
    import pystac


class TakenOverError(SatrayError):
    """The scene is no longer this run's to publish; the message says why."""


@dataclass(frozen=True)
class Delivery:
    """Where products go."""

    storage: Storage
    """Where the output is."""
    out: str
    """The run folder."""
    ledger: Ledger | None = None
    """Of a schedule."""

    def deliver(
        self,
        assembly: Assembly,
        files: Sequence[MadeFile],
        notes: Sequence[str],
        claim: Claim | None,
    ) -> tuple[tuple[Product, ...], "pystac.Item"]:
        """Write all products of a scene, its catalogue entry last, and return them and it.

        Raises:
            TakenOverError: another run has the scene now, or its provider changed it.
        """
        ref = assembly.job.ref
        items: list[ItemProduct] = []
        products: list[Product] = []
        if claim is not None and not self.unchanged(ref):
            raise TakenOverError("its provider changed it while it was scored")
        for file in files:
            product = self._put(file, claim)
            products.append(product)
            items.append(replace(file.facts, bytes=product.bytes, sha256=product.sha256))
            if isinstance(file.source, Path):
                file.source.unlink()  # the disk holds one large file less
        # a unit that is done twice makes the same bytes
        created = claim.since if claim is not None else datetime.now(UTC)
        entry = self._item(assembly, items, notes, created)
        told = ItemProduct("item", names.item_name(ref.scene))
        products.append(self._put(MadeFile(told, to_bytes(entry)), claim))
        return tuple(products), entry

    def commit(self, claim: Claim, result: SceneResult) -> None:
        """Make what was delivered the scene's.

        Raises:
            TakenOverError: another run was first.
        """
        assert self.ledger is not None
        if not self.ledger.commit(claim, asdict(result)):
            raise TakenOverError("another run has taken it over")

    def _put(self, file: MadeFile, claim: Claim | None) -> Product:
        if claim is not None and self.ledger is not None and not self.ledger.stands(claim):
            raise TakenOverError("another run has taken it over")
        place, source = join(self.out, file.facts.path), file.source
        if isinstance(source, bytes):
            self.storage.write(place, source)
            digest, size = hashlib.sha256(source).hexdigest(), len(source)
        else:
            with source.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            size = source.stat().st_size
            self.storage.upload(source, place)
        return Product(file.facts.path, size, digest, file.rows)

    def unchanged(self, ref: SceneRef) -> bool:
        """Whether a scene's files are those that were listed."""
        try:
            files = [self.storage.head(uri) for uri in ref.files]
        except SatrayError:
            return False
        return etag_of(files, ref.stated) == ref.etag

    def _item(
        self,
        assembly: Assembly,
        items: Sequence[ItemProduct],
        notes: Sequence[str],
        created: datetime,
    ) -> "pystac.Item":
        job = assembly.job
        more = {
            "satray:mode": job.mode,
            "satray:engine": assembly.engine,
            "satray:drift": None if job.drift is None else round(job.drift, 4),
            "satray:notes": list(notes),
            "satray:scale": [job.grid.scale_x, job.grid.scale_y],
        }
        from_item = job.ref.item is not None and job.ref.uri.endswith("json")
        return item_of(
            job.extent,
            assembly.moment,
            created,
            uris_of(job.ref),
            assembly.layout,
            items,
            job.ref.uri if from_item else None,
            {name: value for name, value in more.items() if value is not None},
        )
