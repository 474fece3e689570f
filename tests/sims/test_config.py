"""What a user types becomes exactly the config's value, or a message that says what would."""

import dataclasses
import math
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sims.config import ConfigError, as_text, describe, override


@dataclasses.dataclass(frozen=True)
class Config:
    seeds: int = 8
    gain: float = 1.0
    whiten: bool = False
    name: str = "digits"
    data: str | None = None
    width: int | None = None
    spacing: Literal["linear", "log"] = "linear"
    depths: tuple[int, ...] = (2, 3)
    gains: tuple[float, ...] = (1.0,)
    labels: tuple[str, ...] = ("a",)
    size: tuple[int, float] = (1, 0.5)

    def __post_init__(self):
        if self.seeds < 1:
            raise ValueError(f"seeds must be >= 1, got {self.seeds}")


integers = st.integers(-(2**62), 2**62)
numbers = st.floats(allow_nan=False)
configs = st.builds(
    Config,
    seeds=st.integers(1, 2**62),
    gain=numbers,
    whiten=st.booleans(),
    name=st.text(),
    data=st.none() | st.text().filter(lambda text: text.strip().lower() not in ("none", "null")),
    width=st.none() | integers,
    spacing=st.sampled_from(["linear", "log"]),
    depths=st.lists(integers, max_size=4).map(tuple),
    gains=st.lists(numbers, max_size=4).map(tuple),
    labels=st.lists(st.text(), max_size=4).map(tuple),
    size=st.tuples(integers, numbers),
)


@given(configs)
def test_what_describe_says_override_reads_back_exactly(config):
    texts = {field.name: field.default for field in describe(config)}
    assert repr(override(Config(), texts)) == repr(config)  # repr: -0.0 is not 0.0, 1 is not 1.0


@given(st.text())
def test_any_text_gives_a_value_of_the_right_type_or_a_config_error(text):
    for field, kind in [("seeds", int), ("gain", float), ("whiten", bool), ("depths", tuple)]:
        try:
            value = getattr(override(Config(), {field: text}), field)
        except ConfigError:
            continue
        assert type(value) is kind


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("seeds", " 16 ", 16),
        ("seeds", "1e3", 1000),
        ("gain", "1", 1.0),
        ("gain", "1e-3", 1e-3),
        ("gain", "inf", math.inf),
        ("gain", "-Infinity", -math.inf),
        ("whiten", "TRUE", True),
        ("whiten", "0", False),
        ("name", " kept as typed ", " kept as typed "),
        ("data", "None", None),
        ("data", "a/path.npz", "a/path.npz"),
        ("width", "null", None),
        ("width", "7", 7),
        ("spacing", "log", "log"),
        ("depths", "1,2,3", (1, 2, 3)),
        ("depths", "(1, 2, 3)", (1, 2, 3)),
        ("depths", "[1, 2, 3]", (1, 2, 3)),
        ("depths", "5", (5,)),
        ("depths", "5,", (5,)),
        ("depths", "", ()),
        ("gains", "[1, inf]", (1.0, math.inf)),
        ("labels", "x, y", ("x", "y")),
        ("labels", '["a,b", " c"]', ("a,b", " c")),
        ("size", "4, 1", (4, 1.0)),
    ],
)
def test_the_ways_to_write_a_value(field, text, value):
    changed = override(Config(), {field: text})
    assert repr(getattr(changed, field)) == repr(value)
    assert dataclasses.replace(changed, **{field: getattr(Config(), field)}) == Config()


@pytest.mark.parametrize(
    ("field", "text", "expected"),
    [
        ("seeds", "many", "seeds must be int, got 'many'"),
        ("seeds", "1.5", "seeds must be int"),
        ("seeds", "", "seeds must be int"),
        ("seeds", "nan", "seeds must be int"),
        ("seeds", "none", "seeds must be int"),
        ("gain", "nan", "gain must be float, got 'nan'"),
        ("gain", "1e999", "gain must be float"),
        ("whiten", "2", "whiten must be bool"),
        ("width", "x", r"width must be int \| None"),
        ("spacing", "cubic", r"spacing must be Literal\['linear', 'log'\]"),
        ("depths", "1,x", r"depths must be tuple\[int, \.\.\.\], got '1,x'"),
        ("gains", "1,nan", r"gains must be tuple\[float, \.\.\.\]"),
        ("size", "1", r"size must be tuple\[int, float\]"),
    ],
)
def test_a_bad_value_says_what_was_expected_and_lists_the_fields(field, text, expected):
    with pytest.raises(ConfigError, match=expected) as caught:
        override(Config(), {field: text})
    for row in describe(Config()):
        assert f"{row.name} " in str(caught.value)
        assert row.type in str(caught.value)


def test_an_unknown_field_suggests_the_nearest_and_lists_all():
    with pytest.raises(ConfigError) as caught:
        override(Config(), {"sede": "3"})
    message = str(caught.value)
    assert "Config has no field 'sede'; did you mean 'seeds'?" in message
    assert [line.split()[0] for line in message.splitlines()[2:]] == [
        field.name for field in dataclasses.fields(Config)
    ]
    with pytest.raises(ConfigError) as caught:
        override(Config(), {"zzzzzz": "3"})
    assert "did you mean" not in str(caught.value)


def test_the_configs_own_checks_speak_for_themselves():
    with pytest.raises(ConfigError, match=r"^seeds must be >= 1, got 0$"):
        override(Config(), {"seeds": "0"})


def test_texts_of_values():
    assert [as_text(x) for x in (None, True, 3, 1e22, (), (1, 2.5), ("a",))] == [
        *("none", "true", "3", "1e+22", "[]", "1,2.5", '["a"]')
    ]
