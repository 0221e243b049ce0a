"""The Prefect flow `train-classifier`: read → fit → evaluate → publish, one task per phase.

A flow run that is started again after any crash continues after the last finished epoch. The bundle's files are the
result: where Prefect's server cannot be reached at the end, the model card is not shown, and the training is done.
"""

from typing import cast

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from flows import flow_runs
from flows.artifacts import if_possible
from flows.failures import EXPECTED
from pipeline.counting import counted
from pipeline.events import Events
from pipeline.markdown import code
from pipeline.printable import printable
from pipeline.training.evaluating import Evaluation
from pipeline.training.phases import Training
from pipeline.training.recipe import Recipe
from pipeline.training.workspace import CARD


class _LoggedEvents(Events):
    """Sentences in the log of the flow run that it is made in."""

    def __init__(self) -> None:
        self._log = get_run_logger()

    def message(self, text: str) -> None:
        """See `Events`."""
        self._log.info(printable(text))


@flow(name="train-classifier", flow_run_name=flow_runs.named_after("output"), validate_parameters=False)
def train_classifier(labelled: str, output: str, recipe: Recipe = Recipe(), fresh: bool = False) -> Evaluation | None:
    """Train a network on labelled images and write it as a bundle.

    Args:
        labelled: A folder per class, or a CSV or Parquet table of path and label.
        output: The bundle folder to make.
        recipe: How to train; everything has a default.
        fresh: Abandon an unfinished training, and replace a finished bundle.
    """
    flow_runs.log_sentences()
    try:
        flow_runs.check_parameters({"labelled": labelled, "output": output}, recipe)
        chosen = Recipe.of(**(recipe if isinstance(recipe, dict) else recipe.model_dump()))
        training = Training(labelled, output, chosen, events=_LoggedEvents(), fresh=fresh)
        if_possible(flow_runs.tag, chosen.weights or chosen.architecture or "plain", chosen.device)
        with training.held():
            read(training)
            if training.is_done():
                return flow_runs.completed(f"Nothing to do: {output} is trained already.", None)
            fit(training)
            found = evaluate(training)
            publish(training)
        return flow_runs.completed(_did(output, found), found)
    except EXPECTED as error:
        return cast(Evaluation, flow_runs.failed(error))


def _did(output: str, found: Evaluation | None) -> str:
    if found is None:
        return f"Bundle {output}: no images were held out."
    return f"Bundle {output}: accuracy {found.accuracy:.3f} on {counted(found.images, 'image')}."


@task(cache_policy=NO_CACHE)
def read(training: Training) -> None:
    """Read every labelled image once and cut the splits."""
    training.read()


@task(cache_policy=NO_CACHE)
def fit(training: Training) -> None:
    """Train or continue; fit the temperature."""
    training.fit()


@task(cache_policy=NO_CACHE)
def evaluate(training: Training) -> Evaluation | None:
    """Find the figures on the held-out split."""
    return training.test()


@task(cache_policy=NO_CACHE)
def publish(training: Training) -> None:
    """Give the bundle its name; show its card as an artifact."""
    bundle = training.publish()
    card = (bundle / CARD).read_text(encoding="utf-8").split("---\n", 2)[-1]
    if_possible(create_markdown_artifact, card, key="model-card", description=f"Bundle {code(str(bundle))}")
