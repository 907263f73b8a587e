"""How good reconstructed pictures are, by published definitions, and whether they are what they seem."""

from __future__ import annotations

from .attributes import Attributes, Reader, agreement, read_attributes
from .captions import caption_cosine, evaluate_captions, meteor, rouge
from .comparison import correlation_distance
from .features import PictureFeatures, picture_correlations
from .guards import effective_dimension, hold_out_categories, nearest_training_pictures, nearest_training_rows
from .measures import Measure, Resampling, difference
from .networks import PUBLISHED_NETWORKS, PublishedNetwork, load_network
from .pictures import PictureEvaluation, evaluate_pictures
from .pixels import pix_corr, ssim
from .pool_retrieval import cosine_similarities, retrieval
from .published import published_scores
from .two_way_identification import two_way
from .weights import fetch_network

__all__ = [
    "PUBLISHED_NETWORKS",
    "Attributes",
    "Measure",
    "PictureEvaluation",
    "PictureFeatures",
    "PublishedNetwork",
    "Reader",
    "Resampling",
    "agreement",
    "caption_cosine",
    "correlation_distance",
    "cosine_similarities",
    "difference",
    "effective_dimension",
    "evaluate_captions",
    "evaluate_pictures",
    "fetch_network",
    "hold_out_categories",
    "load_network",
    "meteor",
    "nearest_training_pictures",
    "nearest_training_rows",
    "picture_correlations",
    "pix_corr",
    "published_scores",
    "read_attributes",
    "retrieval",
    "rouge",
    "ssim",
    "two_way",
]
