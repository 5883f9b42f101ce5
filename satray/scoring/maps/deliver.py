"""Bring a scene's products to where they are read: at once, or by the ledger's commit."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from satray import __version__
from satray.errors import SatrayError
from satray.runs.record import Product
from satray.scoring.ledger import Ledger, Staged, commit, discard, publish, stage
from satray.scoring.ledger.copying import digest_of
from satray.scoring.maps.assemble import Assembly, MadeFile
from satray.scoring.maps.jobs import SceneJob
from satray.scoring.products import names
from satray.scoring.products.item import ItemFacts, ItemProduct, item_json
from satray.scoring.products.model_fields import ModelFacts
from satray.scoring.scenes.scene import SceneRef, made_ref, uris_of
from satray.storage import Storage, join


class TakenOverError(SatrayError):
    """The scene is no longer this run's to publish; the message says why."""


@dataclass(frozen=True)
class Delivery:
    """Where products go."""

    storage: Storage
    """Where the output is."""
    out: str
    """The run folder."""
    model: ModelFacts
    """What scored the scenes."""
    ledger: Ledger | None = None
    """Of a schedule."""

    def deliver(
        self, assembly: Assembly, files: Sequence[MadeFile], notes: Sequence[str], tiles: int
    ) -> tuple[Product, ...]:
        """Write all products of a scene, its catalogue entry last.

        Raises:
            TakenOverError: another run has the scene now, or its provider changed it.
        """
        job = assembly.job
        items: list[ItemProduct] = []
        staged: list[Staged] = []
        products: list[Product] = []
        for file in files:
            product = self._put(job, file.facts, file.source, file.rows, staged)
            products.append(product)
            items.append(replace(file.facts, bytes=product.bytes, sha256=product.sha256))
            if isinstance(file.source, Path):
                file.source.unlink()  # the disk holds one large file less
        entry = item_json(self._facts(assembly, items, notes))
        told = ItemProduct("item", names.item_name(job.ref.scene))
        products.append(self._put(job, told, entry, None, staged))
        if job.claim is not None and self.ledger is not None:
            self._commit(self.ledger, job, staged, tiles)
        return tuple(products)

    def _put(
        self,
        job: SceneJob,
        facts: ItemProduct,
        source: Path | bytes,
        rows: int | None,
        staged: list[Staged],
    ) -> Product:
        if job.claim is not None and self.ledger is not None:
            name = f"{facts.kind}_{facts.tower}" if facts.tower else facts.kind
            one = stage(self.ledger, job.claim, source, facts.path, name=name, rows=rows)
            staged.append(one)
            return Product(facts.path, one.bytes, one.sha256, rows)
        place = join(self.out, facts.path)
        if isinstance(source, bytes):
            self.storage.write(place, source)
            return Product(facts.path, len(source), hashlib.sha256(source).hexdigest(), rows)
        size, digest = digest_of(source)
        self.storage.upload(source, place)
        return Product(facts.path, size, digest, rows)

    def _commit(self, ledger: Ledger, job: SceneJob, staged: Sequence[Staged], tiles: int) -> None:
        assert job.claim is not None
        if not self.unchanged(job.ref):
            discard(ledger, job.claim)
            raise TakenOverError("its provider changed it while it was scored")
        if not commit(ledger, job.claim, staged, counts={"tiles": tiles}):
            discard(ledger, job.claim)
            raise TakenOverError("another run has taken it over")
        publish(ledger, job.claim.key, job.claim)

    def unchanged(self, ref: SceneRef) -> bool:
        """Whether a scene's files are those that were listed."""
        try:
            parts = [self.storage.head(uri) for uri in uris_of(ref.uri, ref.bands)]
        except SatrayError:
            return False
        return made_ref(ref.scene, ref.uri, ref.bands, parts).etag == ref.etag

    def _facts(
        self, assembly: Assembly, items: Sequence[ItemProduct], notes: Sequence[str]
    ) -> ItemFacts:
        job = assembly.job
        told = {
            "satray:mode": job.way.mode,
            "satray:drift": None if job.drift is None else round(job.drift, 4),
            "satray:notes": list(notes),
            "satray:scale": [job.grid.scale_x, job.grid.scale_y],
        }
        from_item = job.ref.uri if job.ref.item is not None else None
        return ItemFacts(
            job.ground,
            assembly.moment,
            datetime.now(UTC),
            uris_of(job.ref.uri, job.ref.bands),
            self.model,
            assembly.layout.run_id,
            __version__,
            items,
            from_item if from_item and from_item.endswith("json") else None,
            {name: value for name, value in told.items() if value is not None},
        )
