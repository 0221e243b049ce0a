"""What happens while work goes on, for whoever wants to hear of it: one object instead of several callables."""


class Events:
    """Hears of everything and does nothing; subclasses override what they want to know."""

    def message(self, text: str) -> None:
        """A sentence for people: what was decided, found, or left out."""

    def progress(self, done: int, total: int) -> None:
        """So many images are done, of so many in all."""

    def doing(self, what: str) -> None:
        """What is done from now on, until something else is or images are: `starting Ray`, for example."""

    def heartbeat(self) -> None:
        """The work goes on; called about once a second while it does."""
