"""The networks that tracing, pruning and counting are tested on: real architectures, and oddities of our own."""

from tests.zoo.case import Case, Network
from tests.zoo.families import hugging_face, oddities, timm_models, vision

NETWORKS: dict[str, Network] = {
    one.name: one for one in (*vision.NETWORKS, *timm_models.NETWORKS, *hugging_face.NETWORKS, *oddities.NETWORKS)
}

__all__ = ["NETWORKS", "Case", "Network"]
