"""Weights of the published networks on this machine, by the name of their score: find, fetch and verify them."""

from __future__ import annotations

from dataclasses import replace

from encoders.features.uris import unknown_name
from encoders.features.weights import WeightsStatus, check_hash, fetch, fetch_url, verify, weights_status
from recordings.errors import MissingWeightsError
from recordings.events import OnEvent, Stop, report

from .networks import PUBLISHED_NETWORKS, PublishedNetwork


def is_network(name: str) -> bool:
    """Whether a published network has this name."""
    return name in PUBLISHED_NETWORKS


def network_status(name: str) -> WeightsStatus:
    """Whether the weights of a published network are here; nothing is downloaded or hashed.

    Raises
    ------
    UnknownNameError : no such network.
    """
    network = _find(name)
    if network.url is None:
        return replace(weights_status(network.architecture), uri=name)
    present = network.path.exists()
    files = {network.path.name: {"bytes": network.path.stat().st_size}} if present else {}
    return WeightsStatus(name, present, network.url, str(network.path.parent), files=files)


def fetch_network(name: str, on_event: OnEvent | None = None, stop: Stop | None = None) -> WeightsStatus:
    """Download the weights of a published network to where `load_network` finds them, then `verify_network`.

    Raises
    ------
    UnknownNameError : no such network. MissingWeightsError : they cannot be fetched.
    """
    network = _find(name)
    if network.url is None:
        return replace(fetch(network.architecture, on_event, stop), uri=name)
    report(on_event, stop, "fetch", 0, 1, uri=name)
    fetch_url(network.url, name)
    status = verify_network(name)
    report(on_event, None, "fetch", 1, 1, uri=name)
    return status


def verify_network(name: str, on_event: OnEvent | None = None, stop: Stop | None = None) -> WeightsStatus:
    """Hash the weights of a published network and compare with the hash in their address, if there is one.

    Raises
    ------
    UnknownNameError : no such network. MissingWeightsError : nothing to verify. ArtifactError : the file is damaged.
    """
    network, status = _find(name), network_status(name)
    if network.url is None:
        return replace(verify(network.architecture, on_event, stop), uri=name)
    if not status.present:
        raise MissingWeightsError(
            f"the weights of {name} are not on this machine",
            where=network.path.parent,
            remedy=f'Fetch them with `penfield models fetch "{name}"`',
        )
    report(on_event, stop, "verify", 0, 1)
    digest, matches = check_hash(network.path, name)
    status.files[network.path.name] |= {"sha256": digest, "matches_origin": matches}
    report(on_event, None, "verify", 1, 1)
    return status


def _find(name: str) -> PublishedNetwork:
    if name not in PUBLISHED_NETWORKS:
        raise unknown_name("published network", name, PUBLISHED_NETWORKS)
    return PUBLISHED_NETWORKS[name]
