"""Which languages there are, what they are called, and in which scripts they are written.

The codes are those of the bundled identification model (fastText lid.176),
which are ISO 639-1 where there is one. Data only, and looking a code up.
"""

from __future__ import annotations

import difflib

NAMES = {
    "af": "Afrikaans", "am": "Amharic", "ar": "Arabic", "as": "Assamese", "az": "Azerbaijani",
    "ba": "Bashkir", "be": "Belarusian", "bg": "Bulgarian", "bn": "Bengali", "bo": "Tibetan",
    "br": "Breton", "bs": "Bosnian", "ca": "Catalan", "ce": "Chechen", "ceb": "Cebuano",
    "ckb": "Central Kurdish", "co": "Corsican", "cs": "Czech", "cv": "Chuvash", "cy": "Welsh",
    "da": "Danish", "de": "German", "dv": "Divehi", "el": "Greek", "en": "English",
    "eo": "Esperanto", "es": "Spanish", "et": "Estonian", "eu": "Basque", "fa": "Persian",
    "fi": "Finnish", "fr": "French", "fy": "Frisian", "ga": "Irish", "gd": "Scottish Gaelic",
    "gl": "Galician", "gn": "Guarani", "gu": "Gujarati", "he": "Hebrew", "hi": "Hindi",
    "hr": "Croatian", "ht": "Haitian Creole", "hu": "Hungarian", "hy": "Armenian",
    "id": "Indonesian", "is": "Icelandic", "it": "Italian", "ja": "Japanese", "jv": "Javanese",
    "ka": "Georgian", "kk": "Kazakh", "km": "Khmer", "kn": "Kannada", "ko": "Korean",
    "ku": "Kurdish", "ky": "Kyrgyz", "la": "Latin", "lb": "Luxembourgish", "lo": "Lao",
    "lt": "Lithuanian", "lv": "Latvian", "mg": "Malagasy", "mk": "Macedonian", "ml": "Malayalam",
    "mn": "Mongolian", "mr": "Marathi", "ms": "Malay", "mt": "Maltese", "my": "Burmese",
    "ne": "Nepali", "nl": "Dutch", "no": "Norwegian", "oc": "Occitan", "or": "Odia",
    "pa": "Punjabi", "pl": "Polish", "ps": "Pashto", "pt": "Portuguese", "qu": "Quechua",
    "ro": "Romanian", "ru": "Russian", "sa": "Sanskrit", "sd": "Sindhi", "sh": "Serbo-Croatian",
    "si": "Sinhala", "sk": "Slovak", "sl": "Slovenian", "so": "Somali", "sq": "Albanian",
    "sr": "Serbian", "su": "Sundanese", "sv": "Swedish", "sw": "Swahili", "ta": "Tamil",
    "te": "Telugu", "tg": "Tajik", "th": "Thai", "tk": "Turkmen", "tl": "Tagalog",
    "tr": "Turkish", "tt": "Tatar", "ug": "Uyghur", "uk": "Ukrainian", "ur": "Urdu",
    "uz": "Uzbek", "vi": "Vietnamese", "yi": "Yiddish", "yo": "Yoruba", "zh": "Chinese",
}  # fmt: skip
"""The languages a reward can expect."""

_WRITTEN_IN = {
    "Cyrillic": "ru uk be bg mk sr kk ky mn tg tt ba cv ce os av lez mhr mrj myv kv krc tyv sah "
    "xal bxr rue",
    "Arabic": "ar fa ur ps ckb sd ug mzn lrc",
    "Devanagari": "hi mr ne sa bh mai new gom",
    "Bengali": "bn as bpy",
    "Hebrew": "he yi",
    "Georgian": "ka xmf",
    "CJK": "zh ja",
    "Greek": "el", "Armenian": "hy", "Ethiopic": "am", "Thai": "th", "Lao": "lo", "Khmer": "km",
    "Myanmar": "my", "Tibetan": "bo", "Thaana": "dv", "Gujarati": "gu", "Gurmukhi": "pa",
    "Tamil": "ta", "Telugu": "te", "Kannada": "kn", "Malayalam": "ml", "Sinhala": "si",
    "Oriya": "or", "Hangul": "ko",
}  # fmt: skip
LANGUAGES_OF = {script: frozenset(codes.split()) for script, codes in _WRITTEN_IN.items()}
"""Script -> the languages written in it; every other language is written in Latin letters."""

_ALSO_LATIN = {"sr", "uz", "az", "ku"}
_NOT_LATIN = frozenset().union(*LANGUAGES_OF.values()) - _ALSO_LATIN

FOLDED = {
    "als": "de", "bar": "de", "pfl": "de", "arz": "ar", "pnb": "pa", "azb": "az", "nn": "no",
    "nb": "no", "wuu": "zh", "yue": "zh", "lmo": "it", "pms": "it", "scn": "it", "nap": "it",
    "vec": "it", "eml": "it", "ast": "es", "an": "es", "cbk": "es", "dty": "ne", "vls": "nl",
    "li": "nl", "sco": "en", "mwl": "pt", "frr": "fy", "hif": "hi", "wa": "fr", "min": "id",
    "fil": "tl", "in": "id", "iw": "he", "cmn": "zh",
}  # fmt: skip
"""Varieties the model tells apart (and some older codes), as the language they are counted as."""

KIN = {
    "sr": frozenset({"sr", "sh", "hr", "bs"}),
    "hr": frozenset({"hr", "sh", "bs", "sr"}),
    "bs": frozenset({"bs", "sh", "hr", "sr"}),
    "sh": frozenset({"sh", "hr", "bs", "sr"}),
}
"""Languages that cannot be told apart in one script, so either counts as the other."""

RARE = frozenset(
    [
        "ia",
        "ie",
        "io",
        "vo",
        "jbo",
        "la",
        "eo",
        "kw",
        "gv",
        "nah",
        "bcl",
        "pam",
        "ilo",
        "war",
        "ceb",
        "co",
        "rm",
        "sc",
        "diq",
        "nds",
        "als",
    ]
)
"""What the model sees in short texts far more often than anybody writes it."""

_BY_NAME = {name.lower(): code for code, name in NAMES.items()}


def written_in(language: str, script: str) -> bool:
    """Whether a language is written in a script."""
    if script == "Latin":
        return language not in _NOT_LATIN
    return language in LANGUAGES_OF.get(script, ())


def name(code: str) -> str:
    """`German`, or the code itself where it has no name here."""
    return NAMES.get(code, code)


def find(text: str) -> str | None:
    """The code that `de`, `DE`, `de-AT`, `zh_Hans` or `German` stand for; None for none."""
    plain = text.strip().lower()
    code = plain.replace("_", "-").split("-", 1)[0]
    code = FOLDED.get(code, code)
    return code if code in NAMES else _BY_NAME.get(plain)


def nearest(text: str) -> str | None:
    """A code or name that looks like a mistyped one."""
    near = difflib.get_close_matches(text.strip().lower(), [*NAMES, *_BY_NAME], n=1)
    return near[0] if near else None
