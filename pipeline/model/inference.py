"""How a network is run over images: chosen once, and stored in a run's plan."""

from pydantic import BaseModel, ConfigDict

from pipeline.images.batching import batch_size
from pipeline.images.decoders import make_decoder
from pipeline.job import Options
from pipeline.model import engines, precision
from pipeline.model.bundle import Bundle
from pipeline.model.engine import EngineSpec
from pipeline.model.fingerprint import top_k_of
from pipeline.model.precision import CascadeSettings


class Inference(BaseModel):
    """The passes with their engine, and the batch shape: part of the plan, so that a resumed run answers the same."""

    model_config = ConfigDict(frozen=True)

    cascade: CascadeSettings
    features: bool
    batch_size: int
    top_k: int

    @classmethod
    def choose(cls, bundle: Bundle, options: Options, device: str, file_bytes: int = 0) -> "Inference":
        """What suits a network, the options, and a device; `file_bytes` is the mean size of the images' files.

        Raises `RequestError`.
        """
        cascade = precision.cascade_settings(options, engines.choose(options.engine, device), device)
        decoder = make_decoder(cascade.first.decoder, bundle.preprocessing, options)
        return cls(
            cascade=cascade,
            features=options.embeddings,
            batch_size=batch_size(decoder, device == "cuda", file_bytes),
            top_k=top_k_of(options, bundle),
        )

    @property
    def engine_specs(self) -> tuple[EngineSpec, ...]:
        """How the engines are built, that of the first pass first."""
        return self.cascade.engine_specs(features=self.features)

    def prepare(self, bundle: Bundle) -> None:
        """Do once what every worker would do again: see `engines.prepare`."""
        for spec in self.engine_specs:
            engines.prepare(bundle, spec)
