"""A report of a large test that nobody has run: figures are drawn, images are noise.

Noise is the hardest to compress, so a page of it is larger than any of photographs.
"""

import numpy as np

from batnet_jax.modes.report_lists import LISTS, MISSED, PLACES, UNCOUNTED, choose_queries
from batnet_jax.report import sections
from batnet_jax.report.attention_maps import AttentionMaps, AttentionRow
from batnet_jax.report.attention_section import attention_section
from batnet_jax.report.cards import Card, Hit, PageImage, ranked_lists_section
from batnet_jax.report.feature_map import MOST, Mark, map_section
from batnet_jax.report.hardest import HardIdentity, hardest_section
from batnet_jax.report.page import write_page
from batnet_jax.report.ranked_list import Person
from batnet_jax.report.settings import settings_section
from batnet_jax.report.sheet import SheetRow, sheet_section
from batnet_jax.report.summary import Measured, metrics_section
from batnet_jax.report.thumbnails import Thumbnails
from batnet_jax.report.training_section import training_section

CAMERAS = 15


class World:
    """A test of so many queries, and the means to draw it."""

    def __init__(self, queries, identities, lists=LISTS):
        self.rng = np.random.default_rng(0)
        self.pids = np.arange(queries) % identities
        self.cameras = self.rng.integers(1, CAMERAS + 1, queries)
        self.average_precisions = self.rng.beta(1.5, 1, queries)
        self.first_ranks = self.rng.geometric(0.6, queries)
        self.lists = lists
        self.thumbnails = Thumbnails()

    def noise(self, size=(256, 128)):
        return self.rng.integers(0, 256, (*size, 3), np.uint8)

    def shown(self, pid, camera):
        file = f"{pid:04d}_c{camera}.jpg"
        return PageImage(self.thumbnails.add(self.noise()), int(pid), int(camera), file=file)

    def card(self, q, kinds):
        pid, camera, first = int(self.pids[q]), int(self.cameras[q]), int(self.first_ranks[q])
        hits = [Hit(self.shown(pid, camera), 0, "same", 0.9) for _ in range(UNCOUNTED)]
        hits += [self.hit(pid, camera, rank, rank == first) for rank in range(1, PLACES + 1)]
        behind = range(max(first, PLACES + 1), max(first, PLACES + 1) + MISSED)
        missed = [self.hit(pid, camera, rank, True) for rank in behind]
        query, average_precision = self.shown(pid, camera), float(self.average_precisions[q])
        return Card(query, kinds, average_precision, first, hits, q % 3, missed, 2 * MISSED)

    def hit(self, pid, camera, rank, right):
        image = self.shown(pid if right else pid + 1, 1 + camera % CAMERAS)
        return Hit(image, rank, "right" if right else "wrong", 1 / (1 + rank / 10))

    def sections(self):
        result = {
            "dataset": "large", "split": "test", "step": 60000, "ap": "precision",
            "mAP": float(self.average_precisions.mean()), "mINP": 0.2, "num_gallery": 82161,
            "cmc": {str(k): float((self.first_ranks <= k).mean()) for k in (1, 5, 10, 20)},
            "num_query": len(self.pids), "num_valid_query": len(self.pids) - 3,
            "same_camera": "remove",
        }  # fmt: skip
        hardest = np.argsort(self.average_precisions)[:25].tolist()
        kinds = choose_queries(
            self.average_precisions.tolist(), self.lists, seed=0, hardest=hardest
        )
        shown = [self.card(q, own) for q, own in kinds.items()]
        identities = [
            HardIdentity(pid, self.thumbnails.add(self.noise()), 4, pid / 50, 0.25)
            for pid in range(15)
        ]
        pairs = [
            {"query_camera": a, "gallery_camera": b, "num_valid_query": 50, "rank1": 0.5,
             "mAP": float(self.rng.uniform(0.1, 0.9))}
            for a in range(1, CAMERAS + 1) for b in range(1, CAMERAS + 1) if a != b
        ]  # fmt: skip
        steps = range(10, 60001, 10)
        lines = [
            {"step": s, "loss": 8 / s**0.3, "loss_ce": 6 / s**0.3, "loss_triplet": 2 / s**0.3,
             "lr": 5e-4 if s < 30000 else 5e-5}
            for s in steps
        ]  # fmt: skip
        ramp = np.linspace(0, 1, 8, dtype=np.float32).reshape(4, 2)
        maps = AttentionMaps(ramp, 0.5 + 0.4 * ramp, ramp * (0.5 + 0.4 * ramp))
        rows = [AttentionRow(Person(self.noise(), pid, 1), {"p2": maps}) for pid in range(4)]
        evaluations = [result | {"step": s, "mAP": result["mAP"] * s / 60000} for s in
                       range(6000, 60001, 6000)]  # fmt: skip
        title = sections.title_of(result)
        low = {"mAP": 0.02, "mINP": 0.01, "cmc": {"1": 0.03, "5": 0.05, "10": 0.1, "20": 0.2}}
        before = result | {"step": 54000, "mAP": result["mAP"] - 0.03}
        measured = Measured(result, before, {"chance": low, "raw pixels": low | {"mAP": 0.1}})
        marks = [Mark(str(i % MOST), 1 + i % 3, i % 2 == 0) for i in range(400)]
        places = self.rng.standard_normal((400, 2))
        sheet = [
            SheetRow([self.shown(pid, 1 + n % CAMERAS) for n in range(8)], 20) for pid in range(12)
        ]
        return [
            metrics_section([measured]),
            ranked_lists_section(
                shown, num_queries=len(self.pids), num_valid=len(self.pids) - 3
            ),
            hardest_section(
                identities, pairs, key="hardest", title="Hardest", listed=shown
            ),
            sections.curves_section(self.first_ranks.tolist(), VERIFIED, title),
            map_section(marks, {"PCA": places, "t-SNE": places**3}, shares=[0.2, 0.1],
                        num_identities=751, key="map", title="Map"),
            sheet_section(sheet, {"query": ["3,368", "750", "6", "128 x 64"]},
                          input_size=(384, 128), num_identities=750, key="data", title="Data"),
            attention_section(rows, self.thumbnails),
            training_section(lines, evaluations),
            settings_section({"seed": 1, "data.dir": "x", "steps": 0}, {"seed": 0, "steps": 0,
                                                                        "data.dir": "x"},
                             facts={"written": "today"}, versions={"jax": "0.10"}),
        ]  # fmt: skip

    def write(self, path):
        parts = self.sections()
        facts = {"data set": "large", "step": 60000}
        styles = self.thumbnails.styles()
        write_page(path, title="large: report", facts=facts, sections=parts, styles=styles)


_EDGES = np.linspace(-1, 1, 129)
_CENTRES = (_EDGES[:-1] + _EDGES[1:]) / 2
VERIFIED = {
    "num_positive": 90000, "num_negative": 950_000_000, "equal_error_rate": 0.05,
    "area_under_roc": 0.98,
    "histograms": {
        "edges": _EDGES.tolist(),
        "positive": (90000 * np.exp(-((_CENTRES - 0.7) ** 2) / 0.02) / 8).astype(int).tolist(),
        "negative": (9e7 * np.exp(-((_CENTRES - 0.2) ** 2) / 0.02)).astype(int).tolist(),
    },
    "operating_points": [
        {"wanted_false_accept_rate": rate, "false_accept_rate": 0.9 * rate, "threshold": t,
         "true_accept_rate": 1 - t / 2, "resolved": rate > 1e-4}
        for rate, t in ((1e-1, 0.36), (1e-2, 0.5), (1e-3, 0.6), (1e-4, 0.7))
    ],
}  # fmt: skip
