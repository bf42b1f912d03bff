"""RDEIC's compression networks at the paper's scale with the control network, and their file."""

from __future__ import annotations

from pathlib import Path

from cdcodec.families.rdeic.config import FAMILY
from cdcodec.families.rdeic.paper import PAPER, PAPER_TINY, PaperCompression, PaperConfig
from cdcodec.latent import paper_file, paper_network
from cdcodec.latent.paper_export import codebook_walk
from cdcodec.latent.paper_network import PaperSizes
from cdcodec.latent.walk import LatentWalk
from cdcodec.nn.stable_diffusion_config import TINY, TINY_CONTROL

SIZES = PaperSizes(PAPER)
TINY_SIZES = PaperSizes(PAPER_TINY, TINY_CONTROL, TINY)


class PaperNetwork(paper_network.PaperNetwork[PaperCompression]):
    """See latent.paper_network; the hint is the guide features."""

    def __init__(self, sizes: PaperSizes[PaperConfig] = SIZES) -> None:
        compression = PaperCompression(sizes.compression)
        super().__init__(compression, sizes.compression.width, sizes)

    def walk(self) -> LatentWalk:
        """See latent.paper_network."""
        parts = self.compression
        return codebook_walk(parts.codebook.vectors, parts.h_s, parts.context)


def read(path: Path) -> PaperNetwork:
    """Read a weight file.

    Raises:
        WeightsError: If names or shapes aren't those of its configuration.
    """
    return paper_file.read(path, FAMILY, PaperConfig, PaperNetwork)
