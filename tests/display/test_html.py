"""Elements and tables, in which every text is escaped."""

from __future__ import annotations

from gpu_backprop.display.html import Html, join, table, tag


def test_texts_are_escaped_and_elements_are_not():
    assert (
        tag("p", "1 < 2 & ", tag("b", "x"), class_="a\"'b") == '<p class="a&quot;&#x27;b">1 &lt; 2 &amp; <b>x</b></p>'
    )
    assert join(["<", Html("<i></i>"), 3]) == "&lt;<i></i>3"


def test_hidden_characters_are_shown():
    assert tag("p", "a\u202eb\x1b[2J") == "<p>a\\u202eb\\x1b[2J</p>"


def test_attributes_are_named_as_in_html():
    assert tag("line", text_anchor="end", class_="grid") == '<line text-anchor="end" class="grid"></line>'


def test_a_table_has_texts_left_and_numbers_right():
    made = table([("a<", 1), ("b", tag("td", "own"))], ("name", "rows"))
    assert made == (
        '<div class="wide"><table><thead><tr><th class="text">name</th><th class="number">rows</th></tr></thead><tbody>'
        '<tr><td class="text">a&lt;</td><td class="number">1</td></tr><tr><td class="text">b</td><td>own</td></tr>'
        "</tbody></table></div>"
    )
