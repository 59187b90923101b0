"""Names that nobody chose."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np

from weighbridge.store.layout import clean_name, create_run
from weighbridge.store.names import new_name


def test_a_name_is_date_time_and_two_words_and_a_folder_everywhere() -> None:
    names = {new_name() for _ in range(100)}
    assert len(names) > 90
    for name in names:
        assert re.fullmatch(r"\d{8}-\d{6}-[a-z]+-[a-z]+", name)
        assert clean_name(name) == name


def test_making_a_name_moves_no_seeded_generator(tmp_path: Path) -> None:
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist()
    create_run(tmp_path, None, {})
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
