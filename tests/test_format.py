"""Oracle: section "Numbers" of the design of the pages, written out here as pairs."""

import doctest
import math

import pytest

from weighbridge import format as plain


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(plain).failed == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (1.0, "1.00"),
        (0.001, "0.00100"),
        (0.0009999, "0.00100"),
        (0.000994, "9.94×10⁻⁴"),
        (99_999.4, "1.00×10⁵"),
        (99_912.0, "99,912"),
        (9.996, "10.0"),
        (-12_345.6, "−12,346"),
        (4.7e-11, "4.70×10⁻¹¹"),
        (1e-45, "1.00×10⁻⁴⁵"),
        (-3.4e38, "−3.40×10³⁸"),
        (math.inf, "+Inf"),
        (-math.inf, "−Inf"),
        (math.nan, "NaN"),
        (None, "·"),
    ],
)
def test_numbers_have_three_significant_digits(value: float | None, text: str) -> None:
    assert plain.number(value) == text


def test_metrics_have_four_digits_and_shares_are_in_per_cent() -> None:
    assert plain.metric(0.69314) == "0.6931"
    assert [plain.share(x) for x in (0, 0.0004, 0.037, 1.0)] == ["0 %", "<0.1 %", "3.7 %", "100 %"]
    assert plain.factor(23.4) == "×23"


def test_sizes_are_in_mebibytes_where_that_can_be_read() -> None:
    assert [plain.size(n) for n in (12, 2048, 5 * 2**20, 3 * 2**30)] == ["12 bytes", "2.0 KiB", "5.0 MiB", "3.0 GiB"]


def test_what_was_not_recorded_is_neither_zero_nor_nan_in_a_sparkline() -> None:
    assert plain.sparkline([None, 0.0, math.nan, 1.0], "log") == "·0×▅"


def test_a_series_that_hardly_moves_looks_flat() -> None:
    assert (
        set(plain.sparkline([1.0, 1.0001, 0.9999] * 4, "log")) == {"▄", "▅"}
        or len(set(plain.sparkline([1.0, 1.0001, 0.9999] * 4, "log"))) == 1
    )


@pytest.mark.parametrize("nasty", ["\x1b[31mred", "a\rb", "a\nb", "‮gnp", "a​b", "\x9b31m", "a\ud800b"])
def test_control_characters_are_spelled_out(nasty: str) -> None:
    shown = plain.visible(nasty)
    assert "\\" in shown
    assert all(c.isprintable() for c in shown)


def test_markup_and_letters_of_any_language_stay_as_they_are() -> None:
    assert plain.visible("[red] größe 層 <img onerror>") == "[red] größe 層 <img onerror>"


def test_a_long_name_keeps_its_end() -> None:
    assert plain.cut_middle("transformer.h.11.attn.c_attn.weight", 20) == "transf…c_attn.weight"
    assert len(plain.cut_middle("x" * 100, 12)) == 12
