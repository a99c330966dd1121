"""How often something was wanted, and how often it was there already."""

from dataclasses import dataclass


@dataclass(slots=True)
class Tally:
    """Counts since they were last taken, by whoever reports them."""

    queries: int = 0
    hits: int = 0

    def add(self, queries: int, hits: int) -> None:
        """So many more."""
        self.queries += queries
        self.hits += hits

    def taken(self) -> "Tally":
        """The counts, which begin anew."""
        found = Tally(self.queries, self.hits)
        self.queries = self.hits = 0
        return found
