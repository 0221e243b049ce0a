"""The decoders by name: which one a run uses is in its plan."""

from pipeline.images.decoding import DecoderName, ExactDecoder
from pipeline.images.fast_decoding import FastDecoder
from pipeline.images.gpu_decoding import GpuDecoder
from pipeline.images.preprocessing import Preprocessing
from pipeline.job import Options

DECODERS: dict[DecoderName, type[ExactDecoder]] = {
    decoder.name: decoder for decoder in (ExactDecoder, FastDecoder, GpuDecoder)
}


def make_decoder(name: DecoderName, preprocessing: Preprocessing, options: Options) -> ExactDecoder:
    """The decoder of this name for one network, with the limits that a user chose."""
    return DECODERS[name](preprocessing, options.max_pixels, options.strict)
