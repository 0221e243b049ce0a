"""The paths of one run on a local or mounted disk, its small files, and what attempts leave in it."""

from collections.abc import Collection
from pathlib import Path

from pipeline import durable

LISTING = "listing.parquet"


class RunPaths:
    """The part of `folder.RunFolder` that knows names only; see `run_files.RunFiles`."""

    marker_seconds = 0.0

    def __init__(self, output: Path, run: str) -> None:
        self.output = output
        self.run = run
        self.path = output / "runs" / run
        self.listing = self.path / LISTING
        self.plan_file = self.path / "plan.json"
        self.shards = self.path / "plan"
        self.attempts = self.path / "attempts"
        self.staged = self.path / "staged"
        self.manifest = self.path / "manifest.json"
        self.published_mark = self.path / "published.json"
        self.refused = self.path / "refused.json"
        self.metrics = self.path / "metrics.json"
        self.summary = self.path / "summary.md"
        self.logs = self.path / "logs"

    # --- small files

    def has(self, name: str) -> bool:
        """See `RunFiles`."""
        return durable.is_there(self.path / name)

    def read(self, name: str) -> bytes:
        """See `RunFiles`."""
        return durable.read_own(self.path / name)

    def write(self, name: str, text: str) -> None:
        """See `RunFiles`."""
        durable.write_text(self.path / name, text)

    # --- attempts

    def log_file(self, name: str) -> Path:
        """See `RunFiles`."""
        return self.logs / name

    def attempt_file(self, name: str) -> Path:
        """See `RunFiles`."""
        return self.attempts / name

    def marker(self, shard: str) -> Path:
        """Where the in-progress marker of a shard's attempt lies."""
        return self.attempts / f"{shard}.in-progress"

    def write_marker(self, shard: str, text: str) -> None:
        """See `RunFiles`."""
        with durable.open_own(self.marker(shard), "w") as file:
            file.write(text)

    def remove_marker(self, shard: str) -> None:
        """See `RunFiles`."""
        self.marker(shard).unlink(missing_ok=True)

    def has_marker(self, shard: str) -> bool:
        """See `RunFiles`."""
        return durable.is_there(self.marker(shard))

    def markers(self, shards: Collection[str]) -> dict[str, str]:
        """See `RunFiles`."""
        return {shard: text for shard in shards if (text := self.marker_text(shard))}

    def marker_text(self, shard: str) -> str:
        """See `RunFiles`."""
        try:
            return self.marker(shard).read_text(encoding="utf-8")
        except OSError:
            return ""
