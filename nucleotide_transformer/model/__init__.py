"""The network: embedding, blocks and heads as Haiku modules, and pure functions of them."""

from nucleotide_transformer.model.encoder import Outputs as Outputs
from nucleotide_transformer.model.encoder import count_parameters as count_parameters
from nucleotide_transformer.model.encoder import exact_products as exact_products
from nucleotide_transformer.model.encoder import init_params as init_params
from nucleotide_transformer.model.encoder import make_forward as make_forward
