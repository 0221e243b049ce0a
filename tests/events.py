"""Events that remember what they heard."""

from pipeline.events import Events


class Counting(Events):
    """Counts heartbeats."""

    count = 0

    def heartbeat(self) -> None:
        self.count += 1
