"""One model served on this machine: a page for people and HTTP for programs, one restoration at a time."""
