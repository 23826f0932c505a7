"""Other people's restorers, by one word: networks in ncnn's format, and all that spandrel reads."""

from sspir.peers.base import Peer, restored
from sspir.peers.find import find_peer, find_peers, means_peer
from sspir.peers.ncnn import NcnnPeer
from sspir.peers.spandrel import SpandrelPeer

__all__ = ["NcnnPeer", "Peer", "SpandrelPeer", "find_peer", "find_peers", "means_peer", "restored"]
