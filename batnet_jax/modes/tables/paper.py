"""The paper's Tables 1 to 7: the rows of its own networks, with its figures in per cent.

Fang et al., "Bilinear Attention Networks for Person Retrieval", ICCV 2019, sections 5.3 and 5.4.
"""

from typing import Any, NamedTuple

MARKET = "market1501"
DUKE = "dukemtmc_reid"
MSMT17 = "msmt17:v1"
LABELED = "cuhk03:labeled"
DETECTED = "cuhk03:detected"
TITLES = {
    MARKET: "Market-1501",
    DUKE: "DukeMTMC-reID",
    MSMT17: "MSMT17",
    LABELED: "CUHK03, labeled",
    DETECTED: "CUHK03, detected",
}

# Settings of section 4.4 for single data sets; `default_config()` has all others.
SETTINGS = {LABELED: {"learning_rate": 1e-3, "model.reduction": 8}}
SETTINGS[DETECTED] = SETTINGS[LABELED]


class Row(NamedTuple):
    """A row of a table: a network and its figures."""

    name: str
    overrides: dict[str, Any]
    """The fields of `config.model` that the table varies."""
    paper: dict[str, tuple[float, ...]]
    """Figures in per cent by data set, in the order of the table's metrics."""


class Table(NamedTuple):
    """A table of the paper, without the methods of other authors."""

    title: str
    metrics: tuple[str, ...]
    """`mAP`, or `R-k` for the share of queries with a match among the first k."""
    rows: tuple[Row, ...]

    @property
    def datasets(self) -> list[str]:
        """The data sets that the paper has figures for, the main one first."""
        return list(self.rows[-1].paper)


NONE = {"attention": "none"}
AIA = {"attention": "aia"}
PLAIN = {"attention": "plain"}
ALONE = {"num_parts": 0}
WITHOUT = "BAT-net w/o AiA"
WITH = "BAT-net w/ AiA"
SHORT = ("mAP", "R-1")
LONG = ("mAP", "R-1", "R-5", "R-10")


def _ablation(
    name: str, overrides: dict[str, Any], market: tuple[float, ...], detected: tuple[float, ...]
) -> Row:
    return Row(name, overrides, {MARKET: market, DETECTED: detected})


_NO_ATTENTION = _ablation("(i) w/o attention", NONE, (85.1, 93.8), (67.8, 71.1))

TABLES = {
    1: Table(
        "CUHK03",
        SHORT,
        (
            Row(WITHOUT, PLAIN, {LABELED: (72.0, 74.2), DETECTED: (68.7, 71.4)}),
            Row(WITH, AIA, {LABELED: (76.1, 78.6), DETECTED: (73.2, 76.2)}),
        ),
    ),
    2: Table(
        "Market-1501",
        LONG,
        (
            Row(WITHOUT, PLAIN, {MARKET: (85.5, 94.1, 98.2, 99.1)}),
            Row(WITH, AIA, {MARKET: (87.4, 95.1, 98.2, 98.9)}),
        ),
    ),
    3: Table(
        "DukeMTMC-reID",
        LONG,
        (
            Row(WITHOUT, PLAIN, {DUKE: (75.8, 86.1, 93.9, 95.6)}),
            Row(WITH, AIA, {DUKE: (77.3, 87.7, 94.7, 96.3)}),
        ),
    ),
    4: Table(
        "MSMT17",
        LONG,
        (
            Row("GoogLeNet (Fa)", NONE | ALONE, {MSMT17: (39.3, 65.8, 80.5, 85.3)}),
            Row("+ Bi-attention w/ AiA", AIA | ALONE, {MSMT17: (43.1, 69.5, 82.7, 87.2)}),
            Row(WITHOUT, PLAIN, {MSMT17: (50.4, 74.1, 86.4, 89.7)}),
            Row(WITH, AIA, {MSMT17: (56.8, 79.5, 89.1, 91.1)}),
        ),
    ),
    5: Table(
        "the effect of the Bi-attention and of the parts",
        SHORT,
        (
            _ablation("(i) Fa", NONE | ALONE, (80.7, 91.6), (64.5, 67.1)),
            _ablation("(ii) Fa + Bi-attention w/ AiA", AIA | ALONE, (83.4, 93.2), (67.4, 70.6)),
            _ablation("(iii) Fa + Fp", NONE, (85.1, 93.8), (67.8, 71.1)),
            _ablation("(iv) BAT-net w/ AiA", AIA, (87.4, 95.1), (73.2, 76.2)),
        ),
    ),
    6: Table(
        "the position of the Bi-attention",
        SHORT,
        (
            _NO_ATTENTION,
            _ablation("(ii) p1", AIA | {"position": "p1"}, (86.8, 94.4), (71.4, 73.2)),
            _ablation("(iii) p2", AIA | {"position": "p2"}, (87.4, 95.1), (73.2, 76.2)),
            _ablation("(iv) p3", AIA | {"position": "p3"}, (85.5, 93.9), (69.8, 72.9)),
            _ablation("(v) p4", AIA | {"position": "p4"}, (85.3, 94.0), (68.9, 70.8)),
        ),
    ),
    7: Table(
        "the reduction factor r",
        SHORT,
        (
            _NO_ATTENTION,
            _ablation("(ii) r = 2", AIA | {"reduction": 2}, (87.1, 94.9), (72.3, 75.4)),
            _ablation("(iii) r = 4", AIA | {"reduction": 4}, (87.4, 95.1), (72.6, 74.9)),
            _ablation("(iv) r = 8", AIA | {"reduction": 8}, (87.2, 94.5), (73.2, 76.2)),
            _ablation("(v) r = 16", AIA | {"reduction": 16}, (86.9, 94.4), (72.5, 75.6)),
            _ablation("(vi) r = 32", AIA | {"reduction": 32}, (86.9, 94.1), (72.1, 74.8)),
        ),
    ),
}
