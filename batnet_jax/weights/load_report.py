"""The report of loading weights: the fate of each tensor and of each variable."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Report:
    """The fate of every tensor of the source and of every variable of ours.

    Attributes:
      label, format: of the source.
      loaded: (our path, the source's name, the conversions or "as it is").
      skipped: (the source's name, the reason).
      initial: (our path, the reason why it keeps its initial value).
      identities: (name, its fate in the classifiers: kept, new or gone); empty unless some are
        kept and others not.
      prefix: shared by the source's names; "" = none.
    """

    label: str
    format: str
    prefix: str = ""
    loaded: list[tuple[str, str, str]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    initial: list[tuple[str, str]] = field(default_factory=list)
    identities: list[tuple[str, str]] = field(default_factory=list)

    def text(self) -> str:
        """Return the summary, then a line for each tensor."""
        return "\n".join(
            [
                f"# {self.summary()}",
                *(f"loaded {ours} <- {theirs} ({done})" for ours, theirs, done in self.loaded),
                *(f"skipped {name} ({why})" for name, why in self.skipped),
                *(f"initial {name} ({why})" for name, why in self.initial),
                *(f"identity {who} ({fate})" for who, fate in self.identities),
                "",
            ]
        )

    def summary(self) -> str:
        """Return one line: how many tensors were loaded, skipped and left, by reason.

        The line ends with the numbers of identities that the classifiers keep, by fate.
        """

        def reasons(rows: list[tuple[str, str]]) -> str:
            counts = Counter(why for _, why in rows).items()
            return f" ({', '.join(f'{n} {why}' for why, n in counts)})" if rows else ""

        classes = reasons(self.identities)
        shared = f" under the prefix '{self.prefix}'" if self.prefix else ""
        return (
            f"'{self.label}', {self.format}{shared}: {len(self.loaded)} tensors loaded, "
            f"{len(self.skipped)} skipped{reasons(self.skipped)}, "
            f"{len(self.initial)} left at their initial values{reasons(self.initial)}"
            f"{f'; identities of the classifiers{classes}' if classes else ''}"
        )
