"""The texts of the console, by language and key; they stand in `texts.toml`."""

import tomllib
from pathlib import Path

_BY_KEY = tomllib.loads(Path(__file__).with_name("texts.toml").read_text("utf-8"))
TEXTS: dict[str, dict[str, str]] = {
    language: {key: text[language] for key, text in _BY_KEY.items()} for language in ("pl", "en")
}
KEYS = _BY_KEY.keys()
