"""The network: an encoder and its heads as Haiku modules, and pure functions of them."""

from nucleotide_transformer.model.forward import Outputs as Outputs
from nucleotide_transformer.model.forward import count_parameters as count_parameters
from nucleotide_transformer.model.forward import exact_products as exact_products
from nucleotide_transformer.model.forward import init_params as init_params
from nucleotide_transformer.model.forward import make_forward as make_forward
