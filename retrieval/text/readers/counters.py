"""Numbers as word processors write them before paragraphs."""

from __future__ import annotations

_HAN = "〇一二三四五六七八九"


def han(number: int) -> str:
    """Up to 9,999: 12 is 十二, 105 is 一百零五."""
    made, zero = "", False
    for unit, name in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit = number // unit % 10
        if digit:
            made += ("零" if zero and made else "") + _HAN[digit] + name
            zero = False
        else:
            zero = bool(made)
    return made.removeprefix("一") if 10 <= number < 20 else made


def roman(number: int) -> str:
    """In small letters: 4 is iv. Beyond 3,999 in digits, as browsers have it."""
    if number > 3999:
        return str(number)
    table = ((1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l"), (40, "xl"),
             (10, "x"), (9, "ix"), (5, "v"), (4, "iv"), (1, "i"))  # fmt: skip
    made = ""
    for value, name in table:
        made += name * (number // value)
        number %= value
    return made


def letters(number: int) -> str:
    """In small letters: 2 is b, 28 is bb. Beyond 780 (thirty letters, the most that Word writes) in digits."""
    if number > 780:
        return str(number)
    return chr(97 + (number - 1) % 26) * ((number - 1) // 26 + 1)
