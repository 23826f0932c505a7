"""Other people's restorers, by one word: networks in ncnn's format, and all that spandrel reads."""

from sspir.peers.base import Peer, restored
from sspir.peers.find import find_peer, find_peers, means_peer
from sspir.peers.ncnn import NcnnPeer
from sspir.peers.spandrel import SpandrelPeer
from sspir.peers.teacher import Teacher

__all__ = ["NcnnPeer", "Peer", "SpandrelPeer", "Teacher", "find_peer", "find_peers", "means_peer", "restored"]
