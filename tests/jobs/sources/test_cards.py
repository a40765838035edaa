"""Character cards: what is read of them, what is refused, and with which words."""

import base64
import io
import json
import struct
import zipfile
import zlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from persona_jobs.api.persona import MAX_EXAMPLES, MAX_MESSAGE_CHARACTERS, MAX_TURNS, Dialogue
from persona_jobs.errors import CardError
from persona_jobs.sources import cards
from persona_jobs.sources.access import SourceAccess
from persona_jobs.sources.cards import containers
from support.cards import TEXT, card, charx, chunk, json_bytes, png, text_chunk
from support.fake_hub import COMMIT, FakeHub


def read(data, user="you"):
    return cards.parse(data if isinstance(data, bytes) else json_bytes(data), user=user)


def said(persona):
    return [[(turn.query, turn.answer) for turn in each.turns] for each in persona.examples]


# What is read


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("container", ["json", "tEXt", "zTXt", "iTXt", "charx"])
def test_a_card_in_any_container_is_the_same_persona(version, container):
    document = card(version)
    keyword = {2: b"chara", 3: b"ccv3"}[version]
    data = {
        "json": lambda: b"\xef\xbb\xbf" + json_bytes(document),
        "charx": lambda: charx(document, **{"assets/icon.png": png()}),
    }.get(container, lambda: png(text_chunk(document, container.encode(), keyword)))()
    persona = read(data)
    assert persona.name == "Elias Marlowe"
    assert persona.text == TEXT
    assert said(persona) == [
        [
            ("Do you ever sleep?", "Sleep, sailor? *laughs*\nThe sea does not."),
            ("And rum?", "Gone since Tuesday."),
        ],
        [("Where to?", "Where the tide goes, you.")],
    ]


def test_a_card_of_version_1_has_its_fields_at_the_top():
    fields = {name: card()["data"][name] for name in ("name", "description", "mes_example")}
    persona = read(fields)
    assert persona.text == (
        "You are Elias Marlowe.\n\nElias Marlowe is a weathered captain. He calls you sailor."
    )
    assert len(persona.examples) == 2


def test_the_newer_of_two_cards_in_an_image_counts():
    old, new = card(2, name="Old"), card(3, name="New")
    both = png(text_chunk(old, keyword=b"chara"), text_chunk(new, keyword=b"ccv3"))
    assert read(both).name == "New"


def test_a_card_in_a_data_set_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    hub = FakeHub()
    try:
        hub.models["org/cards"] = {"sea/captain.png": IMAGE}
        access = SourceAccess(endpoint=hub.endpoint, token="hf_own")
        where = {"user": "you", "cache_dir": tmp_path, "access": access}
        assert cards.load("hf://org/cards/sea/captain.png", COMMIT, **where).text == TEXT
        assert hub.tokens == {"Bearer hf_own"}
        with pytest.raises(CardError, match=r"data set org/cards has no file sea/none\.png"):
            cards.load("hf://org/cards/sea/none.png", COMMIT, **where)
        with pytest.raises(CardError, match="names no file"):
            cards.load("hf://org/cards", COMMIT, **where)
    finally:
        hub.stop()


def test_other_schemes_are_refused_with_those_that_work():
    with pytest.raises(
        CardError, match="Download the card, or use file://, s3://, hf:// or pkg://"
    ):
        cards.load("https://cards.example/captain.png", user="you")


def test_macros_are_names_and_nothing_else_is_evaluated():
    text = (
        "{{CHAR}} <USER> {{user}} <bot> {{// a secret}}{{original}} {{ 7*7 }} {{roll:d6}} {{#if x}}"
    )
    persona = read(card(3, nickname="Eli", description=text, system_prompt=""), user="sailor")
    assert "Eli sailor sailor Eli  {{ 7*7 }} {{roll:d6}}" in persona.text
    assert persona.text.startswith("You are Eli.")
    assert persona.name == "Elias Marlowe"
    assert any("{{roll:d6}}, {{#if x}}" in note for note in persona.notes)
    # What replaces a macro is no macro again.
    assert "{{char}}" in read(card(name="{{user}}", description="{{user}}"), "{{char}}").text


def test_what_is_not_used_is_said():
    notes = "\n".join(read(card()).notes)
    assert "The card's lorebook (1 entry) is not used" in notes
    assert "Of the card 2 greetings are not used" in notes
    nothing = read(card(first_mes="", alternate_greetings=None, character_book=None))
    assert nothing.notes == ()
    assert "never shown" not in read(card()).text.casefold()


@pytest.mark.parametrize(
    ("text", "expected", "unused"),
    [
        ("", [], 0),
        ("{{user}}: Hi\n{{char}}: Ho", [[("Hi", "Ho")]], 0),
        ("<start>\nYou: Hi\nElias Marlowe: Ho\n\n<START>", [[("Hi", "Ho")]], 0),
        ("{{char}}: Ho", [], 1),
        ("{{user}}: Hi", [], 1),
        ("{{user}}:\n{{char}}: Ho", [], 1),
        ("A tale.\n{{user}}: Hi\n{{char}}: Ho", [[("Hi", "Ho")]], 1),
        ("{{user}}: A\n{{user}}: B?\n{{char}}: Me.\n{{char}}: I.", [[("A\nB?", "Me.\nI.")]], 0),
        ("{{user}}: At 5: here\n{{char}}: Note: no", [[("At 5: here", "Note: no")]], 0),
        (
            "{{user}}: a\n{{char}}: b\n<START>\n{{user}}: c\n{{char}}: d",
            [[("a", "b")], [("c", "d")]],
            0,
        ),
    ],
)  # fmt: skip
def test_example_dialogues(text, expected, unused):
    persona = read(card(mes_example=text))
    assert said(persona) == expected
    found = [note for note in persona.notes if "example dialogues" in note]
    assert len(found) == bool(unused)
    assert all(f"dialogues {unused} message is not used" in note for note in found)


def test_dialogues_stay_within_the_bounds_of_the_spec():
    many = "<START>\n{{user}}: a\n{{char}}: b\n" * (MAX_EXAMPLES + 1)
    long = "{{user}}: a\n{{char}}: b\n" * (MAX_TURNS + 1)
    huge = "{{user}}: a\n{{char}}: " + "b" * (MAX_MESSAGE_CHARACTERS + 1)
    for text, count in ((many, MAX_EXAMPLES), (huge, 0)):
        persona = read(card(mes_example=text))
        assert len(persona.examples) == count
        assert any("1 turn is not used: too long or too many" in note for note in persona.notes)
    turns = read(card(mes_example=long)).examples[0].turns
    assert len(turns) == MAX_TURNS


# What is refused


def damaged(data, position):
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


IMAGE = png(text_chunk(card()))
DEEP = b'{"spec": "chara_card_v2", "data": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"


def bomb():
    return zlib.compress(b"A" * (containers._MAX_TEXT_BYTES + 2))


def archive(*entries, compression=zipfile.ZIP_DEFLATED):
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", compression) as made:
        for name, content in entries:
            made.writestr(name, content)
    return target.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "The file or the card in it is empty"),
        (b"\xef\xbb\xbf \n", "The file or the card in it is empty"),
        (b"You are a pirate.", "neither a PNG image, a charx archive nor a JSON object in UTF-8"),
        (b"RIFF$\0\0\0WEBPVP8 ", "neither a PNG image, a charx archive nor a JSON object"),
        (json.dumps(card()).encode("utf-16"), "neither a PNG image, a charx archive nor a JSON"),
        (b"\xff\xd8\xff\xe0 a photo", "neither a PNG image, a charx archive nor a JSON object in"),
        (b"{\n'name': 1}", "JSON is malformed in line 2"),
        (b"[]", "JSON is not an object"),
        (b"{}", "no character card: it has neither a spec nor a name and a description"),
        (DEEP, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a number that is too long"),
        (card(9), "spec is 'chara_card_v9', which is none of chara_card_v2, chara_card_v3"),
        ({"data": {}}, "spec is missing"),
        ({"spec": "chara_card_v2"}, "field data is not an object"),
        (card(name=None), "field data.name is missing"),
        (card(name=" "), "field data.name is empty"),
        (card(name="a" * 101), "field data.name has 101 characters; it may have 100"),
        (card(name="a\nb"), "field data.name has the control character U+000A at position 1"),
        (card(description=7), "field data.description is not a text"),
        (card(description="a\x00b"), "data.description has the control character U+0000 at pos"),
        (card(scenario="a\x1b[31m"), "data.scenario has the control character U+001B"),
        (card(mes_example="\ud800"), "data.mes_example has the control character U+D800"),
        (card(system_prompt="a" * 65_537), "data.system_prompt has 65,537 characters; it may"),
        (card(description="a" * 40_000), "text of the card has 40,118 characters; it may have"),
        (png(), "The image holds no character card"),
        (IMAGE[:-20], "The image is truncated"),
        (IMAGE[:60], "The image is truncated"),
        (damaged(IMAGE, 100), "checksum of its chunk at byte 33 is wrong"),
        (png(chunk(b"tEXt", b"chara\0e30", checksum=1)), "checksum of its chunk at byte 33"),
        (IMAGE[:33] + b"\xff\xff\xff\xff" + IMAGE[37:], "The image is truncated"),
        (png(chunk(b"tEXt", b"chara\0***")), "is not base64"),
        (png(chunk(b"tEXt", b"chara")), "The file or the card in it is empty"),
        (png(chunk(b"zTXt", b"chara\0\1abc")), "compressed by an unknown method"),
        (png(chunk(b"zTXt", b"chara\0\0abc")), "can't be decompressed"),
        (png(chunk(b"zTXt", b"chara\0\0" + zlib.compress(b"e30=")[:-4])), "can't be decompressed"),
        (png(chunk(b"zTXt", b"chara\0\0" + bomb())), "text in the image has 16,777,217 bytes or"),
        (png(chunk(b"iTXt", b"chara\0\1\0\0\0" + bomb())), "has 16,777,217 bytes or more"),
        (archive(("other.json", b"{}")), "The archive holds no card.json"),
        (archive(("assets/card.json", b"{}")), "The archive holds no card.json"),
        (archive(("card.json", b"x" * 9_000_000)), "card.json of the archive has 9,000,000 bytes"),
        (archive(("card.json", b"{}"), compression=zipfile.ZIP_LZMA), "by an unusual method"),
        (charx(card())[:-30], "The archive is damaged"),
        (damaged(charx(card()), 200), "The archive is damaged"),
    ],
)  # fmt: skip
def test_a_bad_card_is_refused_with_one_sentence(data, message):
    with pytest.raises(CardError) as raised:
        read(data)
    assert message in raised.value.message
    assert raised.value.hint
    assert "\n" not in raised.value.message


def test_too_large_a_file_is_not_looked_into(monkeypatch):
    monkeypatch.setattr(containers, "MAX_FILE_BYTES", 100)
    with pytest.raises(CardError, match="The file has 101 bytes or more; a card may have 100"):
        read(b"{" * 101)


def test_an_encrypted_archive_is_refused():
    data = bytearray(charx(card()))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    with pytest.raises(CardError, match="encrypted"):
        read(bytes(data))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_cards_in_an_archive_are_refused():
    document = json_bytes(card())
    with pytest.raises(CardError, match=r"holds 2 card\.json"):
        read(archive(("card.json", document), ("card.json", document)))


def test_an_archive_that_lies_about_its_size_is_read_no_further():
    """The directory says 5 bytes, the content is 20 MB."""
    data = bytearray(archive(("card.json", b" " * 20_000_000)))
    at = data.index(b"PK\x01\x02") + 24
    data[at : at + 4] = struct.pack("<I", 5)
    with pytest.raises(CardError, match="damaged"):
        read(bytes(data))


def test_nothing_of_an_archive_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hostile = {"../../escaped.txt": b"x", "/tmp/escaped.txt": b"x", "card.json/../x": b"x"}
    assert read(charx(card(), **hostile)).name == "Elias Marlowe"
    assert list(tmp_path.iterdir()) == []


# Nothing but a CardError

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def outcome(data):
    """Read a card; whatever is accepted holds what a spec may hold."""
    try:
        persona = read(data)
    except CardError as error:
        assert error.message and "\n" not in error.message
        return
    assert persona.text.strip()
    assert all(Dialogue.model_validate(each.model_dump()) for each in persona.examples)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
@example(b"\x89PNG\r\n\x1a\n")
@example(b"PK\x03\x04")
def test_any_bytes(data):
    for prefix in (b"", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04", IMAGE[:60]):
        outcome(prefix + data)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["png", "zTXt", "charx"]), st.data())
def test_a_good_card_with_some_bytes_changed(container, data):
    good = {"png": IMAGE, "zTXt": png(text_chunk(card(), b"zTXt")), "charx": charx(card())}
    changed = bytearray(good[container])
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    outcome(bytes(changed[: data.draw(st.integers(0, len(changed)))]))
    outcome(bytes(changed))


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(card()["data"])), ANY_JSON), st.data())
def test_any_values_of_the_fields(fields, data):
    document = card(**{name: value for name, value in fields.items() if value is not None})
    if data.draw(st.booleans()):
        document[data.draw(st.sampled_from(["spec", "data", "spec_version"]))] = data.draw(ANY_JSON)
    outcome(json.dumps(document).encode())


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from("{}<>/ \n:ausercharSTART*x\u2028"), max_size=200))
def test_any_dialogues_and_macros(text):
    outcome(card(mes_example=text, description=text))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_text_in_a_chunk(text):
    for kind in (b"tEXt", b"zTXt", b"iTXt"):
        outcome(png(chunk(kind, b"chara\0" + text)))
        outcome(png(chunk(kind, b"chara\0" + base64.b64encode(text))))
