"""Key `representations`: what is measured of hidden states besides alignment."""

from __future__ import annotations

from typing import Any

from align_pipeline.errors import unknown

REPRESENTATIONS = {
    "cosine": ("cosine", "cosine_centred"),
    "mexa": ("mexa", "mexa_centred", "margin", "margin_centred"),
    "cka": ("cka",),
    "retrieval": ("retrieval_en_xx", "retrieval_xx_en", "csls_en_xx", "csls_xx_en"),
    "hubness": ("hubness_en_xx", "hubness_xx_en"),
    "anisotropy": ("anisotropy", "anisotropy_english"),
    "neighbours": ("neighbours",),
    "neurons": ("neurons", "neurons_absolute"),
    "ilo": ("ilo",),
    "neuronxa": ("neuronxa", "neuron_overlap"),
}
"""What can be asked for, with the names in the table; see `measurements.representations.measures`."""


def representation_list(given: Any) -> list[str]:
    """The names that were asked for, in the order of `REPRESENTATIONS`.

    Args:
        given: ``all``, a name or a list of names.

    Raises:
        InputError: a name does not exist; says which ones do.
    """
    names = [str(name) for name in (given if isinstance(given, list) else [given])]
    for name in names:
        if name not in REPRESENTATIONS and name != "all":
            raise unknown("measure of representations", name, [*REPRESENTATIONS, "all"])
    return [name for name in REPRESENTATIONS if name in names or "all" in names]
