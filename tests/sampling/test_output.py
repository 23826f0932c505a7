"""What restoring returns: whose trouble is told of whom."""

import torch

from sspir.sampling.output import REPAIRED, RestorationOutput


def output(*values: float, repaired: bool = False, warnings: list[str] | None = None) -> RestorationOutput:
    images = torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    told = [*(warnings or []), *([REPAIRED] if repaired else [])]
    return RestorationOutput(images, [], [f"{value}" for value in values], told, [0] if repaired else [])


def test_only_the_photo_that_was_repaired_is_told_of_it() -> None:
    parts = [output(0.2, 0.0, warnings=["in tiles"]), output(0.1, repaired=True)]
    whole = RestorationOutput.joined(parts, [2, 0, 1])
    assert whole.captions == ["0.0", "0.1", "0.2"]
    assert whole.repaired == [1]
    told = [["in tiles"], ["in tiles", REPAIRED], ["in tiles"]]
    assert [whole.warnings_of(place) for place in range(3)] == told
    singles = [whole[place] for place in range(3)]
    assert [(single.warnings, single.repaired) for single in singles] == [(told[0], []), (told[1], [0]), (told[2], [])]
    listed = RestorationOutput.listed(singles, "pt")
    assert (listed.warnings, listed.repaired) == (["in tiles", REPAIRED], [1])
