"""What one `classify` command did, as the JSON object that `--json` prints: the runs that it published, or an estimate.

The object has the same keys in every case, `docs/classify.schema.json` is its JSON schema.
"""

from pydantic import BaseModel, ConfigDict

from pipeline.job import Job
from pipeline.run.format import FORMAT
from pipeline.run.reporting import Summary


class Estimate(BaseModel):
    """What `--dry-run` expects: so many `images` of so many `bytes` in `shards`, in about `seconds` of wall time.

    `sample` images were timed on one core at `images_per_second`; `workers` on the `device` would work side by side.
    """

    model_config = ConfigDict(frozen=True)

    images: int
    bytes: int
    shards: int
    workers: int
    device: str
    sample: int
    images_per_second: float
    seconds: float


class Result(BaseModel):
    """What one command did.

    `runs` are those that it published, in order: none where nothing was new, two where it continued an unfinished run
    first. `found` files were listed by the last of them and `known` were classified before; both are null where nothing
    was listed. `estimate` is there after `--dry-run`, `error` after a failure, with the sentence that was said.
    """

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    images: str
    output: str
    found: int | None = None
    known: int | None = None
    runs: tuple[Summary, ...] = ()
    estimate: Estimate | None = None
    error: str | None = None

    @classmethod
    def of(cls, job: Job) -> "Result":
        """Nothing done yet."""
        return cls(images=job.images, output=str(job.output))

    def with_listing(self, found: int, known: int) -> "Result":
        """After a listing found so many files, of which so many are classified already."""
        return self.model_copy(update={"found": found, "known": known})

    def with_run(self, summary: Summary) -> "Result":
        """After one more run was published."""
        return self.model_copy(update={"runs": (*self.runs, summary)})

    def failed(self, sentence: str) -> "Result":
        """After an error, with the sentence that says what happened and what to do."""
        return self.model_copy(update={"error": sentence})


def attach(error: BaseException, result: Result) -> None:
    """Let an error that ends a command carry what the command did before it."""
    error.__dict__["shardseer_result"] = result


def published_before(error: BaseException) -> Result | None:
    """What a command did before `error` ended it; None where nobody attached it."""
    result = error.__dict__.get("shardseer_result")
    return result if isinstance(result, Result) else None
